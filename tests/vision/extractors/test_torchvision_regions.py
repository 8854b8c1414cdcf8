import functools
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torchvision.models import detection
from torchvision.ops import box_iou

from glied import checkpoint as checkpoints
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.config import parse
from glied.errors import StorageError, UsageError
from glied.regions import Regions
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.small_detector import Detector, save_detector
from glied.vision.extractors.torchvision_regions import TorchvisionRegions
from tests.stores import StoredRegions
from tests.vision.extractors.regions_config import regions_config
from tests.vision.scenes import TINY


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(0)
    detector = Detector(
        TINY, classes=["tower", "car"], attributes={"color": ["red", "green"], "size": ["big"]}
    )
    with torch.no_grad():  # an untrained predictor gives similar scores to all classes; these weights do not
        detector.roi_heads.box_predictor.cls_score.weight.normal_(std=1.0)
    folder = str(tmp_path_factory.mktemp("detector"))
    save_detector(detector, folder)
    return folder


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_same(one: Regions, other: Regions) -> None:
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
    np.testing.assert_allclose(one.features, other.features, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert one.labels == other.labels
    assert one.attributes == other.attributes
    assert (one.width, one.height) == (other.width, other.height)


def test_regions_of_the_demo_detector(checkpoint):
    extractor = load_extractor(regions_config(checkpoint=checkpoint, min_regions=3, max_regions=8))
    found = extractor([photo(120, 80), photo(70, 90, seed=1)])
    assert [(image.width, image.height) for image in found] == [(120, 80), (70, 90)]
    for image in found:
        count = len(image.scores)
        assert 3 <= count <= 8
        assert image.features.shape == (count, extractor.feature_size)
        assert image.features.dtype == image.boxes.dtype == image.scores.dtype == np.float32
        assert (np.diff(image.scores) <= 0).all()
        assert (image.boxes[:, 2:] > image.boxes[:, :2]).all()
        assert (image.boxes >= 0).all()
        assert image.boxes[:, 2].max() <= image.width
        assert image.boxes[:, 3].max() <= image.height
        assert set(image.labels) <= {"tower", "car"}
        assert {word for words in image.attributes for word in words} <= {"red", "green", "big"}


def test_an_image_does_not_depend_on_its_batch(checkpoint):
    extractor = load_extractor(regions_config(checkpoint=checkpoint))
    sizes = [(120, 80), (80, 120), (96, 64), (400, 90), (118, 80), (64, 64)]
    images = [photo(*size, seed=seed) for seed, size in enumerate(sizes)]
    together = extractor(images)
    for image, found in zip(images, together, strict=True):
        assert_same(extractor([image])[0], found)
    for found, again in zip(together, reversed(extractor(images[::-1])), strict=True):
        assert_same(found, again)


def test_coarser_canvases_hold_more_images_and_change_no_region(checkpoint, monkeypatch):
    extractor = load_extractor(regions_config(checkpoint=checkpoint, canvas_step=64))
    images = [photo(*size, seed=seed) for seed, size in enumerate([(96, 64), (88, 64), (80, 64), (64, 90)])]
    batches = []
    forward = extractor.model.backbone.forward
    monkeypatch.setattr(
        extractor.model.backbone, "forward", lambda batch: batches.append(batch.shape) or forward(batch)
    )
    together = extractor(images)
    assert batches == [(3, 3, 64, 128), (1, 3, 128, 64)]
    for image, found in zip(images, together, strict=True):
        assert_same(extractor([image])[0], found)


def test_resolution_by_config(checkpoint):
    extractor = load_extractor(regions_config(checkpoint=checkpoint, short_side=32, long_side=40))
    assert extractor.resolution == (32, 40)
    assert extractor._resize(photo(100, 50)).shape == (3, 20, 40)
    assert extractor._resize(photo(50, 60)).shape == (3, 38, 32)
    assert load_extractor(regions_config(checkpoint=checkpoint)).resolution == (64, 96)


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_regions(checkpoint, monkeypatch):
    """torch.compile captures it for varying sizes; torch's default backend is not tested here."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain = load_extractor(regions_config(checkpoint=checkpoint))
    compiled = load_extractor(regions_config(checkpoint=checkpoint, compile=True))
    assert compiled.fingerprint == plain.fingerprint
    for image in (photo(96, 64), photo(70, 90, seed=1)):
        assert_same(compiled([image])[0], plain([image])[0])


def test_fixed_number(checkpoint):
    extractor = load_extractor(
        regions_config(checkpoint=checkpoint, min_regions=5, max_regions=5, threshold=1.0)
    )
    assert [len(image.scores) for image in extractor([photo(100, 70), photo(70, 100)])] == [5, 5]


def test_threshold_is_lowered_only_as_far_as_needed(checkpoint):
    every = load_extractor(regions_config(checkpoint=checkpoint, threshold=0.0))([photo(100, 70)])[0]
    threshold = float(every.scores[2])
    some = load_extractor(regions_config(checkpoint=checkpoint, min_regions=1, threshold=threshold))(
        [photo(100, 70)]
    )[0]
    assert len(some.scores) == 3
    few = load_extractor(regions_config(checkpoint=checkpoint, min_regions=4, threshold=threshold))(
        [photo(100, 70)]
    )[0]
    assert len(few.scores) == 4


def test_duplicates_are_suppressed_across_classes(checkpoint):
    config = regions_config(checkpoint=checkpoint, threshold=0.0, overlap=0.3)
    boxes = torch.from_numpy(load_extractor(config)([photo(96, 64)])[0].boxes)
    assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.31


def test_whole_image_if_nothing_is_detected(checkpoint):
    extractor = load_extractor(regions_config(checkpoint=checkpoint))
    assert isinstance(extractor, TorchvisionRegions)
    extractor.model.rpn.score_thresh = 1.0  # no proposal is accepted
    found = extractor([photo(100, 70)])[0]
    np.testing.assert_allclose(found.boxes, [[0, 0, 100, 70]], atol=1e-4)
    assert found.scores.tolist() == [0]
    assert found.labels == ["background"]
    assert found.attributes == [[]]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (500, 2)])
def test_extreme_sizes(checkpoint, size):
    found = load_extractor(regions_config(checkpoint=checkpoint))([photo(*size)])[0]
    assert len(found.scores) >= 1
    assert np.isfinite(found.features).all()


def test_no_images(checkpoint):
    assert load_extractor(regions_config(checkpoint=checkpoint))([]) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(checkpoint, dtype):
    plain = load_extractor(regions_config(checkpoint=checkpoint))([photo(96, 64)])[0]
    found = load_extractor(regions_config(checkpoint=checkpoint, dtype=dtype))([photo(96, 64)])[0]
    difference = box_iou(torch.from_numpy(plain.boxes), torch.from_numpy(found.boxes)).amax(1)
    assert difference[0] > 0.9  # the best region is the same
    assert found.features.dtype == np.float32
    assert np.isfinite(found.features).all()


def test_fingerprint_has_all_relevant_settings(checkpoint):
    def fingerprint(**change):
        return load_extractor(regions_config(checkpoint=checkpoint, **change)).fingerprint

    assert fingerprint() == fingerprint()
    for change in ({"threshold": 0.5}, {"max_regions": 9}, {"overlap": 0.5}, {"dtype": "bfloat16"}):
        assert fingerprint(**change) != fingerprint()


def test_resnet50_by_name(monkeypatch):
    torch.manual_seed(0)
    config = regions_config(model="fasterrcnn_resnet50_fpn_v2", min_regions=2, max_regions=4)
    extractor = load_extractor(config)
    assert isinstance(extractor, TorchvisionRegions)
    monkeypatch.setattr(extractor.model.transform, "min_size", (64,))
    monkeypatch.setattr(extractor.model.transform, "max_size", 64)
    found = extractor([photo(80, 60)])[0]
    assert found.features.shape == (len(found.scores), 1024)
    assert 2 <= len(found.scores) <= 4
    assert extractor.classes[1] == "person"
    assert found.attributes == [[]] * len(found.scores)


def test_a_store_of_photographs_from_the_bulk_job(tmp_path):
    (tmp_path / "in").mkdir()
    for name, size in (("a.jpg", (90, 60)), ("b.jpg", (60, 90))):
        Image.fromarray(photo(*size)).save(tmp_path / "in" / name)
    options = ["--config=configs/extract/photos_tiny.yaml", f"--input.uri={tmp_path / 'in'}"]
    config = parse(ExtractRegionsConfig, [*options, f"--output.uri={tmp_path / 'out'}"])
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 2}
    found = StoredRegions(str(tmp_path / "out" / "features"))["b.jpg"]
    assert (found.width, found.height) == (60, 90)
    assert found.features.shape[1] == 1024


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")

    def fingerprint(file: str):
        return load_extractor(regions_config(model=name, weights=str(tmp_path / file))).fingerprint

    digest = checkpoints.weights_digest(model)
    assert fingerprint("weights.pth")["weights"] == fingerprint("weights.safetensors")["weights"] == digest
    for file in ("broken.pth", "broken.safetensors"):
        with pytest.raises(UsageError, match=f"{file}' do not fit") as caught:
            fingerprint(file)
        assert "\n" not in str(caught.value)


def test_the_error_for_weights_that_cannot_be_downloaded_has_advice(monkeypatch):
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail_to_fetch)
    with pytest.raises(StorageError, match=r"name a local copy of fasterrcnn_mobilenet\S+\.pth in weights"):
        load_extractor(regions_config(model="fasterrcnn_mobilenet_v3_large_320_fpn", weights="COCO_V1"))


def fail_to_fetch(*arguments, **options):
    raise URLError("no route")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no_such_model"}, "no such model"),
        ({"model": "retinanet_resnet50_fpn"}, "no box head"),
        ({"model": "fasterrcnn_mobilenet_v3_large_320_fpn", "weights": "COCO_V9"}, "COCO_V1"),
        ({"checkpoint": str(Path("nowhere") / "at_all")}, "no checkpoint"),
    ],
)
def test_unknown_models_are_one_clear_error(change, message):
    with pytest.raises(UsageError, match=message):
        load_extractor(regions_config(**change))
