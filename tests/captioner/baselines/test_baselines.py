"""Properties that LSTM, SoftAtt, Up-Down and CT share with GLIED."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from glied import checkpoint
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.inference import freeze
from glied.captioner.model import CaptionerConfig
from glied.errors import UsageError
from glied.text.vocabulary import BOS, EOS, Vocabulary
from tests.captioner import plain_decoder as plain
from tests.captioner.test_captioner import make_regions
from tests.flat_settings import flat

WORDS = Vocabulary([f"word{i}" for i in range(26)])
PAPER = {"lstm": (11.5, 11.47), "soft_att": (12.1, 12.00), "up_down": (50.1, 50.06), "ct": (27.5, 27.96)}
"""Millions of parameters in the paper's Table 2, and of our models."""
SEARCHES = [
    {"beam_size": 1},
    {"beam_size": 3, "n_best": 3},
    {"beam_size": 5, "n_best": 5, "stop": "exact", "length_penalty": 0.3},
    {"beam_size": 3, "block_ngrams": 2, "min_length": 5},
    {"beam_size": 4, "n_best": 4, "groups": 2},
]


def uneven(inputs):
    """Return images with 6, 3, 0 and 6 regions."""
    regions, ids, mask = inputs
    regions.mask[1, 3:] = False
    regions.mask[2] = False
    return regions, ids, mask


@pytest.mark.parametrize("architecture", PAPER)
def test_parameters_at_the_paper_sizes(architecture):
    paper, ours = PAPER[architecture]
    with torch.device("meta"):
        model = build_model(PAPER_SIZES[architecture], feature_size=2048, vocabulary_size=9488)
    count = sum(parameter.numel() for parameter in set(model.parameters())) / 1e6
    assert count == pytest.approx(ours, abs=0.01)
    assert count == pytest.approx(paper, rel=0.02)


def test_step_equals_teacher_forcing(make_baseline, make_inputs):
    model, inputs = make_baseline(), uneven(make_inputs(batch=4))
    tokens = torch.randint(4, 30, (4, 2, 7))
    memory = model.encode(*inputs)
    expected = model.logits(memory, tokens)
    cache = model.start(4, 2, 7)
    stepped = torch.stack([model.step(memory, tokens[:, :, t], cache) for t in range(7)], dim=2)
    torch.testing.assert_close(stepped, expected, atol=1e-5, rtol=1e-5)
    assert expected.isfinite().all()
    where = torch.arange(7) < torch.randint(1, 8, (4, 2, 1))
    torch.testing.assert_close(model(*inputs, tokens, where), expected[where])
    torch.testing.assert_close(model(*inputs, tokens[:, 1]), expected[:, 1], atol=1e-5, rtol=1e-5)


def test_later_words_change_nothing(make_baseline, make_inputs):
    model, inputs = make_baseline(), make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    changed = tokens.clone()
    changed[:, 4:] = 5
    before, after = model(*inputs, tokens), model(*inputs, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any()


def test_padding_and_attributes_change_nothing(make_baseline, make_inputs):
    model = make_baseline()
    regions, ids, mask = make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    expected = model(regions, ids, mask, tokens)
    result = model(plain.padded(regions), ids[:, :0], mask[:, :0], tokens)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    result.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_every_region_counts(make_baseline, make_inputs):
    model = make_baseline()
    regions, ids, mask = make_inputs(batch=1)
    tokens = torch.randint(4, 30, (1, 7))
    before = model(regions, ids, mask, tokens)
    for region in range(6):
        features = regions.features.clone()
        features[0, region] = 0.5
        after = model(dataclasses.replace(regions, features=features), ids, mask, tokens)
        assert (after - before).abs().max() > 1e-4


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_decoding_equals_the_plain_decoder(make_baseline, make_inputs, options):
    model = make_baseline(vocabulary_size=12, sharp=3.0)
    inputs = uneven(make_inputs(batch=4, vocabulary_size=12))
    config = flat(DecodingConfig, **{"max_length": 8} | options)
    found = decode(model, model.encode(*inputs), config)
    for row in range(4):
        expected = plain.beam_search(model, inputs, row, config)
        assert [one.tokens for one in found[row]] == [one.tokens for one in expected]
        for one in found[row]:
            again = plain.recompute(model, inputs, row, one.tokens, one.finished)
            assert one.log_probability == pytest.approx(again, abs=1e-4)


def test_samples_equal_the_plain_sampler(make_baseline, make_inputs):
    model = make_baseline(vocabulary_size=12, sharp=2.0)
    inputs = uneven(make_inputs(batch=3, vocabulary_size=12))
    config = flat(DecodingConfig, method="sample", n_best=3, max_length=7, top_k=6)
    found = decode(model, model.encode(*inputs), config, seeds=[7, 8, 9])
    for row, seed in enumerate((7, 8, 9)):
        expected = plain.sample(model, inputs, row, config, seed)
        assert [one.tokens for one in found[row]] == [one.tokens for one in expected]


def test_beam_1_is_greedy(make_baseline, make_inputs):
    model, inputs = make_baseline(sharp=3.0), make_inputs(batch=5)
    memory = model.encode(*inputs)
    found = decode(model, memory, DecodingConfig(beam_size=1, max_length=8, min_length=0))
    assert [list(one.tokens) for (one,) in found] == plain.greedy(model, memory, 5, 8)


def test_independent_of_batch_and_order(make_baseline, make_inputs):
    model = make_baseline(sharp=6.0, vocabulary_size=9)
    regions, ids, mask = uneven(make_inputs(batch=6, vocabulary_size=9))
    config = DecodingConfig(beam_size=3, n_best=3, max_length=9)

    def words(rows):
        part = dataclasses.replace(
            regions,
            features=regions.features[rows],
            boxes=regions.boxes[rows],
            mask=regions.mask[rows],
            sizes=regions.sizes[rows],
        )
        memory = model.encode(part, ids[rows], mask[rows])
        return [[one.tokens for one in captions] for captions in decode(model, memory, config)]

    together = words([0, 1, 2, 3, 4, 5])
    assert words([5, 4, 3, 2, 1, 0]) == together[::-1]
    assert [words([row])[0] for row in range(6)] == together
    assert len({len(captions[0]) for captions in together}) > 1  # images leave the batch at different times


def test_a_frozen_model_gives_the_same_logits(make_baseline, make_inputs):
    model, inputs = make_baseline(), make_inputs()
    tokens = torch.randint(4, 30, (3, 2, 7))
    with torch.inference_mode():
        torch.testing.assert_close(
            freeze(model)(*inputs, tokens), model(*inputs, tokens), atol=1e-5, rtol=1e-5
        )


def test_bfloat16(make_baseline, make_inputs):
    model, inputs = make_baseline(sharp=2.0), make_inputs(batch=3)
    half = freeze(make_baseline(sharp=2.0).to(torch.bfloat16))
    config = DecodingConfig(beam_size=3, max_length=6)
    for row, (one,) in enumerate(decode(half, half.encode(*inputs), config)):
        exact = plain.recompute(model, inputs, row, one.tokens, one.finished)
        assert one.log_probability == pytest.approx(exact, rel=0.03, abs=0.3)


def test_learns_captions_by_heart(make_baseline, make_inputs):
    torch.manual_seed(0)
    model, inputs = make_baseline(dropout=0.0).train(), make_inputs(batch=3)
    tokens = torch.tensor([[BOS, 5, 6, 7, EOS], [BOS, 8, 6, 9, EOS], [BOS, 8, 7, 5, EOS]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = F.cross_entropy(model(*inputs, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = decode(model.eval(), model.encode(*inputs), DecodingConfig(beam_size=2, max_length=6))
    assert [list(one[0].tokens) for one in found] == [row[1:-1] for row in tokens.tolist()]


def test_a_saved_and_loaded_captioner_gives_the_same_captions(make_baseline, tmp_path):
    captioner = Captioner(make_baseline(sharp=3.0), WORDS)
    regions, attributes = [make_regions(count, count) for count in (5, 1)], [[("word3", 0.9)], []]
    captioner.save(str(tmp_path))
    loaded = Captioner.load(str(tmp_path))
    assert loaded.caption(regions, attributes) == captioner.caption(regions, attributes)
    architecture = captioner.model.config.architecture
    assert checkpoint.load(str(tmp_path)).metadata["config"]["architecture"] == architecture
    assert type(loaded.model) is type(captioner.model)


def test_explains_its_attention_or_reports_that_it_has_none(make_baseline):
    captioner = Captioner(make_baseline(sharp=3.0), WORDS, decoding=DecodingConfig(max_length=5))
    regions = make_regions(5, 0)
    best = captioner.caption([regions], [[]])[0][0]
    if captioner.model.config.architecture == "lstm":
        with pytest.raises(UsageError, match="lstm has no attention"):
            captioner.explain(regions, [], best.text)
        return
    found = captioner.explain(regions, [("word3", 0.9)], best.text)
    heads = 4 if captioner.model.config.architecture == "ct" else 1
    assert found.regions_global.shape == (len(found.words), heads, 5)
    assert found.regions_global.sum(axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert found.attributes_local is found.attributes_global is found.groupings is None
    counted = found.log_probabilities[: 5 if len(found.words) == 5 else None]
    assert counted.sum() == pytest.approx(best.log_probability, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"architecture": "lstm", "heads": 4}, "heads: belongs to architecture base, glied, ct"),
        ({"architecture": "lstm", "attention_width": 8}, "attention_width"),
        ({"architecture": "soft_att", "embedding_width": 300, "tied": True}, "tied"),
        ({"architecture": "soft_att", "attention_width": 0}, "attention_width"),
        ({"architecture": "up_down", "no_pivot": True}, "no_pivot"),
        ({"architecture": "up_down", "layers": 2}, "layers"),
        ({"architecture": "ct", "layers": 0}, "layers"),
        ({"architecture": "ct", "width": 30}, "width"),
        ({"embedding_width": 300}, "embedding_width"),
        ({"architecture": "lstm", "embedding_width": -1}, "embedding_width"),
    ],
)
def test_config_refuses(options, key):
    with pytest.raises(UsageError, match=key):
        flat(CaptionerConfig, **options)
