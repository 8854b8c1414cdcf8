"""Regions from torchvision's Faster R-CNN family: the demo detector, or any torchvision model by name.

Shapes: ``P`` proposals of one image, ``C`` classes including the background (index 0), ``F`` feature size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torchvision.models import detection, get_model_weights
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms

from glied import checkpoint
from glied.errors import StorageError, UsageError
from glied.regions import Regions
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.fingerprints import detector_fingerprint
from glied.vision.extractors.half_precision import Cast
from glied.vision.extractors.image_padding import padded, same_canvas, widened
from glied.vision.extractors.small_detector import Detector, load_detector


class TorchvisionRegions:
    """Extracts regions with a Faster R-CNN (or Mask R-CNN): refined box, most probable class, fc7 feature.

    As in bottom-up attention (Anderson et al. 2018), each proposal yields at most one region, ranked by the
    score of its class; duplicates are suppressed across classes. Features are those of the refined boxes.
    """

    def __init__(
        self, model: FasterRCNN, *, classes: Sequence[str], digest: str, config: RegionsConfig
    ) -> None:
        """`classes` are the names of labels 1, 2, ...; `digest` identifies the weights."""
        self.device = torch.device(config.device)
        self.model = model.eval().to(self.device)
        self._cast(getattr(torch, config.compute.dtype), compiled=config.compute.compile)
        transform = model.transform
        transform.min_size = (config.short_side,) if config.short_side else transform.min_size
        transform.max_size = config.detector.long_side or transform.max_size
        self.classes = ["background", *classes]
        self.config = config
        self.feature_size = int(model.roi_heads.box_predictor.cls_score.in_features)
        self.fingerprint: Mapping[str, Any] = detector_fingerprint(config, weights=digest)

    def _cast(self, dtype: torch.dtype, *, compiled: bool) -> None:
        """Cast the networks; boxes, anchors and class scores stay in float32."""
        model, heads = self.model, self.model.roi_heads
        model.backbone = Cast(model.backbone, dtype, compiled=compiled)
        model.rpn.head = Cast(model.rpn.head, dtype)
        heads.box_head = Cast(heads.box_head, dtype, compiled=compiled)

    @property
    def _divisor(self) -> int:
        return int(self.model.transform.size_divisible)

    @property
    def resolution(self) -> tuple[int, int]:
        """The short and long side that images are resized to fit into."""
        return self.model.transform.min_size[-1], self.model.transform.max_size

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the regions of upright RGB images [H, W, 3], in the same order."""
        resized = [self._resize(image) for image in images]
        found: dict[int, Regions] = {}
        for group in same_canvas(resized, divisor=self._divisor, step=self.config.detector.canvas_step):
            sizes = [images[index].shape[:2] for index in group]
            regions = self._extract([resized[index] for index in group], sizes)
            found.update(zip(group, regions, strict=True))
        return [found[index] for index in range(len(images))]

    def _resize(self, image: NDArray[np.uint8]) -> Tensor:
        """Normalize and resize an image to the detector's resolution, [H, W, 3] uint8 -> [3, h, w]."""
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1).float() / 255
        transform = self.model.transform
        return transform.resize(transform.normalize(widened(pixels)))[0]

    def _extract(self, resized: list[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Regions]:
        """Extract the regions of images with equal canvases; `sizes` are (height, width) before resizing."""
        heads = self.model.roi_heads
        shapes = [(image.shape[1], image.shape[2]) for image in resized]
        batch = ImageList(
            padded(resized, divisor=self._divisor, step=self.config.detector.canvas_step), shapes
        )
        maps = self.model.backbone(batch.tensors)
        proposals, _ = self.model.rpn(batch, maps)
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, proposals, shapes)))
        counts = [len(p) for p in proposals]
        columns = zip(proposals, logits.split(counts), deltas.split(counts), shapes, strict=True)
        chosen = [self._choose(*column) for column in columns]
        boxes = [boxes for boxes, _, _ in chosen]
        features = heads.box_head(heads.box_roi_pool(maps, boxes, shapes))
        parts = features.split([len(b) for b in boxes])
        return [
            self._regions(part, *choice, shape, size)
            for part, choice, shape, size in zip(parts, chosen, shapes, sizes, strict=True)
        ]

    def _choose(
        self, proposals: Tensor, logits: Tensor, deltas: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select boxes [R,4] in resized pixels, scores [R] and labels [R] of an image, best first, R >= 1."""
        whole = proposals.new_tensor([[0, 0, shape[1], shape[0]]])
        if len(proposals) == 0:
            return whole, whole.new_zeros(1), torch.zeros(1, dtype=torch.int64, device=whole.device)
        scores, labels = logits.softmax(dim=1)[:, 1:].max(dim=1)
        labels = labels + 1
        decoded = self.model.roi_heads.box_coder.decode(deltas, [proposals])  # [P, C, 4]
        boxes = box_ops.clip_boxes_to_image(decoded[torch.arange(len(labels)), labels], shape)
        solid = box_ops.remove_small_boxes(boxes, min_size=1)
        boxes, scores, labels = boxes[solid], scores[solid], labels[solid]
        kept = nms(boxes, scores, self.config.detector.overlap)[: self.config.max_regions]
        count = max(int((scores[kept] >= self.config.threshold).sum()), self.config.detector.min_regions)
        kept = kept[:count]
        if len(kept) == 0:
            return whole, scores.new_zeros(1), labels.new_zeros(1)
        return boxes[kept], scores[kept], labels[kept]

    def _regions(
        self,
        features: Tensor,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        shape: tuple[int, int],
        size: tuple[int, int],
    ) -> Regions:
        return Regions(
            boxes=resize_boxes(boxes, shape, size).cpu().numpy(),
            features=features.cpu().numpy(),
            scores=scores.cpu().numpy(),
            labels=[self.classes[label] for label in labels.tolist()],
            attributes=self._attributes(features, labels),
            width=size[1],
            height=size[0],
        )

    def _attributes(self, features: Tensor, labels: Tensor) -> list[list[str]]:
        model = self.model
        if not isinstance(model, Detector):
            return [[] for _ in labels]
        indices = model.roi_heads.predict_attributes(features, labels).tolist()
        return [
            model.attribute_words(row) if label else []
            for row, label in zip(indices, labels.tolist(), strict=True)
        ]


def load_torchvision(config: RegionsConfig) -> TorchvisionRegions:
    """Load the extractor of a demo checkpoint, or of a torchvision model by name.

    Raises:
        UsageError: the checkpoint, model or weights do not exist, or the model has no box features.
    """
    if config.checkpoint:
        model, digest = load_detector(config.checkpoint)
        return TorchvisionRegions(model, classes=model.classes, digest=digest, config=config)
    return _load_named(config)


def _load_named(config: RegionsConfig) -> TorchvisionRegions:
    builder = getattr(detection, config.model, None)
    try:
        available = get_model_weights(config.model)
    except ValueError as error:
        raise UsageError(f"model {config.model!r}: torchvision has no such model") from error
    if not config.model.startswith(("fasterrcnn_", "maskrcnn_")) or builder is None:
        raise UsageError(f"model {config.model!r} has no box head for features: use a Faster R-CNN")
    named = config.weights in available.__members__
    model = builder(weights=None, weights_backbone=None) if not named else _download(builder, config)
    if config.weights and not named:
        _load_file(model, config.weights, sorted(available.__members__))
    names = list(available["DEFAULT"].meta["categories"])[1:] if available.__members__ else []
    return TorchvisionRegions(model, classes=names, digest=checkpoint.weights_digest(model), config=config)


def _load_file(model: FasterRCNN, path: str, names: Sequence[str]) -> None:
    if not os.path.isfile(path):
        raise UsageError(f"weights {path!r}: neither a file nor one of {', '.join(names)}")
    try:
        if path.endswith(".safetensors"):
            model.load_state_dict(safetensors.torch.load_file(path))
        else:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        TypeError,
        SafetensorError,
        UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"weights {path!r} do not fit the model: {reason}") from error


def _download(builder: Callable[..., FasterRCNN], config: RegionsConfig) -> FasterRCNN:
    """Build a model with published weights, which torchvision downloads once and caches.

    Raises:
        StorageError: the weights cannot be downloaded.
    """
    weights = get_model_weights(config.model)[config.weights]
    try:
        return builder(weights=weights, weights_backbone=None)
    except (
        OSError,
        RuntimeError,
    ) as error:  # network errors; RuntimeError if the digest is wrong
        message = f"cannot fetch weights {config.weights} of {config.model}: {error}"
        advice = f"without internet, name a local copy of {weights.url.rpartition('/')[2]} in weights"
        raise StorageError(f"{message}; {advice}") from error
