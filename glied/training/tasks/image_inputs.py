"""What the captioner sees of stored images: their regions and their most probable attribute words."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from glied.captioner.captioner import attribute_ids
from glied.data import features
from glied.regions import RegionBatch
from glied.text.vocabulary import Vocabulary
from glied.training.task import Row
from glied.vision.attributes import AttributePredictor

TopWords = dict[tuple[str, int], list[str]]
"""The most probable attribute words of images, by id and checksum of the features."""


def read_images(
    rows: Sequence[Row],
    predictor: AttributePredictor,
    vocabulary: Vocabulary,
    count: int,
    known: TopWords,
) -> tuple[RegionBatch, Tensor, Tensor]:
    """Returns the regions of B images, and ids [B, N] int64 and mask [B, N] bool of their attribute words.

    Args:
        rows: of the feature store.
        predictor: gives the words, most probable first.
        vocabulary: turns the words into ids.
        count: N; 0 for a model that does not read attributes.
        known: words of images that were read before; those of new images are added.
    """
    found = [features.read(row) for row in rows]
    regions = RegionBatch.collate(found)
    keys = [_key(row) for row in rows] if count else []
    new = [index for index, key in enumerate(keys) if key not in known]
    if new:
        with torch.inference_mode():
            top = predictor.top(RegionBatch.collate([found[index] for index in new]), count)
        known.update((keys[index], [word for word, _ in one]) for index, one in zip(new, top, strict=True))
    words = [known[key] for key in keys] if count else [[] for _ in rows]
    ids, mask = attribute_ids(words, vocabulary, count)
    return regions, ids, mask


def _key(row: Row) -> tuple[str, int]:
    """The id alone would not do: varied copies of an image share it and have other features."""
    return row["id"], zlib.crc32(row["features"])


def thin_out(batch: RegionBatch, share: float, generator: torch.Generator) -> RegionBatch:
    """Drops a random `share` of each image's regions; at least one stays.

    Neighboring cells of a grid say much the same, and a captioner that always sees all of them overfits to
    the training images.
    """
    counts = batch.mask.sum(dim=1)
    kept = (counts * (1 - share)).ceil().clamp(min=1).long()
    drawn = torch.rand(batch.mask.shape, generator=generator).masked_fill(~batch.mask, -1.0)
    chosen = drawn.topk(int(kept.max()), dim=1).indices  # [B, R']
    mask = torch.arange(chosen.shape[1]) < kept[:, None]
    rows = torch.arange(len(chosen))[:, None]
    hidden = ~mask[..., None]
    features = batch.features[rows, chosen].masked_fill(hidden, 0.0)
    return RegionBatch(features, batch.boxes[rows, chosen].masked_fill(hidden, 0.0), mask, batch.sizes)
