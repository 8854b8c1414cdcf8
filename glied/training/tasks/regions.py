"""Training task of the demo world's region detector: boxes, classes and attributes of rendered scenes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import pyarrow as pa
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from glied import storage
from glied.errors import UsageError
from glied.training.config import TrainerConfig
from glied.training.task import Row, Split
from glied.vision.average_precision import ap50
from glied.vision.extractors.small_detector import Detector, DetectorConfig, save_detector
from glied.vision.images import decode

Target = dict[str, Tensor]


@dataclass(frozen=True)
class DetectionBatch:
    """Images of one step: uint8 [3, H, W] each, and per image boxes [n,4], labels [n], attributes [n,G]."""

    images: list[Tensor]
    targets: list[Target]


@dataclass(frozen=True, kw_only=True)
class RegionsData:
    """Scene folders as `jobs/make_scenes.py` writes them."""

    train: str
    """Folder (path or URI) of the training scenes; its classes.json names classes and attributes."""
    validation: str
    """Folder of the scenes on which the best checkpoint is chosen."""
    flip: bool = True
    """Mirror half of the training images; no class or attribute of the scenes depends on the side."""


@dataclass(frozen=True, kw_only=True)
class TrainRegionsConfig:
    """Which detector is trained, on which scenes, and how."""

    RENAMED: ClassVar[Mapping[str, str]] = {"data_config": "data"}
    """Version 0.1 wrote it so to run.json."""

    data: RegionsData
    """Scenes to learn from."""
    model: DetectorConfig
    """Architecture."""
    trainer: TrainerConfig
    """Optimization, workers and output."""


@dataclass(frozen=True)
class RegionsTask:
    """Learns a `Detector` from scenes; implements `glied.training.task.Task`."""

    config: TrainRegionsConfig
    name: str = "regions"

    def build(self) -> Detector:
        """The untrained detector over the classes of the training folder."""
        vocabulary = read_classes(self.config.data.train)
        return Detector(self.config.model, classes=vocabulary["classes"], attributes=vocabulary["attributes"])

    def data(self, split: Split) -> pa.Table:
        """Rows of `uri`, `objects` (JSON; classes and attributes are indices) and `groups` (their count)."""
        folder = self.config.data.train if split == "train" else self.config.data.validation
        vocabulary = read_classes(self.config.data.train)
        return pa.Table.from_pylist([_row(folder, scene, vocabulary) for scene in read_annotations(folder)])

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> DetectionBatch:
        """Decode the images and, in training, mirror half of them."""
        images, targets = [], []
        for row in rows:
            image = torch.from_numpy(decode(storage.read_bytes(row["uri"]))).permute(2, 0, 1).contiguous()
            target = _target(json.loads(row["objects"]), groups=row["groups"])
            if training and self.config.data.flip and torch.rand((), generator=generator) < 0.5:
                image, target = mirror(image, target)
            images.append(image)
            targets.append(target)
        return DetectionBatch(images, targets)

    def loss(self, model: nn.Module, batch: DetectionBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Sum of the proposal, box, class and attribute losses; each is logged."""
        losses = model(_to_float(batch.images), batch.targets)
        scalars = {name.removeprefix("loss_"): value.detach() for name, value in losses.items()}
        return torch.stack(list(losses.values())).sum(), scalars

    def validate(self, model: nn.Module, batches: Iterable[DetectionBatch]) -> dict[str, float]:
        """AP50 over classes, and the accuracy of each attribute group on the objects that were found."""
        detector = cast(Detector, model)
        detections: list[Target] = []
        truths: list[Target] = []
        for batch in batches:
            detections += _to_cpu(detector(_to_float(batch.images)))
            truths += _to_cpu(batch.targets)
        accuracy = attribute_accuracy(detections, truths, list(detector.attributes))
        return {"ap50": ap50(detections, truths, detector.classes), **accuracy}

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the detector in half precision, as it ships."""
        save_detector(cast(Detector, model), folder_uri)


def read_classes(folder: str) -> dict[str, Any]:
    """`classes.json` of a scene folder: "classes" (things, then stuff) and "attributes" (group -> values)."""
    stored = json.loads(_read(folder, "classes.json"))
    return {"classes": [*stored["classes"], *stored["stuff"]], "attributes": stored["attributes"]}


def read_annotations(folder: str) -> list[dict[str, Any]]:
    """`annotations.jsonl` of a scene folder, one dict per image."""
    scenes = [json.loads(line) for line in _read(folder, "annotations.jsonl").splitlines()]
    if not scenes:
        raise UsageError(f"{folder}/annotations.jsonl is empty")
    return scenes


def _read(folder: str, name: str) -> str:
    try:
        return storage.read_bytes(storage.join(folder, name)).decode()
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} is no scene folder (no {name}): make one with jobs/make_scenes.py"
        ) from error


def _row(folder: str, scene: Mapping[str, Any], vocabulary: Mapping[str, Any]) -> Row:
    classes = {name: index for index, name in enumerate(vocabulary["classes"], start=1)}
    if unknown := {item["class"] for item in scene["objects"]} - classes.keys():
        raise UsageError(f"{folder}: {scene['file_name']} has objects of unknown class: {sorted(unknown)}")
    groups = list(vocabulary["attributes"].values())
    objects = [
        {
            "box": item["box"],
            "label": classes[item["class"]],
            "attributes": _indices(item["attributes"], groups),
        }
        for item in scene["objects"]
        if _has_area(item["box"])
    ]
    uri = storage.join(folder, "images", scene["file_name"])
    return {"uri": uri, "objects": json.dumps(objects), "groups": len(groups)}


def _has_area(box: Sequence[float]) -> bool:
    """Slivers under two pixels teach nothing, and the detector refuses boxes without area."""
    return box[2] - box[0] >= 2 and box[3] - box[1] >= 2


def _indices(words: Sequence[str], groups: Sequence[Sequence[str]]) -> list[int]:
    """Per attribute group 1 + the index of its first value among `words`, 0 where it has none."""
    return [next((1 + i for i, value in enumerate(values) if value in words), 0) for values in groups]


def _target(objects: Sequence[Mapping[str, Any]], *, groups: int) -> Target:
    attributes = torch.tensor([item["attributes"] for item in objects], dtype=torch.int64)
    return {
        "boxes": torch.tensor([item["box"] for item in objects], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([item["label"] for item in objects], dtype=torch.int64),
        "attributes": attributes.reshape(-1, groups),
    }


def mirror(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Flip an image [3,H,W] and its boxes left to right."""
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[2]
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    return image.flip(2), {**target, "boxes": boxes}


def _to_float(images: Sequence[Tensor]) -> list[Tensor]:
    return [image.float() / 255 for image in images]


def _to_cpu(items: Sequence[Target]) -> list[Target]:
    return [{name: value.cpu() for name, value in item.items()} for item in items]


def attribute_accuracy(
    detections: Sequence[Target], truths: Sequence[Target], groups: Sequence[str]
) -> dict[str, float]:
    """Share of right values per group ("accuracy_color", ...), "none" included.

    Counted over ground-truth objects that some detection of their class overlaps with IoU >= 0.5; the
    best-overlapping one is asked.
    """
    right = torch.zeros(len(groups))
    found = 0
    for detection, truth in zip(detections, truths, strict=True):
        if len(detection["boxes"]) == 0 or len(truth["boxes"]) == 0:
            continue
        same_class = truth["labels"][:, None] == detection["labels"][None]
        overlap, index = (box_iou(truth["boxes"], detection["boxes"]) * same_class).max(dim=1)
        hit = overlap >= 0.5
        right += (detection["attributes"][index[hit]] == truth["attributes"][hit]).sum(dim=0)
        found += int(hit.sum())
    return {
        f"accuracy_{name}": float(value) / max(found, 1) for name, value in zip(groups, right, strict=True)
    }
