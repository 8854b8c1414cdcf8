"""Turn published weights of a detectron2 detector into a checkpoint: safetensors and JSON, nothing pickled.

    python jobs/convert_weights.py --weights bua-caffe-frcn-r101-k10-100.pth --model bottom-up-attention \\
        --classes objects_vocab.txt --attributes attributes_vocab.txt --out weights/bottom_up

Reads .pth, .pkl (numpy arrays) and .safetensors; the first two in a process of its own, which admits arrays
only. detectron2 need not be installed. docs/regions.md says where published weights are. Exit code 2: the
file is missing, or not what was said.
"""

from dataclasses import dataclass

from glied.config import parse, run


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to convert."""

    weights: str
    """Local file with the weights."""
    model: str
    """bottom-up-attention, or the model zoo's config of the weights, such as
    COCO-Detection/faster_rcnn_R_101_C4_3x.yaml."""
    out: str
    """Folder (path or URI) of the checkpoint: regions.checkpoint of jobs with regions.kind detectron2."""
    classes: str = ""
    """File with the names of the classes, one a line; empty for the 80 of COCO."""
    attributes: str = ""
    """File with the names of the attributes, one a line; empty where the model has none."""


def main() -> int:
    """Convert, report."""
    config = parse(Config, description=__doc__)

    from glied.vision.conversion import convert_file, read_words  # torch is slow to import

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


if __name__ == "__main__":
    run(main)
