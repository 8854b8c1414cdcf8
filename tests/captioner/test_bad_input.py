"""Every architecture handles empty inputs, and more beams than words."""

import dataclasses
import math

import pytest
import torch

from glied.captioner.architectures import PAPER_SIZES
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.inference import freeze
from glied.text.vocabulary import Vocabulary
from tests.captioner import plain_decoder as plain
from tests.captioner.test_captioner import make_regions

WORDS = Vocabulary([f"word{i}" for i in range(26)])


@pytest.fixture(params=PAPER_SIZES)
def make_any(request, make_model):
    """Make small models of each architecture with random weights."""
    return lambda **options: make_model(**{"architecture": request.param, "geometry": True, **options})


def first(inputs, regions):
    """Return the first image with only its first `regions` regions."""
    given, ids, mask = inputs
    return (
        dataclasses.replace(
            given,
            features=given.features[:1, :regions],
            boxes=given.boxes[:1, :regions],
            mask=given.mask[:1, :regions],
            sizes=given.sizes[:1],
        ),
        ids[:1],
        mask[:1],
    )


def test_more_beams_than_words_find_every_caption(make_any, make_inputs):
    model, inputs = make_any(vocabulary_size=6), make_inputs(vocabulary_size=6)  # two words and the end token
    config = DecodingConfig(beam_size=20, n_best=20, max_length=2, min_length=0)
    for row, captions in enumerate(decode(model, model.encode(*inputs), config)):
        assert len({one.tokens for one in captions}) == len(captions) == 1 + 2 + 4
        for one in captions:
            again = plain.recompute(model, inputs, row, one.tokens, one.finished)
            assert one.log_probability == pytest.approx(again, abs=1e-4)


def test_no_attributes(make_any):
    """No attributes, only unknown ones, and none beside an image that has some give the same caption."""
    captioner = Captioner(make_any(sharp=3.0), WORDS)
    regions = [make_regions(4, 0), make_regions(6, 1)]
    alone = captioner.caption(regions[:1], [[]])[0][0]
    assert alone.text
    assert math.isfinite(alone.log_probability)
    for beside in (
        captioner.caption(regions[:1], [[("unheard", 0.9)]]),
        captioner.caption(regions, [[], [("word3", 0.9)]]),
    ):
        assert beside[0][0].text == alone.text
        assert beside[0][0].log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_an_image_of_one_region(make_any):
    """Extractors return the whole image with score 0 if they find nothing."""
    captioner = Captioner(make_any(sharp=3.0), WORDS)
    found = make_regions(1, 0)
    found.boxes[:], found.scores[:] = [[0, 0, found.width, found.height]], 0
    alone = captioner.caption([found], [[]])[0][0]
    together = captioner.caption([make_regions(6, 1), found], [[("word3", 0.9)], []])[1][0]
    assert alone.text
    assert together.text == alone.text
    assert together.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_image_without_any_region_is_never_nan(make_any, make_inputs, frozen):
    """No extractor returns such an image; alone, padded or beside others it has the same caption."""
    model, inputs = make_any(sharp=3.0), make_inputs()
    model = freeze(model) if frozen else model
    config = DecodingConfig(max_length=6)

    def caption(given):
        with torch.inference_mode():
            return decode(model, model.encode(*given), config)[0][0]

    alone = caption(first(inputs, 0))
    inputs[0].mask[0] = False
    assert alone.tokens
    for given in (first(inputs, 3), inputs):
        assert caption(given).tokens == alone.tokens
        assert caption(given).log_probability == pytest.approx(alone.log_probability, abs=1e-4)
