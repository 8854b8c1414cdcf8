"""What the benchmarks share that train captioners or measure them: configs, test images, captions, speed."""

import time
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import torch

from benchmarks.decoding import timed
from benchmarks.measurement import ROOT, batches
from glied.captioner.captioner import Captioner, attribute_ids
from glied.captioner.decode import decode
from glied.config import parse
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.regions import RegionBatch, Regions
from glied.training.task import Row
from glied.vision.attributes import AttributePredictor

BATCH, BEAMS, ROUNDS = 50, 3, 3

Image = tuple[Regions, list[tuple[str, float]], list[str]]
"""Regions, attributes with probabilities, reference captions."""


def configured(kind: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Parse a file of configs/ with `options` that override it."""
    arguments = [f"--{key}={value}" for key, value in options.items()]
    return parse(kind, ["--config", str(ROOT / "configs" / name), *arguments])


def stored(uris: list[str]) -> list[Row]:
    """Read the rows of a feature store that have regions."""
    rows = [row for uri in uris for row in pq.read_table(uri).to_pylist()]
    return [row for row in rows if row["count"] is not None]


def test_images(
    test: CaptionedRegions, predictor: AttributePredictor, count: int, limit: int | None
) -> list[Image]:
    """Return the first `limit` test images with the `count` most probable attributes of each."""
    pairs = test.pair(stored(test.paths())[:limit])
    regions = [features.read(row) for row, _ in pairs]
    words: list[list[tuple[str, float]]] = []
    with torch.inference_mode():
        for part in batches(regions, BATCH):
            words += predictor.top(RegionBatch.collate(part), count)
    return [(one, top, texts) for one, top, (_, texts) in zip(regions, words, pairs, strict=True)]


def captions_of(captioner: Captioner, images: list[Image]) -> list[str]:
    """Return the best caption of each image."""
    results = (captioner.caption(*list(zip(*part, strict=True))[:2]) for part in batches(images, BATCH))
    return [captions[0].text for batch in results for captions in batch]


def prepare(captioner: Captioner, images: list[Image]) -> Any:
    """Return a function that decodes the images, from collated regions and attribute ids to token ids."""
    collated = []
    for part in batches(images, BATCH):
        regions, top, _ = zip(*part, strict=True)
        words = [[word for word, _ in one] for one in top]
        ids, mask = attribute_ids(words, captioner.vocabulary, captioner.attribute_count)
        collated.append((RegionBatch.collate(list(regions)), ids, mask))

    @torch.inference_mode()
    def caption() -> None:
        for batch in collated:
            decode(captioner.frozen, captioner.frozen.encode(*batch), captioner.decoding)

    return caption


def fastest(calls: dict[str, Any], images: int) -> dict[str, float]:
    """Return the images/s of each call."""
    for call in calls.values():
        call()  # warms up
    seconds = [{name: timed(call, time.process_time) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: round(images / min(one[name] for one in seconds), 2) for name in calls}
