"""The detectron2 adapter: its own logic, and, if detectron2 is installed, a comparison with it."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glied import checkpoint
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.config import parse
from glied.errors import UsageError
from glied.vision.extractors import detectron_regions
from glied.vision.extractors.detectron_network import CaffeStem, Resized
from glied.vision.extractors.detectron_regions import DetectronRegions, coco_classes
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.small_detector import AttributeHead
from tests.stores import StoredRegions
from tests.vision.extractors.regions_config import regions_config
from tests.vision.extractors.test_torchvision_regions import assert_same, photo

needs_detectron2 = pytest.mark.skipif(
    importlib.util.find_spec("detectron2") is None,
    reason=f"detectron2 is not here, it is compiled on installation: {detectron_regions.INSTALL}",
)
BOTTOM_UP, C4 = "bottom-up-attention", "COCO-Detection/faster_rcnn_R_101_C4_3x.yaml"


class Boxes(nn.Module):
    """A network with predictable regions: the given boxes, with the mean colors in them as features."""

    pixels, divisor, sides = True, 1, (8, 16)

    def __init__(self, boxes: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes).reshape(-1, 4).float()
        self.detector = nn.Module()
        self.detector.roi_heads = nn.Module()
        self.detector.roi_heads.box_predictor = nn.Module()
        self.detector.roi_heads.box_predictor.cls_score = nn.Linear(3, 4)
        with torch.no_grad():  # red, green, blue, background
            self.detector.roi_heads.box_predictor.cls_score.weight.copy_(torch.eye(4, 3) * 6)
            self.detector.roi_heads.box_predictor.cls_score.bias.zero_()

    settings = type("Settings", (), {"dump": lambda self: "none"})()

    def resize(self, image: np.ndarray) -> Resized:
        pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
        return Resized(F.interpolate(pixels[None], scale_factor=2.0)[0], 2.0, (2.0, 2.0))

    def maps(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"res4": batch}

    def propose(self, maps: dict[str, torch.Tensor], images: Sequence[Resized]) -> list[torch.Tensor]:
        return [self.boxes for _ in images]

    def embed(self, maps: dict[str, torch.Tensor], boxes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for pixels, own in zip(maps["res4"], boxes, strict=True):
            cut = [pixels[:, y1 : y2 + 1, x1 : x2 + 1] for x1, y1, x2, y2 in own.int().tolist()]
            found.append(torch.stack([part.mean(dim=(1, 2)) for part in cut]))
        return found

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        return self.detector.roi_heads.box_predictor.cls_score(features)


def flag() -> np.ndarray:
    """Return an image of 12 x 4 pixels: red at the left, green in the middle, blue at the right."""
    image = np.zeros((4, 12, 3), np.uint8)
    for place in range(3):
        image[:, 4 * place : 4 * place + 4, place] = 255
    return image


def adapter(boxes, *, head: AttributeHead | None = None, **change) -> DetectronRegions:
    settings = {"kind": "detectron2", "model": BOTTOM_UP, "min_regions": 1, "overlap": 0.3} | change
    return DetectronRegions(
        Boxes(boxes),
        classes=["red", "green", "blue"],
        attributes=["plain", "striped"],
        attribute_head=head,
        digest="0",
        config=regions_config(**settings),
    )


THIRDS = [[0, 0, 7, 7], [8, 0, 15, 7], [16, 0, 23, 7], [1, 0, 7, 7]]


def test_regions_are_proposals_with_their_labels_and_features():
    found = adapter(THIRDS, threshold=0.5)([flag()])[0]
    assert found.labels == ["red", "green", "blue"]  # the fourth is a duplicate of the first
    np.testing.assert_allclose(found.boxes[1], [4, 0, 7.5, 3.5])
    np.testing.assert_allclose(found.features, np.eye(3), atol=1e-6)
    assert found.attributes == [[], [], []]
    assert (found.width, found.height) == (12, 4)


def test_fixed_and_bounded_numbers():
    assert len(adapter(THIRDS, min_regions=4, max_regions=4)([flag()])[0].scores) == 4
    assert len(adapter(THIRDS, threshold=0.0, max_regions=2)([flag()])[0].scores) == 2
    assert len(adapter(THIRDS, threshold=1.0, min_regions=2)([flag()])[0].scores) == 2


def test_the_whole_image_if_there_are_no_proposals():
    found = adapter([])([flag()])[0]
    np.testing.assert_allclose(found.boxes, [[0, 0, 11.5, 3.5]])
    assert found.scores.tolist() == [0]


def test_attributes_depend_on_the_class_and_none_is_not_a_word():
    head = AttributeHead(feature_size=3, classes=4, embedding_size=2, groups=[3], hidden_size=3)
    with torch.no_grad():
        head.embedding.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]))
        head.hidden.weight.copy_(torch.tensor([[0, 0, 0, 1.0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]))
        head.hidden.bias.zero_()
        head.logits.weight.copy_(torch.tensor([[0, 0, 0], [9.0, 0, 0], [0, 9, 0]]))
        head.logits.bias.copy_(torch.tensor([5.0, 0, 0]))  # "none" unless the class implies an attribute
    found = adapter(THIRDS[:3], head=head, threshold=0.0)([flag()])[0]
    words = dict(zip(found.labels, found.attributes, strict=True))
    assert words == {"red": ["plain"], "green": ["striped"], "blue": []}


def test_padding_to_a_common_canvas_changes_nothing():
    extractor = adapter(THIRDS, canvas_step=32)
    images = [flag(), flag()[:, :, ::-1].copy(), np.pad(flag(), ((0, 0), (0, 1), (0, 0)))]
    for image, found in zip(images, extractor(images), strict=True):
        assert_same(extractor([image])[0], found)
    assert extractor([]) == []


def test_caffe_pools_from_the_first_pixel_and_rounds_up():
    stem = CaffeStem(nn.Identity())
    row = torch.arange(8.0).expand(1, 1, 8, 8)
    assert stem(row)[0, 0, 0].tolist() == [2, 4, 6, 7]  # maxima of 0-2, 2-4, 4-6, 6-7
    assert stem(row[..., :7])[0, 0, 0].tolist() == [2, 4, 6]


def test_without_detectron2_the_message_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.setitem(sys.modules, "detectron2.modeling", None)
    with pytest.raises(UsageError, match=r"pip install --no-build-isolation -e '\.\[detectron2\]'") as caught:
        load_extractor(regions_config(kind="detectron2", model=BOTTOM_UP))
    assert "\n" not in str(caught.value)


def test_weights_have_to_be_converted_first():
    with pytest.raises(UsageError, match=r"jobs/convert_weights\.py"):
        regions_config(kind="detectron2", model=BOTTOM_UP, weights="published.pkl")


def test_coco_has_80_classes():
    assert len(coco_classes()) == 80
    assert coco_classes()[:2] == ["person", "bicycle"]


# The tests below require detectron2; they use the real architectures with random weights.

SETTINGS = {
    "kind": "detectron2",
    "min_regions": 5,
    "max_regions": 12,
    "overlap": 0.3,
    "short_side": 96,
    "long_side": 160,
}


def tamed(extractor: DetectronRegions) -> DetectronRegions:
    """Limit the activations, which grow without bound in random residual blocks, and the proposals."""
    torch.manual_seed(1)
    detector = extractor.network.detector
    with torch.no_grad():
        for name, module in detector.named_modules():
            if name.endswith("conv3.norm"):
                module.weight.fill_(0.1)
        detector.proposal_generator.rpn_head.module.objectness_logits.weight.normal_(std=0.1)
        detector.roi_heads.box_predictor.cls_score.weight.normal_(std=1.0)
    detector.proposal_generator.post_nms_topk[False] = 25
    if hasattr(extractor.network, "proposals"):
        extractor.network.proposals = 25
    return extractor


@pytest.fixture(scope="module")
def bottom_up_attention() -> DetectronRegions:
    torch.manual_seed(0)
    return tamed(detectron_regions.load_detectron(regions_config(model=BOTTOM_UP, **SETTINGS)))


@pytest.fixture(scope="module")
def plain_c4() -> DetectronRegions:
    torch.manual_seed(0)
    return tamed(detectron_regions.load_detectron(regions_config(model=C4, **SETTINGS)))


@needs_detectron2
def test_features_equal_those_of_a_direct_forward_pass(plain_c4):
    """The direct pass uses detectron2's preprocessing, proposals and heads, image by image."""
    from detectron2.data.transforms import ResizeShortestEdge

    model = plain_c4.network.detector
    for image in (photo(120, 90), photo(70, 100, seed=1)):
        resized = ResizeShortestEdge([96, 96], 160).get_transform(image).apply_image(image[:, :, ::-1])
        with torch.no_grad():
            batch = torch.from_numpy(resized.astype("float32").transpose(2, 0, 1))
            pixels = (batch - model.pixel_mean) / model.pixel_std
            maps = model.backbone.module(pixels[None])
            images = type("Images", (), {"image_sizes": [tuple(batch.shape[1:])]})
            (proposals,), _ = model.proposal_generator(images, maps, None)
            pooled = model.roi_heads._shared_roi_transform([maps["res4"]], [proposals.proposal_boxes])
            expected = pooled.mean(dim=(2, 3))
            scores = model.roi_heads.box_predictor(expected)[0].softmax(1)[:, :-1].amax(1)
        found = plain_c4([image])[0]
        assert found.features.shape == (len(found.scores), 2048)
        stretch = [resized.shape[1] / image.shape[1], resized.shape[0] / image.shape[0]]
        distances = np.abs(
            found.boxes[:, None] * (stretch * 2) - proposals.proposal_boxes.tensor.numpy()
        ).max(axis=2)
        assert distances.min(axis=1).max() < 1e-2
        matched = distances.argmin(axis=1)
        assert len(set(matched)) == len(matched) >= 5
        np.testing.assert_allclose(found.features, expected[matched].numpy(), atol=1e-4, rtol=1e-4)
        assert (found.scores <= scores[matched].numpy() + 1e-5).all()


@needs_detectron2
def test_bottom_up_attention_is_the_published_network(bottom_up_attention):
    """The reference composes its blocks from torch operators, according to the authors' prototxt."""
    from torchvision.ops import roi_pool

    network = bottom_up_attention.network
    image = photo(120, 90)
    found = bottom_up_attention([image])[0]
    assert found.features.shape == (len(found.scores), 2048)
    assert all(label.startswith("object ") for label in found.labels)
    with torch.no_grad():
        pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float()
        pixels -= torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]
        pixels = F.interpolate(pixels[None], (96, 128), mode="bilinear")
        stem = network.detector.backbone.module
        maps = F.max_pool2d(F.relu(stem.stem.conv1(pixels)), 3, 2, ceil_mode=True)
        for stage in (stem.res2, stem.res3, stem.res4):
            maps = stage(maps)
        scale = 96 / 90
        x = roi_pool(maps, [torch.from_numpy(found.boxes * np.float32(scale))], 14, 1 / 16)
        for block in network.detector.roi_heads.res5.module:
            y = F.relu(block.conv1.norm(F.conv2d(x, block.conv1.weight)))
            y = F.relu(block.conv2.norm(F.conv2d(y, block.conv2.weight, padding=2, dilation=2)))
            y = block.conv3.norm(F.conv2d(y, block.conv3.weight))
            x = F.relu(y + (block.shortcut(x) if block.shortcut is not None else x))
        assert x.shape[2:] == (14, 14)
    np.testing.assert_allclose(found.features, x.mean(dim=(2, 3)).numpy(), atol=1e-4, rtol=1e-4)


@needs_detectron2
@pytest.mark.parametrize("name", ["bottom_up_attention", "plain_c4"])
def test_an_image_does_not_depend_on_its_batch(name, request):
    extractor = request.getfixturevalue(name)
    images = [photo(120, 90), photo(120, 90, seed=1), photo(90, 120, seed=2), photo(121, 90, seed=3)]
    together = extractor(images)
    for image, found in zip(images, together, strict=True):
        assert_same(extractor([image])[0], found)
        assert found.boxes[:, 2].max() <= image.shape[1]
        assert len(found.scores) >= 5


@needs_detectron2
def test_a_feature_pyramid_of_the_model_zoo():
    torch.manual_seed(0)
    config = regions_config(model="COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", **SETTINGS)
    extractor = tamed(detectron_regions.load_detectron(config))
    images = [photo(120, 90), photo(90, 120, seed=1), photo(118, 90, seed=2)]
    assert extractor.network.divisor == 32
    for image, found in zip(images, extractor(images), strict=True):
        assert found.features.shape == (len(found.scores), 1024)
        assert set(found.labels) <= set(coco_classes())
        assert_same(extractor([image])[0], found)


@needs_detectron2
def test_tiny_and_thin_images(bottom_up_attention):
    for size in ((1, 1), (3, 200)):
        found = bottom_up_attention([photo(*size)])[0]
        assert len(found.scores) >= 1
        assert np.isfinite(found.features).all()


@needs_detectron2
def test_different_operators_have_different_fingerprints(bottom_up_attention, plain_c4):
    caffe, plain = bottom_up_attention.fingerprint, plain_c4.fingerprint
    assert (caffe["operators"], plain["operators"]) == ("caffe", "detectron2")
    assert caffe["settings"] != plain["settings"]


@needs_detectron2
def test_a_converted_checkpoint(bottom_up_attention, tmp_path):
    """It has named outputs, works in the job and writes a feature store, also in bfloat16."""
    tensors = {
        name.replace(".module.", "."): value
        for name, value in bottom_up_attention.network.detector.state_dict().items()
    }
    head = bottom_up_attention.attribute_head.state_dict()
    tensors |= {f"attribute_head.{name}": value for name, value in head.items()}
    about = {"kind": detectron_regions.KIND, "model": BOTTOM_UP}
    about |= {"classes": [f"thing {i}" for i in range(1600)], "attributes": [f"kind {i}" for i in range(400)]}
    checkpoint.save(str(tmp_path / "weights"), tensors, about)
    pictures = tmp_path / "in"
    pictures.mkdir()
    from PIL import Image

    Image.fromarray(photo(120, 90)).save(pictures / "a.png")
    Image.fromarray(photo(90, 120, seed=1)).save(pictures / "b.png")
    options = ["--config=configs/extract/bottom_up_tiny.yaml", f"--input.uri={pictures}"]
    options += [f"--regions.checkpoint={tmp_path / 'weights'}", f"--output.uri={tmp_path / 'run'}"]
    config = parse(ExtractRegionsConfig, options)
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 2}
    store = StoredRegions(str(tmp_path / "run" / "features"))
    stored = store["a.png"]
    assert stored.labels[0].startswith("thing ")
    assert stored.features.shape[1] == 2048
    half = load_extractor(regions_config(checkpoint=str(tmp_path / "weights"), dtype="bfloat16", **SETTINGS))
    assert np.isfinite(half([photo(120, 90)])[0].features).all()
    del tensors["roi_heads.box_predictor.cls_score.bias"]
    checkpoint.save(str(tmp_path / "broken"), tensors, about)
    with pytest.raises(UsageError, match="do not fit"):
        load_extractor(regions_config(checkpoint=str(tmp_path / "broken"), **SETTINGS))


@needs_detectron2
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "use a Faster R-CNN"),
        ("no/such.yaml", "neither bottom-up-attention nor"),
        ("../../config/defaults.py", "neither bottom-up-attention nor"),
    ],
)
def test_models_that_cannot_be_used(model, message):
    with pytest.raises(UsageError, match=message):
        load_extractor(regions_config(kind="detectron2", model=model))


@needs_detectron2
@pytest.mark.skipif(
    not (Path(__file__).resolve().parents[4] / "shared/data/photos").is_dir(), reason="no photographs here"
)
def test_real_photographs(bottom_up_attention):
    from glied.vision.images import decode

    folder = Path(__file__).resolve().parents[4] / "shared/data/photos"
    images = [decode(path.read_bytes()) for path in sorted(folder.glob("*.jpg"))[:2]]
    for image, found in zip(images, bottom_up_attention(images), strict=True):
        assert found.features.shape == (len(found.labels), 2048)
        assert (found.width, found.height) == (image.shape[1], image.shape[0])
