"""Cells of timm backbones as regions, with real architectures and random weights."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.config import parse
from glied.data import features
from glied.errors import UsageError
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.timm_cells import TimmCells, save_backbone
from tests.stores import StoredRegions
from tests.vision.extractors.regions_config import regions_config
from tests.vision.extractors.test_torchvision_regions import assert_same, photo


def extractor(model: str = "resnet18", side: int = 96, **change) -> TimmCells:
    torch.manual_seed(0)
    found = load_extractor(regions_config(kind="timm", model=model, short_side=side, **change))
    assert isinstance(found, TimmCells)
    return found


@pytest.mark.parametrize(
    ("model", "side", "cells", "size"),
    [
        ("resnet18", 96, 3, 512),
        ("mobilenetv3_small_050", 96, 3, 288),
        ("tf_efficientnet_lite0", 100, 4, 1280),
        ("vit_tiny_patch16_224", 64, 4, 192),
        ("swin_tiny_patch4_window7_224", 224, 7, 768),
        ("convnext_atto", 64, 2, 320),
    ],
)
def test_any_timm_model(model, side, cells, size):
    found = extractor(model, side)([photo(50, 30)])[0]
    assert found.features.shape == (1 + cells * cells, size)
    assert found.features.dtype == found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels == ["image"] + ["cell"] * cells * cells
    assert (found.width, found.height) == (50, 30)
    np.testing.assert_allclose(found.features[0], found.features[1:].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_a_cell_has_the_features_of_its_box():
    found = extractor()([photo(90, 60)])[0]
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=0).eval()
    cfg = model.pretrained_cfg
    assert cfg["interpolation"] == "bicubic"
    resized = Image.fromarray(photo(90, 60)).resize((96, 96), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        expected = model.forward_features(((pixels - mean) / std)[None])[0]
    np.testing.assert_allclose(found.features[1 + 5], expected[:, 1, 2].numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.boxes[0], [0, 0, 90, 60])
    np.testing.assert_allclose(found.boxes[1 + 5], [60, 20, 90, 40], rtol=1e-6)


def test_a_mark_is_found_in_its_cell():
    """Rows and columns are not confused, for any image shape and both kinds of resizing."""
    for resize in ("squash", "fit"):
        found = extractor("vit_tiny_patch16_224", 128, resize=resize, levels=(0,))
        plain = np.full((64, 256, 3), 255, np.uint8)
        marked = plain.copy()
        marked[40:56, 200:216] = 0
        one, other = found([plain, marked])
        changed = np.abs(one.features - other.features).max(axis=1)[1:].argmax()
        left, top, right, bottom = other.boxes[1 + changed]
        assert left <= 208 <= right, resize
        assert top <= 48 <= bottom, resize


def test_fit_keeps_the_proportions_and_the_number_of_cells():
    found = extractor(side=128, resize="fit")
    wide, tall, square, thin, dot = found(
        [photo(200, 50), photo(50, 200), photo(80, 80), photo(900, 2), photo(1, 1)]
    )
    assert [len(one.boxes) - 1 for one in (wide, tall, square)] == [16, 16, 16]
    assert wide.boxes[1].tolist() == [0, 0, 25, 25]  # 2 x 8 cells
    assert tall.boxes[1].tolist() == [0, 0, 25, 25]
    assert square.boxes[1].tolist() == [0, 0, 20, 20]
    assert len(thin.boxes) - 1 == 16  # at most four times as long as the square
    assert len(dot.boxes) - 1 == 16
    for one in (wide, tall, square, thin, dot):
        area = ((one.boxes[1:, 2:] - one.boxes[1:, :2]).prod(axis=1)).sum()
        assert area == pytest.approx(one.width * one.height, rel=1e-4)


@pytest.mark.parametrize("resize", ["squash", "fit"])
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_other_images_of_a_batch_change_nothing(model, resize):
    found = extractor(model, 64, resize=resize)
    images = [photo(60, 40), photo(33, 90, seed=1), photo(300, 2, seed=2), photo(1, 1, seed=3)]
    images += [photo(60, 40, seed=4 + i) for i in range(17)]  # more than one batch of the same size
    together = found(images)
    for image, own in zip(images, together, strict=True):
        assert_same(found([image])[0], own)
    assert found([]) == []


def scaled(level: np.ndarray) -> np.ndarray:
    return level / np.sqrt((level**2).mean(axis=-1, keepdims=True))


def test_levels_are_concatenated_on_the_cells_of_the_first():
    image = photo(70, 70)
    final, fine = (extractor(side=96, levels=levels)([image])[0] for levels in (("final",), (-2,)))
    both = extractor(side=96, levels=("final", -2))([image])[0]
    assert fine.features.shape == (37, 256)
    assert both.features.shape == (10, 768)
    np.testing.assert_allclose(both.features[1:, :512], scaled(final.features[1:]), rtol=1e-3, atol=1e-4)
    corner = fine.features[1:].reshape(6, 6, 256)[:2, :2].mean(axis=(0, 1))
    np.testing.assert_allclose(both.features[1, 512:], scaled(corner), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(both.features[0], both.features[1:].mean(axis=0), rtol=1e-3, atol=1e-4)
    turned = extractor(side=96, levels=(-2, "final"))([image])[0]
    assert turned.features.shape == (37, 768)
    pooled = extractor(side=96, levels=("final",), cells=1)([image])[0]
    np.testing.assert_allclose(pooled.features[1], final.features[0], rtol=1e-4, atol=1e-5)
    assert len(extractor(side=128, resize="fit", cells=2)([photo(200, 50)])[0].boxes) == 1 + 1 * 4


def test_a_store_of_cells_from_the_bulk_job(photos, tmp_path):
    options = ["--config=configs/extract/photographs_tiny.yaml"]
    config = parse(ExtractRegionsConfig, [*options, f"--input.uri={photos}", f"--output.uri={tmp_path}"])
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 58, "rejected": 2}
    store = StoredRegions(str(tmp_path / "features"))
    turned = store["turned.jpg"]
    assert (turned.width, turned.height) == (40, 60)
    assert turned.features.shape == (5, 288)
    assert turned.boxes[1].tolist() == [0, 0, 20, 30]
    assert store.fingerprint["model"] == "mobilenetv3_small_050"


def test_a_store_of_copies_has_the_same_extractor_and_other_features(photos, tmp_path):
    options = ["--config=configs/extract/photographs_tiny.yaml", f"--input.uri={photos}"]
    stores = []
    for name, copy in (("plain", []), ("one", ["--copy.seed=1"]), ("two", ["--copy.seed=2"])):
        config = parse(ExtractRegionsConfig, [*options, f"--output.uri={tmp_path / name}", *copy])
        torch.manual_seed(0)  # the tiny config has random weights
        job = extract_job(config)
        torch.manual_seed(0)
        assert bulk_run.execute(job, run_here(Fetch(), extract_factory(config).build())).statuses["ok"] == 58
        assert job.fingerprint.get("copy", {}).get("seed") == (config.copy and config.copy.seed)
        stores.append(StoredRegions(str(tmp_path / name)))
    features.check_same_extractor([str(tmp_path / name) for name in ("plain", "one", "two")])
    turned, cut = stores[0]["turned.jpg"], stores[1]["turned.jpg"]
    assert cut.width < turned.width or cut.height < turned.height
    for a, b in ((0, 1), (1, 2)):  # a uniform color looks the same in any copy
        ids = features.image_ids(str(tmp_path / "plain"))
        same = [np.array_equal(stores[a][one].features, stores[b][one].features) for one in ids]
        assert sum(same) < len(ids) / 2


def test_fingerprints_have_all_relevant_settings():
    changes = [
        {},
        {"side": 64},
        {"resize": "fit"},
        {"levels": (-2,)},
        {"cells": 2},
        {"dtype": "bfloat16"},
        {"model": "resnet34"},
    ]
    prints = [str(extractor(**change).fingerprint) for change in changes]
    assert len(set(prints)) == len(changes)
    assert str(extractor(compile=False).fingerprint) == prints[0]
    half = extractor(dtype="bfloat16")([photo(40, 40)])[0]
    np.testing.assert_allclose(half.features, extractor()([photo(40, 40)])[0].features, atol=0.2, rtol=0.2)


def test_weights_from_files_and_checkpoints(tmp_path):
    torch.manual_seed(5)
    model = timm.create_model("resnet18", num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    settings = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "input_size": [3, 96, 96]}
    save_backbone(model, str(tmp_path / "own"), name="resnet18", settings=settings, source={})
    own = load_extractor(regions_config(kind="timm", checkpoint=str(tmp_path / "own")))
    image = photo(96, 96)
    pixels = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = model.forward_features(pixels[None])[0].flatten(1).T
    np.testing.assert_allclose(own([image])[0].features[1:], expected.numpy(), rtol=0.02, atol=0.02)
    loaded = extractor(weights=str(tmp_path / "weights.pth"))
    assert loaded.fingerprint["weights"] != extractor().fingerprint["weights"]
    with torch.no_grad():
        for name, tensor in loaded.trunk.module.model.state_dict().items():
            torch.testing.assert_close(tensor, model.state_dict()[name])
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for change, message in [
        ({"weights": str(tmp_path / "broken.pth")}, "do not fit resnet18"),
        ({"weights": str(tmp_path / "weights.pth"), "model": "resnet50"}, "do not fit resnet50"),
        ({"weights": "in99k"}, "neither a file nor one of .*a1_in1k"),
        ({"model": "resnet19"}, "timm has no such model"),
        ({"levels": (7,)}, "levels 0 to 4"),
        ({"model": "vit_tiny_patch16_224", "side": 50}, "multiples of 16"),
    ]:
        with pytest.raises(UsageError, match=message):
            extractor(**change)
    for broken in ({"levels": ()}, {"cells": -1}):
        with pytest.raises(UsageError, match="must be at least 0"):
            regions_config(kind="timm", model="resnet18", **broken)
    with pytest.raises(UsageError, match="belong to kind timm"):
        regions_config(model="fasterrcnn_resnet50_fpn", cells=3)
