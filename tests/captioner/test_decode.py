import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from glied.captioner.decode import DecodingConfig, Hypothesis, decode
from glied.captioner.vocabulary import BOS, EOS, PAD, UNK
from glied.errors import UsageError


@torch.no_grad()
def recompute(model, inputs, row, words, finished):
    """Log-probability of a caption by teacher forcing, one image at a time."""
    regions, ids, mask = inputs
    one = dataclasses.replace(
        regions, **{f.name: getattr(regions, f.name)[row : row + 1] for f in dataclasses.fields(regions)}
    )
    tokens = [BOS, *words, EOS] if finished else [BOS, *words]
    table = model(one, ids[row : row + 1], mask[row : row + 1], torch.tensor([tokens[:-1]]))[0].log_softmax(
        -1
    )
    return sum(table[t, word].item() for t, word in enumerate(tokens[1:]))


def plain_beam_search(model, inputs, row, config):
    """Beam search without caches, batches or tensors of beams: the reference."""
    beams, found = [((), 0.0)], []
    for length in range(config.max_length):
        candidates = []
        for words, total in beams:
            regions, ids, mask = inputs
            one = dataclasses.replace(
                regions,
                **{f.name: getattr(regions, f.name)[row : row + 1] for f in dataclasses.fields(regions)},
            )
            with torch.no_grad():
                logits = model(one, ids[row : row + 1], mask[row : row + 1], torch.tensor([[BOS, *words]]))
            table = logits[0, -1].log_softmax(-1).tolist()
            trigrams = {words[i : i + 3] for i in range(len(words) - 2)}
            for word, value in enumerate(table):
                if word in (PAD, BOS, UNK) or (word == EOS and length < config.min_length):
                    continue
                if config.block_trigrams and (*words[-2:], word) in trigrams:
                    continue
                candidates.append(((*words, word), total + value))
        candidates.sort(key=lambda one: -one[1])
        for words, total in candidates[: config.beam_size]:
            if words[-1] == EOS and len(found) < config.beam_size:
                found.append(Hypothesis(words[:-1], total))
        if len(found) >= config.beam_size:
            break
        beams = [one for one in candidates if one[0][-1] != EOS][: config.beam_size]
    else:
        found += [Hypothesis(words, total, False) for words, total in beams][: config.beam_size - len(found)]
    found.sort(key=lambda one: -one.score(config.length_penalty))
    return found[: config.n_best]


CASES = [
    {"beam_size": 1},
    {"beam_size": 3, "n_best": 3},
    {"beam_size": 5, "n_best": 2, "length_penalty": 0.0},
    {"beam_size": 4, "n_best": 4, "min_length": 4},
    {"beam_size": 3, "n_best": 3, "block_trigrams": True, "min_length": 10, "max_length": 12},
    {"beam_size": 40, "n_best": 40, "max_length": 3},
]


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("architecture", ["base", "glied"])
def test_equals_the_plain_decoder(make_model, make_inputs, architecture, options):
    config = DecodingConfig(**{"max_length": 8} | options)
    model = make_model(vocabulary_size=12, sharp=3.0, architecture=architecture)
    inputs = make_inputs(batch=6, vocabulary_size=12)
    found = decode(model, model.encode(*inputs), config)
    for row, hypotheses in enumerate(found):
        expected = plain_beam_search(model, inputs, row, config)
        assert [one.tokens for one in hypotheses] == [one.tokens for one in expected]
        for one, other in zip(hypotheses, expected, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
            again = recompute(model, inputs, row, one.tokens, one.finished)
            assert one.log_probability == pytest.approx(again, abs=1e-4)


def test_wide_beam_finds_what_exhaustive_search_finds(make_model, make_inputs):
    words, longest = (4, 5, 6), 4
    model, inputs = make_model(vocabulary_size=7, sharp=2.0), make_inputs(batch=2, vocabulary_size=7)
    config = DecodingConfig(beam_size=150, n_best=150, max_length=longest, min_length=0)
    for row, hypotheses in enumerate(decode(model, model.encode(*inputs), config)):
        every = [
            Hypothesis(caption, recompute(model, inputs, row, caption, length < longest), length < longest)
            for length in range(longest + 1)
            for caption in itertools.product(words, repeat=length)
        ]
        every.sort(key=lambda one: -one.score(1.0))
        assert len(hypotheses) == len(every)
        assert hypotheses[0].tokens == every[0].tokens
        assert {one.tokens for one in hypotheses} == {one.tokens for one in every}


def test_beam_1_is_greedy(make_model, make_inputs):
    model, inputs = make_model(sharp=3.0), make_inputs(batch=5)
    memory = model.encode(*inputs)
    tokens = torch.full((5, 1), BOS)
    for _ in range(10):
        logits = model.logits(memory, tokens)[:, -1]
        logits[:, [PAD, BOS, UNK]] = -math.inf
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    found = decode(model, memory, DecodingConfig(beam_size=1, max_length=10, min_length=0))
    for row, (one,) in enumerate(found):
        words = tokens[row, 1:].tolist()
        assert list(one.tokens) == (words[: words.index(EOS)] if EOS in words else words)


def test_independent_of_batch_order_and_padding(make_model, make_inputs):
    model = make_model(sharp=3.0, geometry=True)
    regions, ids, mask = make_inputs(batch=6)
    regions.mask[2, 3:] = False
    mask[4] = False
    config = DecodingConfig(beam_size=3, n_best=3, max_length=9)
    together = decode(model, model.encode(regions, ids, mask), config)

    def pick(rows, pad=0):
        part = dataclasses.replace(
            regions,
            features=F.pad(regions.features[rows], (0, 0, 0, pad), value=5.0),
            boxes=F.pad(regions.boxes[rows], (0, 0, 0, pad)),
            mask=F.pad(regions.mask[rows], (0, pad)),
            sizes=regions.sizes[rows],
        )
        return decode(
            model, model.encode(part, F.pad(ids[rows], (0, pad)), F.pad(mask[rows], (0, pad))), config
        )

    def words(found):
        return [[one.tokens for one in hypotheses] for hypotheses in found]

    assert words(pick([5, 4, 3, 2, 1, 0])) == words(together)[::-1]
    assert [words(pick([row], pad=4))[0] for row in range(6)] == words(together)


def test_blocked_trigrams_do_not_occur(make_model, make_inputs):
    model, inputs = make_model(vocabulary_size=8, sharp=6.0), make_inputs(vocabulary_size=8)
    options = {"beam_size": 3, "n_best": 3, "max_length": 16, "min_length": 16}
    memory = model.encode(*inputs)

    def repeats(block):
        found = decode(model, memory, DecodingConfig(**options, block_trigrams=block))
        captions = [one.tokens for hypotheses in found for one in hypotheses]
        return any(len({c[i : i + 3] for i in range(14)}) < 14 for c in captions)

    assert repeats(False)
    assert not repeats(True)


def test_more_beams_than_words(make_model, make_inputs):
    model, inputs = make_model(vocabulary_size=6), make_inputs(vocabulary_size=6)
    config = DecodingConfig(beam_size=20, n_best=20, max_length=2, min_length=0)
    for hypotheses in decode(model, model.encode(*inputs), config):
        assert len(hypotheses) == 1 + 2 + 4
        assert all(math.isfinite(one.log_probability) for one in hypotheses)


def test_leaves_the_training_mode_as_it_was(make_model, make_inputs):
    model = make_model().train()
    decode(model, model.encode(*make_inputs()), DecodingConfig())
    assert model.training


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"n_best": 4}, "n_best"),
        ({"min_length": 30}, "min_length"),
        ({"length_penalty": -1.0}, "length_penalty"),
    ],
)
def test_config_refuses(options, key):
    with pytest.raises(UsageError, match=key):
        DecodingConfig(**options)
