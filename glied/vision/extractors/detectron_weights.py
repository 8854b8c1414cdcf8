"""Conversion of published weights of detectron2 detectors to our checkpoints.

Two conversions of the Caffe weights of bottom-up attention exist. They differ in the position of the
background, in the outputs of the proposal network, and in names. Both are converted to one layout:
detectron2's own names, the background last, one objectness per anchor, the attribute "none" first.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from glied import checkpoint
from glied.errors import UsageError
from glied.vision.extractors import array_unpickler, bottom_up
from glied.vision.extractors.detectron_regions import ANCHORS, ATTRIBUTE_HEAD, BOTTOM_UP, KIND, coco_classes

_PREDICTOR = "roi_heads.box_predictor."
_OBJECTNESS = "proposal_generator.rpn_head.objectness_logits."
_CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
_DROPPED = (
    "roi_heads.mask_head.",
    "roi_heads.keypoint_head.",
    "proposal_generator.anchor_generator.",
    "pixel_",
)
_HEADS = (
    # Prefix and part names of the attribute head in the three kinds of files.
    ("roi_heads.attribute_predictor.", {"obj_embed": "embedding", "fc.0": "hidden", "attr_score": "logits"}),
    (_PREDICTOR, {"cls_embed": "embedding", "attr_linear1": "hidden", "attr_linear2": "logits"}),
    (_PREDICTOR, {"cls_embedding": "embedding", "fc_attr": "hidden", "attr_score": "logits"}),
)


@dataclass(frozen=True)
class Converted:
    """Converted weights.

    Attributes:
        tensors: tensors by the names that `detectron_regions` uses.
        classes: number of classes, without the background.
        attributes: number of attributes, without "none"; 0 without an attribute head.
    """

    tensors: dict[str, Tensor]
    classes: int
    attributes: int


def convert_file(
    path: str, folder_uri: str, *, model: str, classes: Sequence[str], attributes: Sequence[str]
) -> Converted:
    """Write a checkpoint folder with the weights of a .pkl, .pth or .safetensors file.

    Args:
        path: local file.
        folder_uri: the checkpoint folder.
        model: as `RegionsConfig.model` of kind detectron2.
        classes: class names in the order of the outputs; empty for COCO's classes.
        attributes: attribute names in the order of the outputs; empty for none.

    Raises:
        UsageError: the file is missing, has other content, or does not fit the names.
    """
    converted = convert(_read(path), caffe=model == BOTTOM_UP)
    classes = list(classes) or coco_classes()
    for name, given, found in (
        ("classes", classes, converted.classes),
        ("attributes", attributes, converted.attributes),
    ):
        if len(given) != found:
            raise UsageError(f"{name}: {len(given)} names, but {path} has {found} outputs")
    about = {
        "kind": KIND,
        "model": model,
        "classes": classes,
        "attributes": list(attributes),
        "source": {"name": Path(path).name, "sha256": _sha256(path)},
    }
    checkpoint.save(folder_uri, converted.tensors, about)
    return converted


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UsageError(f"weights {path}: no such file; download published weights first")
    if path.endswith(".safetensors"):
        return safetensors.torch.load_file(path)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "weights.safetensors")
        array_unpickler.to_safetensors(path, out)
        return safetensors.torch.load_file(out)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def convert(published: Mapping[str, Tensor], *, caffe: bool) -> Converted:
    """Convert any of the published layouts.

    Args:
        published: tensors by name.
        caffe: whether they belong to the network with Caffe's operators, whose anchors are part of the
            weights.

    Raises:
        UsageError: the tensors are not those of a Faster R-CNN of detectron2.
    """
    if _PREDICTOR + "cls_score.weight" not in published:
        raise UsageError(f"not weights of a Faster R-CNN of detectron2: {_PREDICTOR}cls_score is missing")
    tensors = {
        name: tensor.float()
        for name, tensor in published.items()
        if not name.startswith(_DROPPED) and not name.endswith("num_batches_tracked")
    }
    head = _take_head(tensors)
    background_first = len(tensors[_PREDICTOR + "bbox_pred.bias"]) == 4 * len(
        tensors[_PREDICTOR + "cls_score.bias"]
    )
    # Caffe's network has two outputs per anchor: all "background", then all "object".
    paired = 4 * len(tensors[_OBJECTNESS + "bias"]) == 2 * _anchor_outputs(tensors)
    if background_first:
        _move_background(tensors, head)
    if paired:
        for kind in ("weight", "bias"):
            background, foreground = tensors[_OBJECTNESS + kind].chunk(2)
            tensors[_OBJECTNESS + kind] = foreground - background  # same ranking as their softmax
    if caffe:
        given = published.get(_CELL_ANCHORS)
        tensors[ANCHORS] = bottom_up.anchors(by_ratio=paired) if given is None else given.float()
    classes, attributes = len(tensors[_PREDICTOR + "cls_score.bias"]) - 1, 0
    if head:
        attributes = len(head["logits.bias"]) - int(caffe)
        if caffe and not background_first:  # with the background last, "none" is last, too
            head |= {name: head[name].roll(1, dims=0) for name in ("logits.weight", "logits.bias")}
    named = {ATTRIBUTE_HEAD + name: tensor for name, tensor in head.items()}
    return Converted(tensors | named, classes, attributes)


def _anchor_outputs(tensors: Mapping[str, Tensor]) -> int:
    return len(tensors["proposal_generator.rpn_head.anchor_deltas.bias"])


def _take_head(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the attribute head's tensors from `tensors`; return them by our names, empty without a head."""
    for prefix, parts in _HEADS:
        names = [(f"{prefix}{theirs}.", f"{ours}.") for theirs, ours in parts.items()]
        if all(theirs + "weight" in tensors for theirs, _ in names):
            return {
                ours + kind: tensors.pop(theirs + kind)
                for theirs, ours in names
                for kind in ("weight", "bias")
                if theirs + kind in tensors
            }
    return {}


def _move_background(tensors: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    """Move the background from the first row to the last, and drop it from the boxes."""
    for kind in ("weight", "bias"):
        scores = tensors[f"{_PREDICTOR}cls_score.{kind}"]
        tensors[f"{_PREDICTOR}cls_score.{kind}"] = scores.roll(-1, dims=0)
        tensors[f"{_PREDICTOR}bbox_pred.{kind}"] = tensors[f"{_PREDICTOR}bbox_pred.{kind}"][4:]
    if head:
        head["embedding.weight"] = head["embedding.weight"].roll(-1, dims=0)


def read_words(path: str) -> list[str]:
    """Read names from a file, one per line; of several separated by commas, the first is used.

    Raises:
        UsageError: there is no such file.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return [line.split(",")[0].strip().lower() for line in lines if line.strip()]
