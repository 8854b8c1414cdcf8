import dataclasses

import numpy as np
import pytest
import torch

from glied.config import build
from glied.errors import UsageError
from glied.regions import RegionBatch, Regions
from glied.vision.extractors.config import RegionsConfig
from tests.vision.extractors.regions_config import regions_config


def regions(count: int, *, seed: int = 0) -> Regions:
    random = np.random.default_rng(seed)
    return Regions(
        boxes=random.random((count, 4), dtype=np.float32),
        features=random.random((count, 5), dtype=np.float32) + 1,
        scores=random.random(count, dtype=np.float32),
        labels=["dog"] * count,
        attributes=[["brown"]] * count,
        width=40,
        height=30,
    )


def test_columns_of_different_length_are_refused():
    with pytest.raises(AssertionError):
        dataclasses.replace(regions(3), labels=["dog"])


def test_collate_pads_with_a_mask():
    images = [regions(3, seed=1), regions(1, seed=2)]
    batch = RegionBatch.collate(images)
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.sizes.tolist() == [[40, 30], [40, 30]]
    np.testing.assert_array_equal(batch.features[0], images[0].features)
    np.testing.assert_array_equal(batch.boxes[1, :1], images[1].boxes)
    assert batch.features[1, 1:].abs().sum() == 0


def test_collate_to_a_length_pads_and_truncates():
    batch = RegionBatch.collate([regions(3), regions(1)], length=2)
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert RegionBatch.collate([regions(3)], length=6).mask.sum() == 3


def test_to_moves_every_tensor():
    batch = RegionBatch.collate([regions(2)]).to("meta")
    assert {t.device.type for t in (batch.features, batch.boxes, batch.mask, batch.sizes)} == {"meta"}
    assert batch.mask.dtype == torch.bool


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_regions": 0}, "min_regions"),
        ({"min_regions": 9, "max_regions": 8}, "max_regions"),
        ({"threshold": 1.5}, "threshold"),
        ({"overlap": 0.0}, "overlap"),
        ({"checkpoint": ""}, "either checkpoint"),
        ({"model": "fasterrcnn_resnet50_fpn"}, "either checkpoint"),
        ({"weights": "COCO_V1"}, "weights"),
    ],
)
def test_config_refuses(change, message):
    with pytest.raises(UsageError, match=message):
        regions_config(**{"checkpoint": "somewhere", **change})


def test_keys_of_version_0_1_mean_the_same():
    settings = {"kind": "timm", "model": "resnet18", "max_regions": 8}
    old = {"min_regions": 2, "canvas_step": 64, "resize": "fit", "levels": ["final", -2], "dtype": "bfloat16"}
    config = build(RegionsConfig, settings | old)
    assert config == regions_config(**settings | old | {"levels": ("final", -2)})
    assert config.detector.min_regions == 2
    assert config.timm.resize == "fit"
    assert config.compute.dtype == "bfloat16"
