"""The figures that benchmarks/claims.py computes from the captions of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from glied import checkpoint, storage
from glied.clip.config import ClipConfig
from glied.data.finecapeval import load_annotations
from glied.demo_world.scene_precision import CRITERIA, precision, statements
from glied.metrics.clip_metrics import ClipMetrics
from glied.metrics.diversity import diversity
from glied.metrics.finecapeval import word_recall
from glied.metrics.text_metrics import Metric, score, tokenized
from glied.text.repetition import repeated_share
from glied.text.tokenizer import tokenize

if TYPE_CHECKING:
    from benchmarks.claims_config import Config

Captions = dict[str, str]
"""Caption by image name."""
References = dict[str, list[str]]
"""Reference captions by image name."""

MAX_LENGTH = 20
"""Maximum number of words of a caption; longer ones are truncated."""
CLIP_FIGURES = ("CLIP-S", "R@1", "R@5", "R@10")


@dataclass(frozen=True)
class Figures:
    """The figures of a set of captions.

    Attributes:
        values: value by figure.
        by_image: for some figures, the values of the images in the order of the captions; of a share, a list
            of [right, all] instead.
    """

    values: dict[str, float]
    by_image: dict[str, list[Any]]

    def __or__(self, other: "Figures") -> "Figures":
        """Return the figures of both."""
        return Figures(self.values | other.values, self.by_image | other.by_image)


def figures(config: "Config", captions: Mapping[int, Captions], references: References) -> Figures:
    """Compute all figures of the greedy captions and the text metrics of the beam search captions.

    Figures of the CLIP and the judge are left out if there is none.

    Args:
        config: options of the script.
        captions: captions by number of beams.
        references: reference captions of the same images.
    """
    metrics = [name for name in config.spec.metrics if name != "METEOR" or not config.short]
    found = text_figures(captions[1], references, metrics)
    found |= clip_figures(config, captions[1]) | plain_figures(list(captions[1].values()))
    if config.spec.scenes:
        found |= scene_figures(config.scenes, captions[1])
    for beam in captions.keys() - {1}:
        more = text_figures(captions[beam], references, metrics)
        found |= Figures(
            *({f"{key}, beam {beam}": own for key, own in part.items()} for part in vars(more).values())
        )
    return found


def text_figures(captions: Captions, references: References, metrics: list[Metric]) -> Figures:
    """Compute the text metrics (of BLEU only BLEU-4) and the CIDEr of each image."""
    scores = score(tokenized(captions, references), metrics)
    values = {
        name: value for name, value in scores.values.items() if name not in ("BLEU-1", "BLEU-2", "BLEU-3")
    }
    return Figures(values, {"CIDEr": scores.by_image["CIDEr"].round(2).tolist()})


def clip_figures(config: "Config", captions: Captions) -> Figures:
    """Compute the figures of the reward CLIP and the judge, if there are any; by image the R@1."""
    figures = Figures({}, {})
    for name, uri in (("clip", config.clip), ("judge", config.judge_checkpoint)):
        if digest(uri) is None:
            continue
        found = _clip(uri, storage.join(config.scenes, config.spec.images))(captions)
        values = {f"{name} {figure}": found.values[figure] for figure in CLIP_FIGURES}
        if name == "clip" and "p(grammatical)" in found.values:
            values["p(grammatical)"] = found.values["p(grammatical)"]
        figures |= Figures(values, {f"{name} R@1": found.by_image["R@1"].astype(int).tolist()})
    return figures


@cache
def _clip(uri: str, images: str) -> ClipMetrics:
    """Return the metrics of a CLIP; cached, so that the images are encoded once for all runs."""
    return ClipMetrics(ClipConfig(checkpoint=uri), images)


def digest(uri: str) -> str | None:
    """Return the digest of a checkpoint, or None if there is no checkpoint."""
    if not uri or not storage.exists(storage.join(uri, checkpoint.METADATA)):
        return None
    return checkpoint.load(uri).digest


def scene_figures(scenes: str, captions: Captions) -> Figures:
    """Compute the recall of the FineCapEval phrases and the precision of the words, in percent."""
    rows = [row for row in load_annotations(storage.join(scenes, "finecapeval.csv")) if row.image in captions]
    recalls = {}
    for criterion, by_image in word_recall(captions, rows).items():
        recalls[f"recall {criterion}"] = 100 * sum(by_image.values()) / max(1, len(by_image))
    lines = storage.read_bytes(storage.join(scenes, "annotations.jsonl")).decode().splitlines()
    annotated = {line["file_name"]: line for line in map(json.loads, lines)}
    stated = [list(statements(caption, annotated[image])) for image, caption in captions.items()]
    shares: dict[str, list[Any]] = {}
    for criterion in CRITERIA:
        rights = [[right for name, right in one if name == criterion] for one in stated]
        shares[f"precision {criterion}"] = [[sum(own), len(own)] for own in rights]
    found = precision(captions, annotated)
    return Figures(recalls | {f"precision {name}": value for name, value in found.items()}, shares)


def plain_figures(texts: list[str]) -> Figures:
    """Compute the figures that need no references; "cut" is the percentage of truncated captions."""
    statistics = diversity(texts)
    tokens = [tokenize(text) for text in texts]
    values = {
        "repeated bigrams": statistics.get("repeats-2", 0.0),
        "length": statistics.get("length", 0.0),
        "cut": 100 * sum(len(words) >= MAX_LENGTH for words in tokens) / len(texts),
    }
    return Figures(values, {"repeated bigrams": [100 * (repeated_share(words, 2) > 0) for words in tokens]})
