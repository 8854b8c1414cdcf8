"""Regions from detectron2: bottom-up attention as published, and the detectors of its model zoo.

detectron2 is an optional dependency, because it is compiled on installation; it is imported when an extractor
is built.

Shapes: ``B`` images, ``P`` proposals per image, ``R`` selected regions, ``C`` classes without the background,
``F`` feature size (2048 for res5).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models import detection

from glied import checkpoint
from glied.errors import UsageError
from glied.regions import Regions
from glied.vision.extractors import bottom_up
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.detectron_network import CaffeNetwork, Network, Resized
from glied.vision.extractors.image_padding import padded, same_canvas
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
