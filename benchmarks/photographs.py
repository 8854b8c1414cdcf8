"""Measure the shipped weights for photographs: the figures and examples of their model card.

python benchmarks/photographs.py                       # prints the committed results
python benchmarks/photographs.py --full true --out benchmarks/results/photographs.json

With --full, each captioner describes the images of a feature store (configs/extract/photographs.yaml)
greedily and with five beams, on one core, and its captions are compared with the references. The test split
is measured only if --splits names it. The examples are drawn at random from the quarter of the images with
the highest CIDEr and from the quarter with the lowest. The last line is one JSON object with all results.
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

from benchmarks.captioners import captions_of, test_images
from benchmarks.claims_figures import plain_figures
from benchmarks.measurement import print_result
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
    """Which weights and photographs to measure."""

    full: bool = False
    """Measure instead of printing the committed results."""
    splits: tuple[str, ...] = ("val",)
    """Splits to measure; the examples come from the last one."""
    features: str = "runs/photographs/features"
    """Folder of the splits' feature stores."""
    captions: str = "data/flickr8k"
    """Folder of the splits, each with its captions.json."""
    weights: str = "glied/weights/photographs"
    """Folder of the attribute predictor and the captioners."""
    captioners: tuple[str, ...] = ("glied", "glied_cider")
    """Folders of the captioners; the examples come from the last one."""
    examples: int = 12
    """Number of good examples, and of bad examples."""
    out: str | None = None
    """File for the results as JSON."""


def main() -> int:
    """Measure, or read the committed results, and print them."""
    config = parse(Config, description=__doc__)
    results = measure(config) if config.full else json.loads(RESULTS.read_text())
    print(markdown(results))
    print_result(results, config.out)
    return 0


def measure(config: Config) -> dict[str, Any]:
    """Measure each captioner on each split, and draw the examples."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for split in config.splits:
        images = split_images(config, split)
        for name in config.captioners:
            for beams in BEAMS:
                texts, seconds = captions(config, images, name, beams)
                references = {image: images.references[image] for image in texts}
                scores = score(tokenized(texts, references), WITHOUT_JAVA)
                figures = {**scores.values, **plain_figures(list(texts.values())).values}
                rows.append(
                    {"split": split, "images": len(texts), "captioner": name, "beams": beams}
                    | {key: round(figures[key], 1) for key in COLUMNS}
                    | {"captions/s": round(len(texts) / seconds)}
                )
    examples = draw_examples(texts, references, scores.by_image["CIDEr"].tolist(), config.examples)
    return {"rows": rows, "examples": examples}


def split_images(config: Config, split: str) -> CaptionedRegions:
    """Return the stored regions and the reference captions of a split."""
    captions_file = storage.join(config.captions, split, "captions.json")
    return CaptionedRegions(features=storage.join(config.features, split), captions=captions_file)


def captions(config: Config, images: CaptionedRegions, name: str, beams: int) -> tuple[dict[str, str], float]:
    """Return the caption of each image, and the CPU seconds that decoding took."""
    predictor = load_attributes(storage.join(config.weights, "attributes")).eval()
    decoding = DecodingConfig(beam_size=beams, max_length=20)
    captioner = Captioner.load(storage.join(config.weights, name), decoding)
    names = [images.name(image_id) for image_id in features.image_ids(images.features)]
    inputs = test_images(images, predictor, captioner.attribute_count, None)
    start = time.process_time()
    texts = captions_of(captioner, inputs)
    return dict(zip(names, texts, strict=True)), time.process_time() - start


def draw_examples(
    texts: Mapping[str, str], references: Mapping[str, Sequence[str]], cider: Sequence[float], count: int
) -> dict[str, list[Any]]:
    """Draw `count` images of the best and of the worst quarter: caption, first reference and CIDEr."""
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
    """Format the results as Markdown tables."""
    columns = ["split", "captioner", "beams", *COLUMNS, "captions/s"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[key]) for key in columns) + " |" for row in results["rows"]]
    for part, examples in results["examples"].items():
        lines += ["", f"| {part} quarter: caption | first reference | CIDEr |", "|---|---|---|"]
        lines += [f"| {one['caption']} | {one['reference']} | {one['CIDEr']} |" for one in examples]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
