"""How good the shipped weights are on the demo world's test scenes: the model card's figures in one command.

python jobs/make_scenes.py --out data/scenes/test --split test --count 500
python benchmarks/demo_world.py --out results.json

Regions: AP50 and the attribute head's accuracy. Attributes: mean average precision over content words that
at least 20 test images have. Captions of each captioner, from predicted regions and attributes: text metrics,
CLIP-S, R@1 and p(grammatical) by the CLIP that ships (and that rewarded one of them), share that has a bigram
twice. The last line is one JSON object with all figures. Plain torch; minutes on two cores.
"""

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from glied import storage
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.clip.config import ClipConfig
from glied.config import parse, run
from glied.data.coco import load_captions
from glied.metrics.clip_metrics import ClipMetrics
from glied.metrics.diversity import diversity
from glied.metrics.text_metrics import text_metrics
from glied.regions import RegionBatch, Regions
from glied.text.tokenizer import tokenize
from glied.training.tasks.attributes import average_precisions
from glied.training.tasks.regions import RegionsData, RegionsTask
from glied.vision.attributes import AttributePredictor, load_attributes
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.small_detector import DetectorConfig, load_detector
from glied.vision.images import decode

BATCH = 16
CAPTIONERS = ("base", "glied", "glied_cider", "glied_clip_s_grammar")
CLIP_FIGURES = ("CLIP-S", "R@1", "p(grammatical)")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights, on which scenes."""

    scenes: str = "data/scenes/test"
    """Scene folder of jobs/make_scenes.py."""
    weights: str = "glied/weights/demo"
    """Folder with regions, attributes, grammar and the captioners."""
    beam_size: int = 3
    """Beam width of the captions."""
    minimum_positives: int = 20
    """Words in the references of fewer images do not count in the mean average precision."""
    threads: int = 2
    """Threads of torch."""
    out: str | None = None
    """Where to write the figures as JSON."""


def main() -> int:
    """Measure the three parts and print."""
    config = parse(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    references = load_captions(storage.join(config.scenes, "captions.json"))
    with torch.inference_mode():
        figures = detection(config)
        regions, seconds = extract(config, list(references))
        figures["regions_images_per_s"] = len(regions) / seconds
        predictor = load_attributes(storage.join(config.weights, "attributes"))
        figures |= attribute_precision(config, predictor, regions, references)
        words = [word for batch in batches(regions) for word in predictor.top(RegionBatch.collate(batch), 49)]
        clip = ClipConfig(checkpoint=storage.join(config.weights, "grammar"))
        scorer = ClipMetrics(clip, storage.join(config.scenes, "images"))
        for name in CAPTIONERS:
            figures |= captions(config, name, regions, words, references, scorer)
    figures |= {"images": len(regions), "processor": platform.processor() or platform.machine()}
    report = json.dumps(
        {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    )
    if config.out:
        storage.write_bytes(config.out, report.encode() + b"\n")
    print(report)
    return 0


def detection(config: Config) -> dict[str, Any]:
    """AP50 over classes and the accuracy of each attribute group on the objects found."""
    detector, _ = load_detector(storage.join(config.weights, "regions"))
    data = RegionsData(train=config.scenes, validation=config.scenes)
    task = RegionsTask(data_config=data, model=DetectorConfig())
    rows = task.data("validation").to_pylist()
    generator = torch.Generator()
    parts = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    found = task.validate(
        detector.eval(), (task.collate(part, training=False, generator=generator) for part in parts)
    )
    return {f"regions_{name}": value for name, value in found.items()}


def extract(config: Config, names: list[str]) -> tuple[list[Regions], float]:
    """The regions of the scenes as the bulk job would find them, and the seconds it took."""
    extractor = load_extractor(RegionsConfig(checkpoint=storage.join(config.weights, "regions")))
    images = [decode(storage.read_bytes(storage.join(config.scenes, "images", name))) for name in names]
    start = time.perf_counter()
    regions = [one for part in batches(images) for one in extractor(part)]
    return regions, time.perf_counter() - start


def attribute_precision(
    config: Config, predictor: AttributePredictor, regions: list[Regions], references: dict[str, list[str]]
) -> dict[str, Any]:
    """Mean average precision over content words with enough positives."""
    collated = (RegionBatch.collate(part) for part in batches(regions))
    scores = torch.cat([predictor.probabilities(batch.features, batch.mask) for batch in collated])
    said = [{word for text in texts for word in tokenize(text)} for texts in references.values()]
    targets = torch.tensor([[float(word in found) for word in predictor.words] for found in said])
    precisions = average_precisions(
        scores.numpy(), targets.numpy(), predictor.words, config.minimum_positives
    )
    return {"attributes_map": sum(precisions.values()) / len(precisions), "attributes_words": len(precisions)}


def captions(
    config: Config,
    name: str,
    regions: list[Regions],
    words: list[list[tuple[str, float]]],
    references: dict[str, list[str]],
    scorer: ClipMetrics,
) -> dict[str, Any]:
    """Text and CLIP metrics of one captioner and its speed from given regions."""
    captioner = Captioner.load(storage.join(config.weights, name), DecodingConfig(beam_size=config.beam_size))
    start = time.perf_counter()
    texts = [
        found[0].text
        for part, attributes in zip(batches(regions), batches(words), strict=True)
        for found in captioner.caption(part, attributes)
    ]
    seconds = time.perf_counter() - start
    said = dict(zip(references, texts, strict=True))
    seen = scorer(said).values
    metrics = text_metrics(said, references) | {metric: seen[metric] for metric in CLIP_FIGURES}
    metrics["repeated bigrams"] = diversity(texts)["repeats-2"]
    figures: dict[str, Any] = {f"{name}_{metric}": value for metric, value in metrics.items()}
    parameters = sum(parameter.numel() for parameter in captioner.model.parameters())
    return figures | {f"{name}_captions_per_s": len(texts) / seconds, f"{name}_parameters": parameters}


def batches(items: list[Any]) -> Iterator[list[Any]]:
    """Consecutive parts of at most `BATCH` items."""
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


if __name__ == "__main__":
    run(main)
