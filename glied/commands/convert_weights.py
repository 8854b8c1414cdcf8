"""Turn published weights of a detectron2 detector or a timm backbone into a checkpoint: safetensors and JSON.

    .venv/bin/python jobs/convert_weights.py --weights bua-caffe-frcn-r101-k10-100.pth \\
        --model bottom-up-attention \\
        --classes objects_vocab.txt --attributes attributes_vocab.txt --out weights/bottom_up
    .venv/bin/python jobs/convert_weights.py --kind timm --weights efficientnet-lite2-9656183e.pth \\
        --model tf_efficientnet_lite2 --out weights/lite2

Reads .pth, .safetensors and, of detectors, .pkl (numpy arrays); nothing but arrays is ever unpickled.
detectron2 need not be installed. docs/regions.md says where published weights are. Exit code 2: the file is
missing, or not what was said.
"""

from dataclasses import dataclass
from typing import Literal

from glied.config import parse


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to convert."""

    weights: str
    """Local file with the weights."""
    model: str
    """Kind detectron2: bottom-up-attention, or the model zoo's config of the weights, such as
    COCO-Detection/faster_rcnn_R_101_C4_3x.yaml. Kind timm: name of a timm model."""
    out: str
    """Folder (path or URI) of the checkpoint: regions.checkpoint of jobs with this regions.kind."""
    kind: Literal["detectron2", "timm"] = "detectron2"
    """What the weights are of: a detector, or a backbone whose cells are regions."""
    classes: str = ""
    """Of detectors: file with the names of the classes, one a line; empty for the 80 of COCO."""
    attributes: str = ""
    """Of detectors: file with the names of the attributes, one a line; empty where the model has none."""


def main() -> int:
    """Convert, report."""
    config = parse(Config, description=__doc__)
    if config.kind == "timm":
        from glied.vision.extractors.timm_weights import convert_backbone  # torch is slow to import

        backbone = convert_backbone(config.weights, config.out, model=config.model)
        print(f"{config.out}: {sum(one.numel() for one in backbone.parameters()):,} parameters")
        return 0

    from glied.vision.extractors.detectron_weights import convert_file, read_words  # torch is slow to import

    converted = convert_file(
        config.weights,
        config.out,
        model=config.model,
        classes=read_words(config.classes) if config.classes else [],
        attributes=read_words(config.attributes) if config.attributes else [],
    )
    tensors, classes = len(converted.tensors), converted.classes
    print(f"{config.out}: {tensors} tensors, {classes} classes, {converted.attributes} attributes")
    return 0
