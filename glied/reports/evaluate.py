"""Evaluation of captions: reads and matches files, scores, compares, and records the recipe."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np

import glied
from glied import storage
from glied.clip.config import ClipConfig
from glied.data.coco import load_captions
from glied.data.finecapeval import CRITERIA, Annotation, load_annotations
from glied.errors import UsageError
from glied.metrics import finecapeval
from glied.metrics.bootstrap import Array, Difference, paired_bootstrap
from glied.metrics.diversity import diversity
from glied.metrics.text_metrics import BLEU_ORDERS, Metric, Scores, bleu, score, tokenized
from glied.reports.caption_inputs import base_name, coco_aliases, is_file, match_captions, read_captions

if TYPE_CHECKING:
    from glied.metrics.clip_metrics import ClipFigures, ClipMetrics

FINE = "FineCapEval "
"""Prefix of its metric names where they appear beside others."""


@dataclass(frozen=True, kw_only=True)
class EvaluationClipConfig(ClipConfig):
    """The CLIP that scores captions, its prompt, and the images."""

    images: str = ""
    """Folder (path or URI) of the images of the references."""

    def __post_init__(self) -> None:
        """Reject a CLIP without images, images without a CLIP, and what `ClipConfig` rejects."""
        if not (self.images and (self.checkpoint or self.model)):
            raise UsageError(
                "clip and images must be set together: a CLIP (--clip.checkpoint) needs --clip.images FOLDER"
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class BootstrapConfig:
    """How the difference of two captions files is tested."""

    resamples: int = 10_000
    """Number of resamples."""
    seed: int = 0
    """Seed of the resampling."""

    def __post_init__(self) -> None:
        """Reject too few resamples."""
        if self.resamples < 100:
            raise UsageError(f"resamples: {self.resamples} is below 100, too few for an interval")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The captions to score, and what to score them against."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "images": "clip.images",
        **{key: f"bootstrap.{key}" for key in ("resamples", "seed")},
    }

    captions: str | None = None
    """Captions file: COCO's JSON, JSON lines or a table (.csv, .tsv) with image_id or another name of the
    image and caption; or a run folder of jobs/caption_dataset.py."""
    compare: list[str] = field(default_factory=list)
    """Two captions files to compare, or one to compare with `captions`."""
    references: str | None = None
    """Captions file: COCO's JSON, JSON lines or a table. Its file names or image ids must match those of the
    captions; either may omit folders (docs/inputs.md)."""
    finecapeval: str | None = None
    """FineCapEval CSV of the same images, in addition to or instead of references."""
    training_captions: str | None = None
    """Captions file that the captioner was trained on; captions that occur in it are not novel."""
    out: str | None = None
    """JSON file for the figures and their recipe; a Markdown table is written beside it."""
    metrics: list[Metric] = field(default_factory=lambda: list(get_args(Metric)))
    """Text metrics to compute; METEOR and SPICE need Java, SPICE also its parser models."""
    clip: EvaluationClipConfig | None = None
    """CLIP for CLIP-S, RefCLIP-S, retrieval and, if it has a grammar head, p(grammatical)."""
    partial: bool = False
    """Score the images that have a caption, instead of rejecting a file that lacks some."""
    split: str | None = None
    """Name of the split, recorded in the recipe."""
    java_timeout_s: float = 1800
    """Time limit in seconds for each of METEOR and SPICE; a metric that exceeds it is omitted."""
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    """Of comparisons."""

    def __post_init__(self) -> None:
        """Reject missing, conflicting and invalid settings."""
        if len(self.uris) not in (1, 2) or len(self.compare) > 2:
            raise UsageError(
                "name one captions file (--captions A) or two (--compare A B, or --captions A --compare B); "
                f"got {len(self.uris)}"
            )
        if not (self.references or self.finecapeval):
            raise UsageError("references is missing: name a captions file to score against, or finecapeval")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise UsageError(f"metrics: {self.metrics} is empty or names one twice")
        if self.java_timeout_s <= 0:
            raise UsageError(f"java_timeout_s: {self.java_timeout_s} is not above 0")

    @property
    def uris(self) -> list[str]:
        """The one or two captions files."""
        return [uri for uri in (self.captions, *self.compare) if uri]


@dataclass(frozen=True)
class Targets:
    """The references to score captions against.

    Attributes:
        references: references by image, or None.
        aliases: the names of each image of the references.
        annotations: FineCapEval's rows, or None; at least one of both is set.
        training: the training captions, or None.
    """

    references: dict[str, list[str]] | None
    aliases: dict[str, list[str]]
    annotations: list[Annotation] | None
    training: list[str] | None


@dataclass(frozen=True)
class Matched:
    """The captions of one file, by image name in the references and in FineCapEval."""

    uri: str
    by_reference: dict[str, str] | None
    by_annotation: dict[str, str] | None

    @property
    def captions(self) -> dict[str, str]:
        """The captions by image, named as in the references if there are any."""
        return self.by_reference or self.by_annotation or {}


@dataclass(frozen=True)
class Figures:
    """The figures of one captions file.

    Attributes:
        uri: the file or run folder.
        captions: caption by image.
        scores: text metrics against the references.
        diversity: figures that need no references.
        overall: text metrics against FineCapEval's descriptions.
        recall: FineCapEval's word recall.
        published: word recall as the published script computes it.
        run: weights, decoding and input of the run, for run folders.
        clip: CLIP metrics.
    """

    uri: str
    captions: dict[str, str]
    scores: Scores | None
    diversity: dict[str, float]
    overall: Scores | None
    recall: finecapeval.Recall | None
    published: finecapeval.Recall | None
    run: dict[str, Any] | None
    clip: "ClipFigures | None" = None

    def notes(self) -> list[str]:
        """Return one line for each omitted metric and for empty captions."""
        lines = [note for scores in (self.scores, self.overall) if scores for note in scores.notes]
        if empty := int(self.diversity["empty"]):
            lines.append(f"{self.uri}: {empty} of {len(self.captions)} captions are empty and score 0")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return all figures x 100, and what identifies the captions, as JSON values."""
        figures: dict[str, Any] = {"metrics": self.scores.values} if self.scores else {}
        figures["diversity"] = self.diversity
        if self.clip is not None:
            figures["clip"] = self.clip.values
        if self.recall is not None and self.published is not None:
            figures["finecapeval"] = {
                "recall": recall_means(self.recall),
                "published_script_recall": recall_means(self.published),
                "images": {criterion: len(values) for criterion, values in self.recall.items()},
                "metrics": self.overall.values if self.overall else {},
            }
        return figures | {
            "captions": self.uri,
            "captions_sha256": _digest(self.captions),
            "images": len(self.captions),
            "run": self.run,
        }


@dataclass(frozen=True)
class Evaluation:
    """The figures of one or two captions files, their differences, and the recipe."""

    systems: list[Figures]
    differences: dict[str, Difference]
    recipe: dict[str, Any]
    doubts: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return the distinct notes of all systems, and warnings about the metrics."""
        return [*dict.fromkeys(note for figures in self.systems for note in figures.notes()), *self.doubts]

    def to_json(self) -> dict[str, Any]:
        """Return the content of the results file."""
        if len(self.systems) == 1:
            content = self.systems[0].to_json()
        else:
            first, second = (figures.to_json() for figures in self.systems)
            differences = {name: dataclasses.asdict(value) for name, value in self.differences.items()}
            content = {"first": first, "second": second, "differences": differences}
        return content | {"notes": self.notes(), "recipe": self.recipe}


def evaluate(config: EvaluateConfig, command: Sequence[str] = ()) -> Evaluation:
    """Read and check all inputs, then score.

    Args:
        config: the evaluation to run.
        command: command line of the program, for the recipe.

    Raises:
        UsageError: a file is missing or malformed, or captions are missing, duplicate or unknown.
    """
    targets = _targets(config)
    matched = [_matched(uri, config, targets) for uri in config.uris]
    if len({frozenset(found.captions) for found in matched}) > 1:
        raise UsageError(f"{config.uris[0]} and {config.uris[1]} do not caption the same images")
    clip = _clip(config)
    systems = [_figures(found, config, targets, clip) for found in matched]
    differences = _differences(systems[0], systems[1], config) if len(systems) == 2 else {}
    return Evaluation(systems, differences, _recipe(config, command, clip), clip.notes() if clip else [])


def recall_means(recall: finecapeval.Recall) -> dict[str, float]:
    """Compute the mean x 100 over images by criterion; omits criteria without images."""
    return {
        criterion: 100 * sum(values.values()) / len(values) for criterion, values in recall.items() if values
    }


def _targets(config: EvaluateConfig) -> Targets:
    references, aliases = coco_aliases(config.references) if config.references else (None, {})
    annotations = load_annotations(config.finecapeval) if config.finecapeval else None
    training = None
    if config.training_captions:
        by_image = load_captions(config.training_captions)
        training = [text for texts in by_image.values() for text in texts]
    return Targets(references, aliases, annotations, training)


def _matched(uri: str, config: EvaluateConfig, targets: Targets) -> Matched:
    """Match the captions of a file to the images of the references and of FineCapEval."""
    captions, by_reference, by_annotation = read_captions(uri), None, None
    match = partial(match_captions, uri=uri, partial=config.partial)
    if config.references:
        by_reference = match(captions, targets.aliases, source=config.references)
        captions = by_reference
    if config.finecapeval:
        by_annotation = match(captions, _aliases(targets.annotations or []), source=config.finecapeval)
    return Matched(uri, by_reference, by_annotation)


def _aliases(annotations: Sequence[Annotation]) -> dict[str, list[str]]:
    """Return the aliases of FineCapEval's images; its script uses the part before the first period."""
    return {row.image: [base_name(row.image), row.image.split(".")[0]] for row in annotations}


def _clip(config: EvaluateConfig) -> "ClipMetrics | None":
    if config.clip is None:
        return None
    from glied.metrics.clip_metrics import ClipMetrics  # takes seconds to import

    return ClipMetrics(config.clip, config.clip.images)


def _figures(
    matched: Matched, config: EvaluateConfig, targets: Targets, clip: "ClipMetrics | None"
) -> Figures:
    scores = overall = recall = published = None
    if targets.references is not None:
        scores = _score(matched.by_reference or {}, targets.references, config)
    if targets.annotations is not None:
        captions = matched.by_annotation or {}
        rows = [row for row in targets.annotations if row.image in captions]
        recall = finecapeval.word_recall(captions, rows)
        published = finecapeval.published_recall(captions, rows)
        descriptions = finecapeval.overall_captions(rows)
        if descriptions:
            overall = _score({image: captions[image] for image in descriptions}, descriptions, config)
    return Figures(
        uri=matched.uri,
        captions=matched.captions,
        scores=scores,
        diversity=diversity(matched.captions.values(), targets.training),
        overall=overall,
        recall=recall,
        published=published,
        run=_run_record(matched.uri),
        clip=clip(matched.captions, targets.references) if clip else None,
    )


def _score(captions: dict[str, str], references: dict[str, list[str]], config: EvaluateConfig) -> Scores:
    return score(tokenized(captions, references), config.metrics, java_timeout_s=config.java_timeout_s)


def _differences(first: Figures, second: Figures, config: EvaluateConfig) -> dict[str, Difference]:
    """Compare means over images and corpus BLEU; document frequencies stay fixed in the bootstrap."""
    drawn = config.bootstrap
    compare = partial(paired_bootstrap, resamples=drawn.resamples, seed=drawn.seed)
    found: dict[str, Difference] = {}
    for prefix, one, two in (("", first.scores, second.scores), (FINE, first.overall, second.overall)):
        if one is None or two is None:
            continue
        for name, values in one.by_image.items():
            found[prefix + name] = compare(values, two.by_image[name])
        if one.bleu_counts is not None and two.bleu_counts is not None:
            for order in BLEU_ORDERS:
                statistic = partial(_bleu, order=order)
                found[f"{prefix}BLEU-{order}"] = compare(one.bleu_counts, two.bleu_counts, statistic)
    if first.clip and second.clip:
        for name, values in first.clip.by_image.items():
            found[name] = compare(values, second.clip.by_image[name])
    for criterion in CRITERIA if first.recall and second.recall else ():
        values = _values(first.recall, criterion)
        if len(values):
            found[FINE + criterion] = compare(values, _values(second.recall, criterion))
    return found


def _values(recall: finecapeval.Recall | None, criterion: str) -> Array:
    """Return a criterion's recalls x 100; which images have one depends only on the references."""
    return 100 * np.array(list((recall or {})[criterion].values()))


def _bleu(totals: Array, images: int, *, order: int) -> Array:
    return bleu(totals, order)


def _recipe(
    config: EvaluateConfig, command: Sequence[str], clip: "ClipMetrics | None" = None
) -> dict[str, Any]:
    packages = ["pycocoevalcap", "numpy", *(["nltk"] if config.finecapeval else [])]
    packages += ["open_clip_torch", "torch", "pillow"] if clip else []
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "split": config.split,
        "references": config.references,
        "references_sha256": _file_digest(config.references),
        "finecapeval": config.finecapeval,
        "finecapeval_sha256": _file_digest(config.finecapeval),
        "training_captions": config.training_captions,
        "training_captions_sha256": _file_digest(config.training_captions),
        "clip": clip.recipe() if clip else None,
        "partial": config.partial,
        "tokenizer": "glied.text.tokenizer.tokenize",
        "bootstrap": vars(config.bootstrap) | {"confidence": 0.95} if len(config.uris) == 2 else None,
        "versions": {"glied": glied.__version__, "python": platform.python_version()} | versions,
        "command": list(command),
    }


def _file_digest(uri: str | None) -> str | None:
    return hashlib.sha256(storage.read_bytes(uri)).hexdigest() if uri else None


def _digest(captions: dict[str, str]) -> str:
    """Return the SHA-256 of the captions by image, independent of the format and order of their file."""
    return hashlib.sha256(json.dumps(captions, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _run_record(uri: str) -> dict[str, Any] | None:
    """Return weights, decoding and input from a run folder's run.json; None for other files."""
    if is_file(uri):
        return None
    try:
        record = json.loads(storage.read_bytes(storage.join(uri, "run.json")))
        return {key: record.get(key) for key in ("run", "fingerprint", "input")}
    except (FileNotFoundError, ValueError, AttributeError):
        return None
