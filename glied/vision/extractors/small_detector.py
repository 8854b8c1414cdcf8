"""A small Faster R-CNN for the demo world: torchvision's, with a light backbone and an attribute head.

Shapes: ``N`` images, ``P`` proposals or boxes over all images, ``F`` region feature size, ``G`` attribute
groups (color, size, pattern).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from glied import checkpoint
from glied.config_keys import from_record
from glied.errors import UsageError

KIND = "detector"


@dataclass(frozen=True, kw_only=True)
class SmallBackboneConfig:
    """A residual network with a feature pyramid."""

    widths: tuple[int, int, int, int, int] = (32, 48, 96, 160, 224)
    """Channels at strides 2, 4, 8, 16 and 32.

    With fewer than 16, training crashes on some processors with AVX-512: oneDNN of torch 2.15 writes out of
    bounds in the backward pass of the shortcuts (1 x 1, stride 2).
    """
    blocks: tuple[int, int, int, int] = (1, 2, 2, 1)
    """Residual blocks at strides 4, 8, 16 and 32."""
    fpn_channels: int = 96
    """Channels of the feature pyramid (strides 8, 16, 32)."""
    bf16: bool = True
    """Run the backbone under bfloat16 autocast in training."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Architecture of the demo detector; 3.5M parameters with the defaults."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        key: f"backbone.{key}" for key in ("widths", "blocks", "fpn_channels", "bf16")
    }

    short_side: int = 256
    """Images are resized so that their short side has this many pixels."""
    long_side: int = 384
    """Limit on the long side after resizing, in pixels."""
    backbone: SmallBackboneConfig = field(default_factory=SmallBackboneConfig)
    """The network that computes the feature maps."""
    anchor_sizes: tuple[tuple[int, ...], ...] = ((16, 32), (56, 96), (144, 224))
    """Anchor sides in resized pixels, one tuple per pyramid level; each in three aspect ratios."""
    representation_size: int = 256
    """Size of the two fully connected layers of the box head, and of region features."""
    class_embedding: int = 32
    """Size of the class embedding, an input of the attribute head."""
    proposals: int = 150
    """Proposals per image after non-maximum suppression."""
    sampled_proposals: int = 64
    """Proposals per image used by the box and attribute losses."""
    detections: int = 50
    """Maximum number of detections per image."""
    attribute_weight: float = 0.5
    """Weight of the attribute loss in the sum of losses."""

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != 3 or len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise UsageError(f"anchor_sizes needs three tuples of equal length, got {self.anchor_sizes}")
        if not 32 <= self.short_side <= self.long_side:
            raise UsageError(
                f"short_side must be in 32..long_side, got {self.short_side} and {self.long_side}"
            )


def _conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """A residual block of two 3x3 convolutions (He et al. 2016, figure 5 left)."""

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride)
        self.second = _conv(outputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = _conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def _stage(*, inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = ResidualBlock(inputs=inputs, outputs=outputs, stride=2)
    rest = (ResidualBlock(inputs=outputs, outputs=outputs, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class SmallBackbone(nn.Module):
    """A residual network with a feature pyramid: [N,3,H,W] -> three maps at strides 8, 16 and 32."""

    def __init__(
        self, *, widths: Sequence[int], blocks: Sequence[int], fpn_channels: int, bf16: bool
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, widths[0], stride=2), nn.ReLU())
        self.stages = nn.ModuleList(
            _stage(inputs=a, outputs=b, blocks=n) for (a, b), n in zip(pairwise(widths), blocks, strict=True)
        )
        self.fpn = FeaturePyramidNetwork(list(widths[2:]), fpn_channels)
        self.out_channels = fpn_channels
        self.bf16 = bf16

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the maps, [N,3,H,W] -> {"0": [N,fpn_channels,H/8,W/8], "1": stride 16, "2": stride 32}."""
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.bf16 and self.training):
            maps = OrderedDict()
            x = self.stem(x)
            for level, stage in enumerate(self.stages):
                x = stage(x)
                if level > 0:
                    maps[str(level - 1)] = x
            pyramid = self.fpn(maps)
        dtype = torch.float32 if self.training else x.dtype
        return {name: level.to(dtype) for name, level in pyramid.items()}


class AttributeHead(nn.Module):
    """Predicts attributes per group from region feature and class embedding, as in bottom-up attention."""

    def __init__(
        self,
        *,
        feature_size: int,
        classes: int,
        embedding_size: int,
        groups: Sequence[int],
        hidden_size: int | None = None,
    ) -> None:
        """`groups` are the numbers of outputs per group; `hidden_size` defaults to `feature_size`."""
        super().__init__()
        hidden_size = hidden_size or feature_size
        self.embedding = nn.Embedding(classes, embedding_size)
        self.hidden = nn.Linear(feature_size + embedding_size, hidden_size)
        self.logits = nn.Linear(hidden_size, sum(groups))
        self.groups = list(groups)

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Map features [P,F] and class indices [P] to logits [P, 1 + values] per group; index 0 is none."""
        x = torch.cat([features, self.embedding(labels)], dim=1)
        return self.logits(F.relu(self.hidden(x))).split(self.groups, dim=1)


class AttributeRoIHeads(RoIHeads):
    """torchvision's box heads with an attribute head.

    Targets also have ``attributes`` [n, G] int64. In evaluation, detections also have ``features`` [n, F]
    (post-ReLU fc7 of the final box) and ``attributes`` [n, G].
    """

    def __init__(self, *, attribute_head: AttributeHead, attribute_weight: float, **heads: Any) -> None:
        super().__init__(**heads)
        self.attribute_head = attribute_head
        self.attribute_weight = attribute_weight

    def embed(self, maps: dict[str, Tensor], boxes: list[Tensor], shapes: list[tuple[int, int]]) -> Tensor:
        """Compute region features [P, F] of boxes in resized pixels."""
        return self.box_head(self.box_roi_pool(maps, boxes, shapes))

    def forward(  # type: ignore[override]  # torchvision's annotation has no attributes
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return the detections of each image and no losses, or in training no detections and the losses."""
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets)
        logits, regression = self.box_predictor(self.embed(features, proposals, image_shapes))
        boxes, scores, labels = self.postprocess_detections(logits, regression, proposals, image_shapes)
        final = self.embed(features, boxes, image_shapes)
        attributes = self.predict_attributes(final, torch.cat(labels))
        counts = [len(b) for b in boxes]
        columns = zip(boxes, scores, labels, final.split(counts), attributes.split(counts), strict=True)
        names = ("boxes", "scores", "labels", "features", "attributes")
        return [dict(zip(names, column, strict=True)) for column in columns], {}

    def predict_attributes(self, features: Tensor, labels: Tensor) -> Tensor:
        """Predict the best value of each group: features [P,F], labels [P] -> [P,G] int64, 0 = none."""
        return torch.stack([logits.argmax(1) for logits in self.attribute_head(features, labels)], dim=1)

    def _losses(
        self,
        maps: dict[str, Tensor],
        proposals: list[Tensor],
        shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        features = self.embed(maps, proposals, shapes)
        logits, regression = self.box_predictor(features)
        classifier, box = fastrcnn_loss(logits, regression, labels, regression_targets)
        attributes = torch.cat(
            [self._matched_attributes(t, m) for t, m in zip(targets, matched, strict=True)]
        )
        loss = self._attribute_loss(features, torch.cat(labels), attributes)
        return {"loss_classifier": classifier, "loss_box_reg": box, "loss_attributes": loss}

    @staticmethod
    def _matched_attributes(target: dict[str, Tensor], matched: Tensor) -> Tensor:
        attributes = target["attributes"]
        if len(attributes) == 0:  # an image without objects: every proposal is background
            return attributes.new_zeros(len(matched), attributes.shape[1])
        return attributes[matched]

    def _attribute_loss(self, features: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
        foreground = labels > 0
        predicted = self.attribute_head(features[foreground], labels[foreground])
        pairs = zip(predicted, attributes[foreground].unbind(1), strict=True)
        # Sum and divide explicitly: the mean without any foreground would be NaN.
        total = torch.stack(
            [F.cross_entropy(logits, truth, reduction="sum") for logits, truth in pairs]
        ).sum()
        return self.attribute_weight * total / max(int(foreground.sum()), 1)


class Detector(FasterRCNN):
    """Faster R-CNN over the classes and attribute groups of the demo world.

    In training, ``model(images, targets)`` returns a dict of losses. In evaluation, ``model(images)`` returns
    a list of dicts with boxes (xyxy, pixels of the input image), scores, labels (1 + index into ``classes``),
    features and attributes.
    """

    def __init__(
        self, config: DetectorConfig, *, classes: Sequence[str], attributes: Mapping[str, Sequence[str]]
    ) -> None:
        pool = MultiScaleRoIAlign(["0", "1", "2"], output_size=6, sampling_ratio=2)
        super().__init__(
            SmallBackbone(**vars(config.backbone)),
            min_size=config.short_side,
            max_size=config.long_side,
            rpn_anchor_generator=AnchorGenerator(config.anchor_sizes, ((0.5, 1.0, 2.0),) * 3),
            rpn_pre_nms_top_n_train=400,
            rpn_pre_nms_top_n_test=400,
            rpn_post_nms_top_n_train=config.proposals,
            rpn_post_nms_top_n_test=config.proposals,
            rpn_batch_size_per_image=128,
            box_roi_pool=pool,
            box_head=nn.Identity(),  # both replaced below, with the rest of the box heads
            box_predictor=nn.Identity(),
        )
        self.config = config
        self.classes = list(classes)
        self.attributes = {group: list(values) for group, values in attributes.items()}
        self.roi_heads = self._build_roi_heads(pool)
        self.to(memory_format=torch.channels_last)

    def _build_roi_heads(self, pool: MultiScaleRoIAlign) -> AttributeRoIHeads:
        config, size = self.config, self.config.representation_size
        inputs = config.backbone.fpn_channels * pool.output_size[0] * pool.output_size[1]
        head = AttributeHead(
            feature_size=size,
            classes=len(self.classes) + 1,
            embedding_size=config.class_embedding,
            groups=[1 + len(values) for values in self.attributes.values()],
        )
        return AttributeRoIHeads(
            attribute_head=head,
            attribute_weight=config.attribute_weight,
            box_roi_pool=pool,
            box_head=TwoMLPHead(inputs, size),
            box_predictor=FastRCNNPredictor(size, len(self.classes) + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=config.sampled_proposals,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.05,
            nms_thresh=0.5,
            detections_per_img=config.detections,
        )

    def attribute_words(self, indices: Sequence[int]) -> list[str]:
        """Return the words of a region's attribute indices (one per group), without "none"."""
        groups = zip(self.attributes.values(), indices, strict=True)
        return [values[index - 1] for values, index in groups if index > 0]


def save_detector(model: Detector, folder_uri: str, *, half: bool = True) -> None:
    """Write weights (as fp16 if ``half``), config, classes and attribute values to a checkpoint folder."""
    metadata = {
        "kind": KIND,
        "config": asdict(model.config),
        "classes": model.classes,
        "attributes": model.attributes,
    }
    checkpoint.save(folder_uri, model.state_dict(), metadata, half=half)


def load_detector(folder_uri: str) -> tuple[Detector, str]:
    """Load the detector of a checkpoint folder in evaluation mode; also returns the checkpoint's digest.

    Raises:
        UsageError: there is no checkpoint, or it is not a detector.
    """
    stored = checkpoint.load(folder_uri, KIND)
    model = Detector(
        from_record(DetectorConfig, stored.metadata["config"]),
        classes=stored.metadata["classes"],
        attributes=stored.metadata["attributes"],
    )
    model.load_state_dict(stored.tensors)
    return model.eval(), stored.digest
