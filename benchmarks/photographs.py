"""How good the shipped weights are on photographs: the model card's figures and examples in one command.

python benchmarks/photographs.py                       # prints the committed results
python benchmarks/photographs.py --full true --out benchmarks/results/photographs.json

With --full: captions of stored regions (configs/extract/photographs.yaml) by each captioner, greedy and with
five beams, against the references; one core. Test is measured only where --splits names it. The examples are
drawn at random from the quarter of the images with the best CIDEr and from that with the worst.
"""

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other benchmarks

from benchmarks.claims_figures import plain_figures
from benchmarks.table2 import captions_of, test_images
from glied import storage
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.config import parse, run
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.metrics.text_metrics import WITHOUT_JAVA, score, tokenized
from glied.vision.attributes import load_attributes

RESULTS = Path(__file__).parent / "results" / "photographs.json"
BEAMS = (1, 5)
COLUMNS = ("CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L", "repeated bigrams", "length")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights, on which photographs."""

    full: bool = False
    """Measure, instead of printing what was measured."""
    splits: tuple[str, ...] = ("val",)
    """Splits that are measured; the last gives the examples."""
    features: str = "runs/photographs/features"
    """Folder of their feature stores."""
    captions: str = "data/flickr8k"
    """Folder of the splits, each with its captions.json."""
    weights: str = "glied/weights/photographs"
    """Folder with the attributes and the captioners."""
    captioners: tuple[str, ...] = ("glied", "glied_cider")
    """Their folders; the last is that of the examples."""
    examples: int = 12
    """Examples of good captions, and of bad ones."""
    out: str | None = None
    """Where to write the results as JSON."""


def main() -> int:
    """Measure, or print what was measured."""
    config = parse(Config, description=__doc__)
    results = measure(config) if config.full else json.loads(RESULTS.read_text())
    print(markdown(results))
    if config.out:
        storage.write_bytes(config.out, json.dumps(results, indent=1).encode() + b"\n")
    return 0


def measure(config: Config) -> dict[str, Any]:
    """Figures of each captioner on each split, and the examples."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for split in config.splits:
        images = split_images(config, split)
        for name in config.captioners:
            for beams in BEAMS:
                texts, seconds = captions(config, images, name, beams)
                references = {image: images.references[image] for image in texts}
                scores = score(tokenized(texts, references), WITHOUT_JAVA)
                figures = {**scores.values, **plain_figures(list(texts.values()))}
                rows.append(
                    {"split": split, "images": len(texts), "captioner": name, "beams": beams}
                    | {key: round(figures[key], 1) for key in COLUMNS}
                    | {"captions/s": round(len(texts) / seconds)}
                )
    examples = drawn(texts, references, scores.by_image["CIDEr"].tolist(), config.examples)
    return {"rows": rows, "examples": examples}


def split_images(config: Config, split: str) -> CaptionedRegions:
    """The stored regions and the captions of a split."""
    captions_file = storage.join(config.captions, split, "captions.json")
    return CaptionedRegions(features=storage.join(config.features, split), captions=captions_file)


def captions(config: Config, images: CaptionedRegions, name: str, beams: int) -> tuple[dict[str, str], float]:
    """Caption by image, and the CPU seconds that the captioner took."""
    predictor = load_attributes(storage.join(config.weights, "attributes")).eval()
    decoding = DecodingConfig(beam_size=beams, max_length=20)
    captioner = Captioner.load(storage.join(config.weights, name), decoding)
    names = [images.name(image_id) for image_id in features.image_ids(images.features)]
    inputs = test_images(images, predictor, captioner.attribute_count, None)
    start = time.process_time()
    texts = captions_of(captioner, inputs)
    return dict(zip(names, texts, strict=True)), time.process_time() - start


def drawn(
    texts: Mapping[str, str], references: Mapping[str, Sequence[str]], cider: Sequence[float], count: int
) -> dict[str, list[Any]]:
    """Caption, first reference and CIDEr of `count` images of the best and of the worst quarter."""
    order = [name for _, name in sorted(zip(cider, texts, strict=True), reverse=True)]
    by_name = dict(zip(texts, cider, strict=True))
    quarter = len(order) // 4
    chosen = {"best": order[:quarter], "worst": order[-quarter:]}
    return {
        part: [
            {"caption": texts[name], "reference": references[name][0], "CIDEr": round(by_name[name])}
            for name in random.Random(0).sample(names, min(count, len(names)))
        ]
        for part, names in chosen.items()
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The results as tables."""
    columns = ["split", "captioner", "beams", *COLUMNS, "captions/s"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[key]) for key in columns) + " |" for row in results["rows"]]
    for part, examples in results["examples"].items():
        lines += ["", f"| {part} quarter: caption | first reference | CIDEr |", "|---|---|---|"]
        lines += [f"| {one['caption']} | {one['reference']} | {one['CIDEr']} |" for one in examples]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
