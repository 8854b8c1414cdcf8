"""Regions from detectron2: bottom-up attention as published, and the detectors of its model zoo.

detectron2 is an optional dependency, because it is compiled on installation; it is imported when an extractor
is built.

Shapes: ``B`` images, ``P`` proposals per image, ``R`` selected regions, ``C`` classes without the background,
``F`` feature size (2048 for res5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection

from glied import checkpoint
from glied.errors import UsageError
from glied.regions import Regions
from glied.vision.extractors import bottom_up
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.half_precision import Cast
from glied.vision.extractors.image_padding import padded, same_canvas, widened
from glied.vision.extractors.small_detector import AttributeHead

BOTTOM_UP = "bottom-up-attention"
KIND = "detectron2"
ATTRIBUTE_HEAD = "attribute_head."
ANCHORS = "anchors"
"""Names of the additional tensors of a converted checkpoint."""

INSTALL = "pip install --no-build-isolation -e '.[detectron2]'"
_ATTRIBUTE_THRESHOLD = 0.1
_BOTTOM_UP_SETTINGS: dict[str, Any] = {
    "MODEL.MASK_ON": False,
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[64, 128, 256, 512]],
    "MODEL.RPN.CONV_DIMS": [512],
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
    "MODEL.ROI_HEADS.NUM_CLASSES": 1600,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
    "INPUT.MIN_SIZE_TEST": 600,
    "INPUT.MAX_SIZE_TEST": 1000,
}
"""The authors' models/vg/ResNet-101/faster_rcnn_end2end_final/test.prototxt as a detectron2 config."""


@dataclass(frozen=True)
class Resized:
    """A resized and normalized image.

    Attributes:
        pixels: [3, h, w] float32, normalized.
        scale: resize factor of both sides.
        stretch: horizontal and vertical pixels of the resized image per pixel of the original image.
    """

    pixels: Tensor
    scale: float
    stretch: tuple[float, float]


class Network:
    """The parts of a Faster R-CNN of detectron2, with detectron2's own operators."""

    pixels = False
    """Whether box sizes count pixels, as Caffe's do."""

    def __init__(self, detector: Any, settings: Any, config: RegionsConfig) -> None:
        """Take ownership of a GeneralizedRCNN built from `settings`, and cast it as `config` says."""
        self.divisor = max(int(detector.backbone.size_divisibility), 1)
        self.detector = detector.eval().to(torch.device(config.device))
        self.settings = settings
        self.sides = (
            config.short_side or int(settings.INPUT.MIN_SIZE_TEST),
            config.detector.long_side or int(settings.INPUT.MAX_SIZE_TEST),
        )
        self._cast(getattr(torch, config.compute.dtype), compiled=config.compute.compile)

    def _cast(self, dtype: torch.dtype, *, compiled: bool) -> None:
        """Cast the networks; boxes, anchors and class scores stay in float32."""
        detector, heads = self.detector, self.detector.roi_heads
        if isinstance(getattr(heads, "res5", None), nn.Module):
            heads.res5 = Cast(heads.res5, dtype, compiled=compiled)
        else:
            heads.box_head = Cast(heads.box_head, dtype, compiled=compiled)
        detector.proposal_generator.rpn_head = Cast(detector.proposal_generator.rpn_head, dtype)
        detector.backbone = Cast(detector.backbone, dtype, compiled=compiled)

    def resize(self, image: NDArray[np.uint8]) -> Resized:
        """Resize and normalize an upright RGB image [H, W, 3], in the color order of the network."""
        detector, (height, width) = self.detector, image.shape[:2]
        wide = widened(torch.from_numpy(image).permute(2, 0, 1).float())
        (h, w), scale = self._size(wide.shape[1], wide.shape[2])
        resized = self._scaled(wide, h, w).to(detector.device)
        if self.settings.INPUT.FORMAT == "BGR":
            resized = resized.flip(0)
        pixels = (resized - detector.pixel_mean) / detector.pixel_std
        return Resized(pixels, scale, self._stretch(wide, (height, width), (h, w), scale))

    def _size(self, height: int, width: int) -> tuple[tuple[int, int], float]:
        short, long = self.sides
        scale = min(short / min(height, width), long / max(height, width))
        return (int(height * scale + 0.5), int(width * scale + 0.5)), scale

    def _scaled(self, image: Tensor, height: int, width: int) -> Tensor:
        """Resize [3, H, W] -> [3, height, width] with Pillow, as detectron2's own predictor does."""
        picture = Image.fromarray(image.permute(1, 2, 0).round().byte().numpy())
        resized = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
        return torch.from_numpy(resized).permute(2, 0, 1).float()

    def _stretch(
        self, wide: Tensor, size: tuple[int, int], resized: tuple[int, int], scale: float
    ) -> tuple[float, float]:
        return resized[1] / size[1], resized[0] / size[0]

    def maps(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps, by name, of normalized images of one canvas [B, 3, h, w]."""
        return self.detector.backbone(batch)

    def propose(self, maps: dict[str, Tensor], images: Sequence[Resized]) -> list[Tensor]:
        """Return the proposals of each image in resized pixels, [P, 4] each."""
        from detectron2.structures import ImageList

        sizes = [(image.pixels.shape[1], image.pixels.shape[2]) for image in images]
        # Only the sizes in the list are used.
        found, _ = self.detector.proposal_generator(ImageList(images[0].pixels, sizes), maps, None)
        return [one.proposal_boxes.tensor for one in found]

    def embed(self, maps: dict[str, Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Compute features [P, F] of the boxes of each image, one image at a time to bound the memory."""
        from detectron2.structures import Boxes

        heads, features = self.detector.roi_heads, []
        for place, own in enumerate(boxes):
            inputs = [maps[name][place : place + 1] for name in heads.in_features]
            if hasattr(heads, "res5"):
                found = heads.res5(heads.pooler(inputs, [Boxes(own)])).mean(dim=(2, 3))
            else:
                found = heads.box_head(heads.box_pooler(inputs, [Boxes(own)]))
            features.append(found)
        return features

    def classify(self, features: Tensor) -> Tensor:
        """Classify features [P, F] -> logits [P, C + 1], the background last."""
        return self.detector.roi_heads.box_predictor.cls_score(features)


class CaffeNetwork(Network):
    """The network of bottom-up attention, with Caffe's operators.

    It differs in max pooling that starts at the first pixel, proposals that count pixels, RoIPool, and a
    dilated res5 that keeps its 14 x 14 positions.
    """

    pixels = True

    def __init__(self, detector: Any, settings: Any, config: RegionsConfig, anchors: Tensor) -> None:
        """`anchors` [A, 4] are those of the first position, in the order of the RPN's outputs."""
        for block in detector.roi_heads.res5:
            block.conv2.dilation = block.conv2.padding = (2, 2)
        first = detector.roi_heads.res5[0]
        first.conv1.stride = first.shortcut.stride = (1, 1)
        detector.backbone.stem = CaffeStem(detector.backbone.stem.conv1)
        super().__init__(detector, settings, config)
        self.anchors = anchors.to(torch.device(config.device))
        self.proposals = int(settings.MODEL.RPN.POST_NMS_TOPK_TEST)

    def _size(self, height: int, width: int) -> tuple[tuple[int, int], float]:
        short, long = self.sides
        scale = short / min(height, width)
        if round(scale * max(height, width)) > long:
            scale = long / max(height, width)
        return (round(height * scale), round(width * scale)), scale

    def _scaled(self, image: Tensor, height: int, width: int) -> Tensor:
        """Resize [3, H, W] -> [3, height, width] as OpenCV does, bilinear without antialiasing."""
        whole = image[None].to(self.detector.device)
        return F.interpolate(whole, (height, width), mode="bilinear", align_corners=False)[0]

    def _stretch(
        self, wide: Tensor, size: tuple[int, int], resized: tuple[int, int], scale: float
    ) -> tuple[float, float]:
        return scale * wide.shape[2] / size[1], scale * wide.shape[1] / size[0]

    def propose(self, maps: dict[str, Tensor], images: Sequence[Resized]) -> list[Tensor]:
        """Return the proposals of each image in resized pixels, [P, 4] each."""
        (objectness,), (deltas,) = self.detector.proposal_generator.rpn_head([maps["res4"]])
        return [
            bottom_up.propose(
                found,
                moved,
                self.anchors,
                size=(image.pixels.shape[1], image.pixels.shape[2]),
                scale=image.scale,
                most=self.proposals,
            )
            for image, found, moved in zip(images, objectness, deltas, strict=True)
        ]


class CaffeStem(nn.Module):
    """A stem whose max pooling has no padding at the left and top, and rounds up."""

    stride = 4

    def __init__(self, conv1: nn.Module) -> None:
        """`conv1` is the first convolution, including its normalization."""
        super().__init__()
        self.conv1 = conv1

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stem, [B, 3, h, w] -> [B, 64, h / 4, w / 4]."""
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, ceil_mode=True)


class DetectronRegions:
    """Extracts regions as bottom-up attention does (Anderson et al. 2018 and its generate_tsv.py).

    Regions are proposals without box regression, selected by their highest score after class-wise non-maximum
    suppression. A region's score is that score, and its label the most probable class.
    """

    def __init__(
        self,
        network: Network,
        *,
        classes: Sequence[str],
        attributes: Sequence[str],
        attribute_head: AttributeHead | None,
        digest: str,
        config: RegionsConfig,
    ) -> None:
        """`classes` and `attributes` are the names of the outputs; `digest` identifies the weights."""
        self.network = network
        self.device = torch.device(config.device)
        self.classes, self.attributes = list(classes), list(attributes)
        self.attribute_head = attribute_head and attribute_head.eval().to(self.device)
        self.config = config
        self.feature_size = int(network.detector.roi_heads.box_predictor.cls_score.in_features)
        self.fingerprint: Mapping[str, Any] = {
            "weights": digest,
            "operators": "caffe" if network.pixels else "detectron2",
            "settings": _settings_digest(network.settings),
            **config.decisive(),
        }

    @property
    def resolution(self) -> tuple[int, int]:
        """The short and long side that images are resized to fit into."""
        return self.network.sides

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the regions of upright RGB images [H, W, 3], in the same order."""
        resized = [self.network.resize(image) for image in images]
        found: dict[int, Regions] = {}
        pixels = [image.pixels for image in resized]
        for group in same_canvas(pixels, divisor=self.network.divisor, step=self.config.detector.canvas_step):
            sizes = [images[index].shape[:2] for index in group]
            regions = self._extract([resized[index] for index in group], sizes)
            found.update(zip(group, regions, strict=True))
        return [found[index] for index in range(len(images))]

    def _extract(self, images: list[Resized], sizes: Sequence[tuple[int, int]]) -> list[Regions]:
        """Extract the regions of images with equal canvases; `sizes` are (height, width) before resizing."""
        network, config = self.network, self.config
        pixels = [image.pixels for image in images]
        maps = network.maps(padded(pixels, divisor=network.divisor, step=config.detector.canvas_step))
        proposals = network.propose(maps, images)
        boxes = [
            own if len(own) else _whole(image.pixels) for own, image in zip(proposals, images, strict=True)
        ]
        features = network.embed(maps, boxes)
        logits = [network.classify(own) for own in features]
        confidence = bottom_up.class_confidence(
            pad_sequence(boxes, batch_first=True),
            pad_sequence([own.softmax(dim=1)[:, :-1] for own in logits], batch_first=True),
            config.detector.overlap,
            pixels=network.pixels,
        )
        regions = []
        for place, (image, size) in enumerate(zip(images, sizes, strict=True)):
            scores = confidence[place, : len(boxes[place])] * float(len(proposals[place]) > 0)
            kept = bottom_up.choose(
                scores,
                threshold=config.threshold,
                minimum=config.detector.min_regions,
                maximum=config.max_regions,
            )
            columns = (boxes[place][kept], features[place][kept], scores[kept], logits[place][kept])
            regions.append(self._regions(*columns, image.stretch, size))
        return regions

    def _regions(
        self,
        boxes: Tensor,
        features: Tensor,
        scores: Tensor,
        logits: Tensor,
        stretch: tuple[float, float],
        size: tuple[int, int],
    ) -> Regions:
        return Regions(
            boxes=(boxes / boxes.new_tensor(stretch * 2)).cpu().numpy(),
            features=features.cpu().numpy(),
            scores=scores.cpu().numpy(),
            labels=[self.classes[label] for label in logits[:, :-1].argmax(dim=1).tolist()],
            attributes=self._attributes(features, logits.argmax(dim=1)),
            width=size[1],
            height=size[0],
        )

    def _attributes(self, features: Tensor, labels: Tensor) -> list[list[str]]:
        """Return the most probable attribute of each region if it is above the threshold.

        `labels` [R] are classes and may be the background.
        """
        if self.attribute_head is None:
            return [[] for _ in labels]
        (logits,) = self.attribute_head(features, labels)
        # The published network has an output for "none" (first here); networks trained with detectron2 do
        # not.
        probabilities = logits.softmax(dim=1)[:, -len(self.attributes) :]
        values, indices = (column.tolist() for column in probabilities.max(dim=1))
        return [
            [self.attributes[index]] if value >= _ATTRIBUTE_THRESHOLD else []
            for value, index in zip(values, indices, strict=True)
        ]


def _whole(pixels: Tensor) -> Tensor:
    """Return the box of the whole resized image, for images without proposals."""
    return pixels.new_tensor([[0, 0, pixels.shape[2] - 1, pixels.shape[1] - 1]])


def load_detectron(config: RegionsConfig) -> DetectronRegions:
    """Load the extractor of a converted checkpoint, or of a model by name with random weights.

    Raises:
        UsageError: detectron2 is not installed, or the checkpoint or model does not exist.
    """
    _require_detectron2()
    if config.checkpoint:
        try:
            stored = checkpoint.load(config.checkpoint, KIND)
        except UsageError as error:
            raise UsageError(f"{error}; jobs/convert_weights.py converts weights of detectron2") from error
        return _build(stored.metadata, stored.tensors, stored.digest, config)
    names = {"classes": [], "attributes": []} if config.model != BOTTOM_UP else _numbered()
    return _build({"model": config.model, **names}, None, "", config)


def _require_detectron2() -> None:
    try:
        import detectron2.modeling  # noqa: F401  # registers the architectures
    except ImportError as error:
        raise UsageError(
            "regions.kind detectron2 needs the package detectron2, which is compiled on installation: "
            f"{INSTALL} ({error})"
        ) from error


def _numbered() -> dict[str, list[str]]:
    """Return placeholder names; the real ones come with the published weights."""
    return {
        "classes": [f"object {number}" for number in range(1600)],
        "attributes": [f"attribute {number}" for number in range(400)],
    }


def _build(
    about: Mapping[str, Any], tensors: dict[str, Tensor] | None, digest: str, config: RegionsConfig
) -> DetectronRegions:
    from detectron2.modeling import build_model

    tensors = dict(tensors or {})
    settings = _settings(about["model"])
    classes = list(about["classes"]) or coco_classes()
    settings.MODEL.ROI_HEADS.NUM_CLASSES = len(classes)
    anchors = tensors.pop(ANCHORS, None)
    head = _attribute_head(about, classes, tensors)
    detector = build_model(settings)
    if tensors:
        _load(detector, tensors, config.checkpoint)
    digest = digest or checkpoint.weights_digest(detector)
    network: Network
    if about["model"] == BOTTOM_UP:
        cell = bottom_up.anchors() if anchors is None else anchors
        network = CaffeNetwork(detector, settings, config, cell)
    else:
        network = Network(detector, settings, config)
    return DetectronRegions(
        network,
        classes=classes,
        attributes=about["attributes"],
        attribute_head=head,
        digest=digest,
        config=config,
    )


def _attribute_head(
    about: Mapping[str, Any], classes: Sequence[str], tensors: dict[str, Tensor]
) -> AttributeHead | None:
    """Build the attribute head from its weights, removed from `tensors`, or with random weights."""
    own = {
        name.removeprefix(ATTRIBUTE_HEAD): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(ATTRIBUTE_HEAD)
    }
    if not about["attributes"]:
        return None
    hidden, width = own["hidden.weight"].shape if own else (512, 2048 + 256)
    embedding = own["embedding.weight"].shape[1] if own else 256
    head = AttributeHead(
        feature_size=width - embedding,
        classes=len(classes) + 1,
        embedding_size=embedding,
        groups=[len(own["logits.bias"]) if own else len(about["attributes"]) + 1],
        hidden_size=hidden,
    )
    if own:
        head.load_state_dict(own)
    return head


def _load(detector: nn.Module, tensors: dict[str, Tensor], folder: str) -> None:
    try:
        detector.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UsageError(f"the weights in {folder} do not fit: {' '.join(lines[1:2])[:300]}") from error


def _settings(model: str) -> Any:
    """Return detectron2's config of a model by name, for inference on the CPU."""
    from detectron2.config import get_cfg

    settings = get_cfg()
    if model == BOTTOM_UP:
        settings.merge_from_list([item for pair in _BOTTOM_UP_SETTINGS.items() for item in pair])
    else:
        _merge(settings, model)
    settings.MODEL.MASK_ON = settings.MODEL.KEYPOINT_ON = False
    settings.MODEL.WEIGHTS, settings.MODEL.DEVICE = "", "cpu"
    known = settings.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    if not known or settings.MODEL.ROI_HEADS.NAME not in ("Res5ROIHeads", "StandardROIHeads"):
        raise UsageError(f"model {model!r} has no box head for features: use a Faster R-CNN")
    return settings


def _merge(settings: Any, model: str) -> None:
    try:
        settings.merge_from_file(str(_zoo_file(model)), allow_unsafe=False)
    except yaml.YAMLError as error:
        raise UsageError(
            f"model {model!r}: its config runs Python code, which is not allowed: use a Faster R-CNN"
        ) from error


def _zoo_file(model: str) -> Path:
    """Find a config of the model zoo without detectron2's own function, which needs an old setuptools."""
    import detectron2

    folder = Path(detectron2.__file__).resolve().parent / "model_zoo" / "configs"
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.yaml")}
    if model not in names:
        raise UsageError(
            f"model {model!r}: neither {BOTTOM_UP} nor a config of detectron2's model zoo, such as "
            "COCO-Detection/faster_rcnn_R_101_C4_3x.yaml"
        )
    return names[model]


def _settings_digest(settings: Any) -> str:
    return hashlib.sha256(settings.dump().encode()).hexdigest()


def coco_classes() -> list[str]:
    """Return the 80 classes of COCO detectors in the order of their outputs."""
    weights = detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT
    return [name for name in weights.meta["categories"] if name not in ("__background__", "N/A")]
