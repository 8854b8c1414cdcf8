"""Convert published weights of a detectron2 detector or a timm backbone to a checkpoint.

    .venv/bin/python jobs/convert_weights.py --weights bua-caffe-frcn-r101-k10-100.pth \\
        --model bottom-up-attention \\
        --classes objects_vocab.txt --attributes attributes_vocab.txt --out weights/bottom_up
    .venv/bin/python jobs/convert_weights.py --kind timm --weights efficientnet-lite2-9656183e.pth \\
        --model tf_efficientnet_lite2 --out weights/lite2

Reads .pth, .safetensors and, for detectors, .pkl (numpy arrays); only arrays are unpickled. detectron2 need
not be installed. docs/regions.md lists sources of published weights.

Exit code 2: the file is missing, or does not fit the options.
"""

from dataclasses import dataclass
from typing import Literal

from glied.config import parse


@dataclass(frozen=True, kw_only=True)
class Config:
    """The weights to convert."""

    weights: str
    """Local file with the weights."""
    model: str
    """Kind detectron2: bottom-up-attention, or the config of the weights in the model zoo, such as
    COCO-Detection/faster_rcnn_R_101_C4_3x.yaml. Kind timm: name of a timm model."""
    out: str
    """Folder (path or URI) of the checkpoint: regions.checkpoint of jobs with this regions.kind."""
    kind: Literal["detectron2", "timm"] = "detectron2"
    """Type of the weights: a detectron2 detector or a timm backbone."""
    classes: str = ""
    """For detectors: file with the class names, one per line; empty for COCO's 80 classes."""
    attributes: str = ""
    """For detectors: file with the attribute names, one per line; empty if the model has none."""


def main() -> int:
    """Convert the weights and print a summary."""
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
