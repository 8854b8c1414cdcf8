"""Measure the shipped weights on the test scenes of the demo world: the figures of their model card.

python jobs/make_scenes.py --out data/scenes/test --split test --count 500
python benchmarks/demo_world.py --out results.json

Regions: AP50 and the accuracy of the attribute head. Attributes: mean average precision over content words
with at least 20 positive test images. Captions of each captioner, from predicted regions and attributes: text
metrics, the percentage of captions with a repeated bigram, and CLIP-S, R@1 and p(grammatical) by the shipped
CLIP, which was also the reward of one of the captioners. The script uses no Ray and takes some minutes on two
cores. The last line is one JSON object with all figures.
"""

import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.measurement import batches, print_result
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
from glied.training.config import TrainerConfig
from glied.training.tasks.attributes import average_precisions
from glied.training.tasks.regions import RegionsData, RegionsTask, TrainRegionsConfig
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
    """Which weights and scenes to measure."""

    scenes: str = "data/scenes/test"
    """Scene folder of jobs/make_scenes.py."""
    weights: str = "glied/weights/demo"
    """Folder of the detector, the attribute predictor, the CLIP and the captioners."""
    beam_size: int = 3
    """Beam width of the captions."""
    minimum_positives: int = 20
    """Words that are in the references of fewer images do not count in the mean average precision."""
    threads: int = 2
    """Number of torch threads."""
    out: str | None = None
    """File for the figures as JSON."""


def main() -> int:
    """Measure regions, attributes and captions, and print the figures."""
    config = parse(Config, description=__doc__)
    torch.set_num_threads(config.threads)
    references = load_captions(storage.join(config.scenes, "captions.json"))
    with torch.inference_mode():
        figures = detection(config)
        regions, seconds = extract(config, list(references))
        figures["regions_images_per_s"] = len(regions) / seconds
        predictor = load_attributes(storage.join(config.weights, "attributes"))
        figures |= attribute_precision(config, predictor, regions, references)
        words = [
            word for part in batches(regions, BATCH) for word in predictor.top(RegionBatch.collate(part), 49)
        ]
        clip = ClipConfig(checkpoint=storage.join(config.weights, "grammar"))
        scorer = ClipMetrics(clip, storage.join(config.scenes, "images"))
        for name in CAPTIONERS:
            figures |= captions(config, name, regions, words, references, scorer)
    figures |= {"images": len(regions), "processor": platform.processor() or platform.machine()}
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print_result(rounded, config.out, indent=None)
    return 0


def detection(config: Config) -> dict[str, Any]:
    """Measure AP50 over the classes, and the accuracy of each attribute group on the detected objects."""
    detector, _ = load_detector(storage.join(config.weights, "regions"))
    data = RegionsData(train=config.scenes, validation=config.scenes)
    job = TrainRegionsConfig(data=data, model=DetectorConfig(), trainer=TrainerConfig(output=""))
    task = RegionsTask(job)
    rows = task.data("validation").to_pylist()
    generator = torch.Generator()
    collated = (
        task.collate(part, training=False, generator=generator)  # type: ignore[arg-type]  # lists
        for part in batches(rows, BATCH)
    )
    figures = task.validate(detector.eval(), collated)
    return {f"regions_{name}": value for name, value in figures.items()}


def extract(config: Config, names: list[str]) -> tuple[list[Regions], float]:
    """Return the regions of the scenes, as the bulk job extracts them, and the seconds of extraction."""
    extractor = load_extractor(RegionsConfig(checkpoint=storage.join(config.weights, "regions")))
    images = [decode(storage.read_bytes(storage.join(config.scenes, "images", name))) for name in names]
    start = time.perf_counter()
    regions = [one for part in batches(images, BATCH) for one in extractor(part)]
    return regions, time.perf_counter() - start


def attribute_precision(
    config: Config, predictor: AttributePredictor, regions: list[Regions], references: dict[str, list[str]]
) -> dict[str, Any]:
    """Measure the mean average precision over content words with enough positives."""
    collated = (RegionBatch.collate(part) for part in batches(regions, BATCH))
    scores = torch.cat([predictor.probabilities(batch.features, batch.mask) for batch in collated])
    by_image = [{word for text in texts for word in tokenize(text)} for texts in references.values()]
    targets = torch.tensor([[float(word in words) for word in predictor.words] for words in by_image])
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
    """Measure the text and CLIP metrics of a captioner, and its speed without region extraction."""
    captioner = Captioner.load(storage.join(config.weights, name), DecodingConfig(beam_size=config.beam_size))
    start = time.perf_counter()
    texts = [
        hypotheses[0].text
        for part, attributes in zip(batches(regions, BATCH), batches(words, BATCH), strict=True)
        for hypotheses in captioner.caption(part, attributes)
    ]
    seconds = time.perf_counter() - start
    by_image = dict(zip(references, texts, strict=True))
    clip_metrics = scorer(by_image).values
    metrics = text_metrics(by_image, references) | {name: clip_metrics[name] for name in CLIP_FIGURES}
    metrics["repeated bigrams"] = diversity(texts)["repeats-2"]
    figures: dict[str, Any] = {f"{name}_{metric}": value for metric, value in metrics.items()}
    parameters = sum(parameter.numel() for parameter in captioner.model.parameters())
    return figures | {f"{name}_captions_per_s": len(texts) / seconds, f"{name}_parameters": parameters}


if __name__ == "__main__":
    run(main)
