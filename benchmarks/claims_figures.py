"""What a cell of benchmarks/claims.py measures of its captions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from glied import checkpoint, storage
from glied.clip.config import ClipConfig
from glied.data.finecapeval import load_annotations
from glied.demo_world.scene_precision import precision
from glied.metrics.clip_metrics import ClipMetrics
from glied.metrics.diversity import diversity
from glied.metrics.finecapeval import word_recall
from glied.metrics.text_metrics import Metric, score, tokenized
from glied.text.tokenizer import tokenize

if TYPE_CHECKING:
    from benchmarks.claims_config import Config

Captions = dict[str, str]
"""By the image's name."""
References = dict[str, list[str]]
"""By the image's name."""

MAX_LENGTH = 20
"""Words of a caption; longer ones are cut."""
CLIP_FIGURES = ("CLIP-S", "R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Figures:
    """What was measured.

    Attributes:
        values: by the name of the figure.
        by_image: of some figures the values of the images, in the order of the captions.
    """

    values: dict[str, float]
    by_image: dict[str, list[float]]


def figures(config: "Config", said: Mapping[int, Captions], references: References) -> Figures:
    """All figures of the greedy captions, and text metrics of those by more beams.

    Without a CLIP or judge their columns are missing.

    Args:
        config: of the script.
        said: captions by number of beams.
        references: of the same images.
    """
    metrics = [name for name in config.spec.metrics if name != "METEOR" or not config.short]
    found = text_figures(said[1], references, metrics)
    values = found.values | clip_figures(config, said[1]) | plain_figures(list(said[1].values()))
    if config.spec.scenes:
        values |= scene_figures(config.scenes, said[1])
    for beam in said.keys() - {1}:
        more = text_figures(said[beam], references, metrics).values
        values |= {f"{name}, beam {beam}": value for name, value in more.items()}
    return Figures(values, found.by_image)


def text_figures(said: Captions, references: References, metrics: list[Metric]) -> Figures:
    """Against the references; CIDEr also by image. Of BLEU that of four words alone."""
    scores = score(tokenized(said, references), metrics)
    values = {
        name: value for name, value in scores.values.items() if name not in ("BLEU-1", "BLEU-2", "BLEU-3")
    }
    return Figures(values, {"CIDEr": scores.by_image["CIDEr"].round(2).tolist()})


def clip_figures(config: "Config", said: Captions) -> dict[str, float]:
    """By the CLIP that rewards and by the judge, as far as there are any."""
    found: dict[str, float] = {}
    for name, uri in (("clip", config.clip), ("judge", config.judge_checkpoint)):
        if digest(uri) is None:
            continue
        values = _clip(uri, storage.join(config.scenes, config.spec.images))(said).values
        found |= {f"{name} {figure}": values[figure] for figure in CLIP_FIGURES}
        if name == "clip" and "p(grammatical)" in values:
            found["p(grammatical)"] = values["p(grammatical)"]
    return found


@cache
def _clip(uri: str, images: str) -> ClipMetrics:
    """One for all cells: it encodes the images once."""
    return ClipMetrics(ClipConfig(checkpoint=uri), images)


def digest(uri: str) -> str | None:
    """Of a checkpoint; None where there is none."""
    if not uri or not storage.exists(storage.join(uri, checkpoint.METADATA)):
        return None
    return checkpoint.load(uri).digest


def scene_figures(scenes: str, said: Captions) -> dict[str, float]:
    """Recall of FineCapEval's phrases and precision of what is named, x 100."""
    rows = [row for row in load_annotations(storage.join(scenes, "finecapeval.csv")) if row.image in said]
    found = {}
    for criterion, by_image in word_recall(said, rows).items():
        found[f"recall {criterion}"] = 100 * sum(by_image.values()) / max(1, len(by_image))
    lines = storage.read_bytes(storage.join(scenes, "annotations.jsonl")).decode().splitlines()
    annotated = {line["file_name"]: line for line in map(json.loads, lines)}
    return found | {f"precision {name}": value for name, value in precision(said, annotated).items()}


def plain_figures(texts: list[str]) -> dict[str, float]:
    """Of the captions by themselves; "cut" is the share that is as long as a caption may be."""
    shape = diversity(texts)
    return {
        "repeated bigrams": shape.get("repeats-2", 0.0),
        "length": shape.get("length", 0.0),
        "cut": 100 * sum(len(tokenize(text)) >= MAX_LENGTH for text in texts) / len(texts),
    }
