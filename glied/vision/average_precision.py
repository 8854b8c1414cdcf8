"""Average precision of detections at IoU 0.5, computed by pycocotools."""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

Detections = dict[str, Tensor]
"""One image: boxes [n,4] xyxy, labels [n] counted from 1, and scores [n] for detections."""


def ap50_per_class(
    detections: Sequence[Detections], truths: Sequence[Detections], classes: Sequence[str]
) -> dict[str, float]:
    """Compute COCO's average precision (101 recall points) at IoU 0.5 for each class in `truths`."""
    if not any(len(image["boxes"]) for image in detections):  # pycocotools cannot load this
        present = {int(label) for image in truths for label in image["labels"]}
        return {classes[label - 1]: 0.0 for label in sorted(present)}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(truths))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(classes)],
        "annotations": _annotations(truths),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        found = truth.loadRes(_rows(detections))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU threshold, recall point, class, area range (0: all), most detections (-1: 100)]; -1 without truth.
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    means = precision.mean(axis=0)
    return {name: float(mean) for name, mean in zip(classes, means, strict=True) if mean >= 0}


def ap50(detections: Sequence[Detections], truths: Sequence[Detections], classes: Sequence[str]) -> float:
    """Compute the mean over classes of `ap50_per_class`; 0 if `truths` has no objects."""
    values = ap50_per_class(detections, truths, classes).values()
    return sum(values) / len(values) if values else 0.0


def _annotations(truths: Sequence[Detections]) -> list[dict]:
    columns = _columns(truths)
    objects = zip(columns["image"], columns["labels"], columns["boxes"], strict=True)
    return [
        {"id": number, "image_id": int(image), "category_id": int(label), "bbox": box.tolist(),
         "area": float(box[2] * box[3]), "iscrowd": 0}
        for number, (image, label, box) in enumerate(objects, start=1)
    ]  # fmt: skip


def _rows(detections: Sequence[Detections]) -> np.ndarray:
    """Return [n, 7] image, x, y, width, height, score and class, the array format of `COCO.loadRes`."""
    columns = _columns(detections)
    return np.column_stack([columns[name] for name in ("image", "boxes", "scores", "labels")])


def _columns(images: Sequence[Detections]) -> dict[str, np.ndarray]:
    counts = [len(image["boxes"]) for image in images]
    columns = {"image": np.repeat(np.arange(len(images)), counts)}
    for name in images[0] if images else ("boxes", "labels", "scores"):
        if name in ("boxes", "labels", "scores"):
            columns[name] = np.concatenate([image[name].cpu().float().numpy() for image in images])
    columns["boxes"] = np.column_stack(
        [columns["boxes"][:, :2], columns["boxes"][:, 2:] - columns["boxes"][:, :2]]
    )
    return columns
