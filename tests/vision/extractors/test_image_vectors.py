"""Vectors of a CLIP from the pass that finds the regions."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from glied.clip.model import build_clip
from glied.clip.scorer import ClipScorer
from glied.vision.extractors.image_vectors import WithImageVectors, reads_the_same
from glied.vision.extractors.timm_cells import TimmCells, settings_of
from tests.vision.extractors.regions_config import regions_config
from tests.vision.extractors.test_torchvision_regions import assert_same, photo

NAME, SIDE = "tf_efficientnet_lite0", 96
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=0).eval()


def extractor(backbone: nn.Module, **change) -> TimmCells:
    config = regions_config(kind="timm", model=NAME, **{"short_side": SIDE, **change})
    model = timm.create_model(NAME, num_classes=0)
    model.load_state_dict(backbone.state_dict())
    return TimmCells(model, config, name=NAME, settings=settings_of(model), digest="")


def scorer(backbone: nn.Module, *, size: int = SIDE, pool: str = "avg", **preprocess) -> ClipScorer:
    """A CLIP on the backbone."""
    vision = {"timm_model_name": NAME, "image_size": size, "timm_pool": pool, "timm_proj": "linear"}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}
    settings = settings_of(backbone)
    own = {key: settings[key] for key in ("mean", "std", "interpolation")} | {"resize_mode": "squash"}
    torch.manual_seed(1)
    model = build_clip(config, preprocess=own | preprocess)
    model.visual.trunk.load_state_dict(backbone.state_dict())
    return ClipScorer(model, config)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [photo(50, 30), photo(96, 96, seed=1), photo(200, 120, seed=2)]


@pytest.mark.parametrize("levels", [("final",), ("final", -2, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_vectors_equal_those_from_pixels(backbone, pictures, levels, dtype, tolerance):
    plain, clip = extractor(backbone, levels=levels, dtype=dtype), scorer(backbone)
    both = WithImageVectors(plain, clip)
    assert both.shared
    found = both(pictures)
    expected = clip.encode_images(pictures).numpy()
    for one, other, vector in zip(found, plain(pictures), expected, strict=True):
        np.testing.assert_allclose(one.image_vector, vector, atol=tolerance)
        assert_same(one, other)
    assert both([]) == []
    assert (both.feature_size, both.fingerprint) == (plain.feature_size, plain.fingerprint)


@pytest.mark.parametrize(
    ("regions", "clip"),
    [
        ({"resize": "fit"}, {}),
        ({"short_side": 128}, {}),
        ({"levels": (-1, "final")}, {}),
        ({}, {"size": 128}),
        ({}, {"resize_mode": "shortest"}),
        ({}, {"interpolation": "bilinear"}),
        ({}, {"mean": (0.4, 0.4, 0.4)}),
        ({}, {"pool": "max"}),
    ],
)
def test_a_clip_that_reads_other_pixels_or_another_level_reads_them_itself(backbone, pictures, regions, clip):
    plain, other = extractor(backbone, **regions), scorer(backbone, **clip)
    both = WithImageVectors(plain, other)
    assert not both.shared
    expected = other.encode_images(pictures).numpy()
    for one, vector in zip(both(pictures), expected, strict=True):
        np.testing.assert_allclose(one.image_vector, vector, atol=1e-6)
    assert both.resolution[0] == max(plain.resolution[0], other.resolution)


def test_a_clip_with_other_weights_reads_the_pixels_itself(backbone):
    changed = timm.create_model(NAME, num_classes=0)
    changed.load_state_dict(backbone.state_dict())
    assert reads_the_same(extractor(backbone), scorer(changed))
    with torch.no_grad():
        changed.bn2.running_mean[3] += 0.01
    assert not reads_the_same(extractor(backbone), scorer(changed))


def test_regions_of_other_kinds_have_no_pooled_map(backbone):
    class Cells:
        """An extractor of another kind."""

        def __init__(self):
            self.feature_size, self.resolution, self.fingerprint = 16, (SIDE, SIDE), {}

        def __call__(self, images):
            return [replace(one, pooled=None) for one in extractor(backbone)(images)]

    both = WithImageVectors(Cells(), scorer(backbone))
    assert not both.shared
    assert both([photo(50, 30)])[0].image_vector.shape == (16,)
