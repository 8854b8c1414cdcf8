import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from glied.captioner import decode as engine
from glied.captioner.attention import KeyValues
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import Hypothesis, decode
from glied.captioner.inference import freeze
from glied.captioner.model import ABLATIONS, EncoderOutput
from glied.captioner.search_state import Search
from glied.errors import UsageError
from tests.captioner import plain_decoder as plain
from tests.flat_settings import flat

BLOCKS = [{"blocks": 2}, {"blocks": 2, "shared": True}]
VARIANTS = [{"architecture": "base"}, {}, *({name: True} for name in ABLATIONS), *BLOCKS]
GREEDY, BEAM_3, BEAM_5 = {"beam_size": 1}, {"beam_size": 3, "n_best": 3}, {"beam_size": 5, "n_best": 5}
OPTIONS = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 1.7, "stop": "exact"},
    {"stop": "exact", "length_penalty": 0.3},
    {"block_trigrams": True, "min_length": 9},
    {"block_ngrams": 2, "min_length": 6},
    {"block_ngrams": 1},
    {"min_length": 4},
    {"min_length": 9},
    {"suppress": ("six", "nine")},
]
SUPPRESSED = [6, 9]


def describe(options):
    return "-".join(f"{key}={value}" for key, value in options.items()) or "plain"


def uneven(inputs):
    """Return inputs in which some regions and attributes are padding."""
    regions, ids, mask = inputs
    regions.mask[1, 3:] = False
    mask[2, 1:] = False
    mask[3] = False
    return regions, ids, mask


def both_decoders(model, inputs, config, suppressed=()):
    """Return the captions of the engine and of the plain decoder: (tokens, finished, log p) per image."""
    memory = model.encode(*inputs)
    found, expected = [], []
    for row, captions in enumerate(decode(model, memory, config, suppressed=suppressed)):
        found.append(
            [(one.tokens, one.finished, pytest.approx(one.log_probability, abs=1e-4)) for one in captions]
        )
        plainly = plain.beam_search(model, inputs, row, config, suppressed)
        expected.append(
            [
                (one.tokens, one.finished, plain.recompute(model, inputs, row, one.tokens, one.finished))
                for one in plainly
            ]
        )
    return found, expected


@pytest.mark.parametrize("options", OPTIONS, ids=describe)
@pytest.mark.parametrize("beams", [GREEDY, BEAM_3, BEAM_5], ids=["greedy", "beam3", "beam5"])
@pytest.mark.parametrize("variant", VARIANTS, ids=describe)
def test_equals_the_plain_decoder(make_model, make_inputs, variant, beams, options):
    config = flat(DecodingConfig, **{"max_length": 9} | beams | options)
    model = make_model(vocabulary_size=12, sharp=3.0, geometry=True, **variant)
    inputs = uneven(make_inputs(batch=4, vocabulary_size=12))
    found, expected = both_decoders(model, inputs, config, SUPPRESSED if config.suppress else ())
    assert found == expected


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 4, "n_best": 4, "groups": 2},
        {"beam_size": 6, "n_best": 3, "groups": 3, "diversity": 2.0, "min_length": 3},
        {"beam_size": 3, "n_best": 3, "groups": 3, "stop": "exact", "block_ngrams": 2},
        {"beam_size": 6, "n_best": 4, "groups": 2, "stop": "exact", "length_penalty": 0.5},
        {"beam_size": 40, "n_best": 40, "max_length": 3},
    ],
    ids=describe,
)
def test_groups_and_wide_beams_equal_the_plain_decoder(make_model, make_inputs, options):
    model = make_model(vocabulary_size=12, sharp=3.0)
    inputs = make_inputs(batch=4, vocabulary_size=12)
    found, expected = both_decoders(model, inputs, flat(DecodingConfig, **{"max_length": 7} | options))
    assert found == expected


def test_groups_with_equal_captions_are_searched_further(make_model, make_inputs):
    """Duplicates are dropped, so each group's second caption also counts and must be final."""
    model = make_model(vocabulary_size=9, sharp=4.0)
    inputs = make_inputs(batch=16, vocabulary_size=9)
    options = {"beam_size": 6, "n_best": 2, "groups": 2, "diversity": 0.0, "stop": "exact"}
    config = flat(DecodingConfig, **options, length_penalty=0.0, min_length=0, max_length=8)
    found, expected = both_decoders(model, inputs, config)
    assert found == expected


@pytest.mark.parametrize("options", [GREEDY, BEAM_5, BEAM_5 | {"stop": "exact"}], ids=describe)
def test_a_large_vocabulary_equals_the_plain_decoder(make_model, make_inputs, options):
    """Larger than the blocks of `best_words`, and not a multiple of their size."""
    model = make_model(vocabulary_size=1003, sharp=8.0)
    inputs = make_inputs(batch=4, vocabulary_size=1003)
    found, expected = both_decoders(model, inputs, flat(DecodingConfig, **{"max_length": 6} | options))
    assert found == expected


@pytest.mark.parametrize("stop", ["full", "exact"])
def test_a_wide_beam_equals_exhaustive_search(make_model, make_inputs, stop):
    words, longest = (4, 5, 6), 4
    model, inputs = make_model(vocabulary_size=7, sharp=2.0), make_inputs(batch=2, vocabulary_size=7)
    config = flat(DecodingConfig, beam_size=150, n_best=150, max_length=longest, min_length=0, stop=stop)
    for row, hypotheses in enumerate(decode(model, model.encode(*inputs), config)):
        every = [
            Hypothesis(
                caption, plain.recompute(model, inputs, row, caption, length < longest), length < longest
            )
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
    expected = plain.greedy(model, memory, 5, 10)
    for stop in ("full", "exact"):
        found = decode(
            model, memory, flat(DecodingConfig, beam_size=1, max_length=10, min_length=0, stop=stop)
        )
        assert [list(one.tokens) for (one,) in found] == expected


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 1},
        {"beam_size": 3, "n_best": 3},
        {"beam_size": 4, "n_best": 4, "groups": 2, "stop": "exact"},
        {"method": "sample", "n_best": 4},
    ],
    ids=describe,
)
def test_independent_of_batch_order_and_padding(make_model, make_inputs, options):
    model = make_model(sharp=3.0, geometry=True)
    regions, ids, mask = make_inputs(batch=6)
    regions.mask[2, 3:] = False
    mask[4] = False
    config = flat(DecodingConfig, max_length=9, **options)

    def words(rows, pad=0):
        part = dataclasses.replace(
            regions,
            features=F.pad(regions.features[rows], (0, 0, 0, pad), value=5.0),
            boxes=F.pad(regions.boxes[rows], (0, 0, 0, pad)),
            mask=F.pad(regions.mask[rows], (0, pad)),
            sizes=regions.sizes[rows],
        )
        memory = model.encode(part, F.pad(ids[rows], (0, pad)), F.pad(mask[rows], (0, pad)))
        found = decode(model, memory, config, seeds=[100 + row for row in rows])
        return [[one.tokens for one in hypotheses] for hypotheses in found]

    together = words(range(6))
    assert words([5, 4, 3, 2, 1, 0]) == together[::-1]
    assert [words([row], pad=4)[0] for row in range(6)] == together


@pytest.mark.parametrize("stop", ["full", "exact"])
def test_the_removal_of_finished_images_changes_nothing(make_model, make_inputs, monkeypatch, stop):
    model, inputs = make_model(sharp=6.0, vocabulary_size=9), make_inputs(batch=12, vocabulary_size=9)
    memory, config = model.encode(*inputs), flat(DecodingConfig, beam_size=3, n_best=3, stop=stop)
    expected = decode(model, memory, config)
    assert len({one[0].tokens for one in expected}) > 6
    for steps, share in ((7, 0.0), (1, 0.0), (1, 2.0), (3, 0.5)):
        monkeypatch.setattr(engine, "STEPS_PER_CHECK", {"cpu": steps})
        monkeypatch.setattr(engine, "COMPACTION", share)
        found = decode(model, memory, config)
        assert [[h.tokens for h in one] for one in found] == [[h.tokens for h in one] for one in expected]


def test_exact_stop_is_never_worse(make_model, make_inputs):
    model, inputs = make_model(sharp=4.0), make_inputs(batch=20)
    memory = model.encode(*inputs)
    full, exact = (
        decode(model, memory, flat(DecodingConfig, beam_size=3, min_length=0, stop=stop))
        for stop in ("full", "exact")
    )
    gains = [two.score(1.0) - one.score(1.0) for (one,), (two,) in zip(full, exact, strict=True)]
    assert min(gains) > -1e-6
    assert max(gains) > 0


def test_diverse_groups_differ_more(make_model, make_inputs):
    model, inputs = make_model(sharp=3.0), make_inputs(batch=5)
    memory = model.encode(*inputs)

    def distinct(**options):
        found = decode(model, memory, flat(DecodingConfig, beam_size=6, n_best=3, max_length=8, **options))
        return sum(len({word for one in captions for word in one.tokens}) for captions in found)

    assert distinct(groups=3, diversity=3.0) > distinct()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_blocked_ngrams_do_not_occur(make_model, make_inputs, size):
    model, inputs = make_model(vocabulary_size=24, sharp=6.0), make_inputs(vocabulary_size=24)
    options = {"beam_size": 3, "n_best": 3, "max_length": 16, "min_length": 16}
    memory = model.encode(*inputs)

    def repeats(block):
        found = decode(model, memory, flat(DecodingConfig, **options, block_ngrams=block))
        captions = [one.tokens for hypotheses in found for one in hypotheses]
        count = 17 - size
        return any(len({c[i : i + size] for i in range(count)}) < count for c in captions)

    assert repeats(0)
    assert not repeats(size)


def test_no_caption_if_no_word_is_allowed(make_model, make_inputs):
    model, inputs = make_model(vocabulary_size=6), make_inputs(vocabulary_size=6)
    config = {"max_length": 4, "min_length": 4, "block_ngrams": 1}  # two words that must not be repeated
    for options in ({"beam_size": 1}, {"beam_size": 3}, {"method": "sample", "n_best": 2}):
        found = decode(model, model.encode(*inputs), flat(DecodingConfig, **config, **options))
        assert found == [[], [], []]


def test_uses_the_current_weights(make_model, make_inputs):
    """A model that is not frozen may change between two calls."""
    model, inputs = make_model(sharp=3.0).train(), make_inputs()
    config = DecodingConfig(beam_size=2, max_length=5)
    before = decode(model, model.eval().encode(*inputs), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data.neg_()
    after = decode(model.train(), model.eval().encode(*inputs), config)
    assert before != after
    model.train()
    decode(model, freeze(model).encode(*inputs), config)
    assert model.training


@pytest.mark.parametrize("options", [GREEDY, BEAM_3], ids=describe)
def test_bfloat16(make_model, make_inputs, options):
    model = make_model(sharp=3.0, geometry=True)
    inputs = make_inputs(batch=5)
    half = freeze(make_model(sharp=3.0, geometry=True).to(torch.bfloat16))
    for row, captions in enumerate(
        decode(half, half.encode(*inputs), flat(DecodingConfig, max_length=8, **options))
    ):
        for one in captions:
            exact = plain.recompute(model, inputs, row, one.tokens, one.finished)
            assert one.log_probability == pytest.approx(exact, rel=0.03, abs=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 1},
        {"beam_size": 3, "stop": "exact", "block_ngrams": 2},
        {"beam_size": 4, "groups": 2},
        {"method": "sample", "n_best": 3},
        {"method": "sample", "n_best": 3, "top_p": 0.9, "top_k": 5},
    ],
    ids=describe,
)
@pytest.mark.parametrize("size", [30, 1003])
def test_no_step_reads_a_value_from_the_device(make_model, make_inputs, monkeypatch, options, size):
    """On the meta device there are no values: operations that would wait for a GPU raise."""
    model = make_model(vocabulary_size=size)
    memory = model.encode(*make_inputs())
    sources = {
        name: KeyValues(source.keys.to("meta"), source.values.to("meta"))
        for name, source in memory.sources.items()
    }
    monkeypatch.setattr(Search, "results", lambda search: [])
    config = flat(DecodingConfig, max_length=6, **options)
    with pytest.raises(RuntimeError):  # the check which images are done
        decode(model.to("meta"), EncoderOutput(sources, 3), config)
    monkeypatch.setattr(engine, "STEPS_PER_CHECK", {"meta": 100})
    assert decode(model, EncoderOutput(sources, 3), config) == []


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"beam_size": 0}, "beam_size"),
        ({"n_best": 4}, "n_best"),
        ({"min_length": 30}, "min_length"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"groups": 2}, "groups"),
        ({"block_trigrams": True, "block_ngrams": 2}, "block_ngrams"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
    ],
)
def test_config_refuses(options, key):
    with pytest.raises(UsageError, match=key):
        flat(DecodingConfig, **options)


def test_words_to_suppress_need_their_ids(make_model, make_inputs):
    model = make_model()
    with pytest.raises(UsageError, match="suppress"):
        decode(model, model.encode(*make_inputs()), DecodingConfig(suppress=("dog",)))
