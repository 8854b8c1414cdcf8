"""Images as stored regions with reference captions: what attribute predictor and captioner learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from glied.datasets import coco, features, parquet
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CaptionedRegions:
    """Images as stored regions, and their reference captions in COCO's format."""

    features: str
    """Feature store (folder or URI) that jobs/extract_regions.py wrote."""
    captions: str
    """captions.json of the same images, matched by file name."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name."""
        return coco.load_captions(self.captions)

    def paths(self) -> list[str]:
        """The Parquet files of the feature store; raises as `features.paths`."""
        return features.paths(self.features)

    def pair(self, rows: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
        """Rows of the store with their captions, without the rows that stand for images without regions.

        Raises:
            UsageError: an image has no captions, or no row has regions.
        """
        pairs = [(row, self._captions(row["id"])) for row in rows if row["count"] is not None]
        if not pairs:
            raise UsageError(f"{self.features}: a whole batch of images without regions; extract it anew")
        return pairs

    def feature_size(self) -> int:
        """F of the regions; raises as `pair`."""
        for uri in self.paths():
            with parquet.open_file(uri) as file:
                for batch in file.iter_batches(batch_size=1, columns=["count", "features"]):
                    row = batch.to_pylist()[0]
                    if row["count"]:
                        return len(row["features"]) // (np.dtype(features.STORED).itemsize * row["count"])
        raise UsageError(f"{self.features}: no image has regions; extract it anew")

    def _captions(self, image_id: str) -> list[str]:
        name = image_id.rsplit("/", 1)[-1]
        try:
            return self.references[name]
        except KeyError:
            raise UsageError(f"{self.captions} has no captions for {name} of {self.features}") from None
