"""Images as stored regions with reference captions: what attribute predictor and captioner learn from."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glied.datasets import coco, features
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
        """Rows of the store with their captions; raises as `present`, and where an image has no captions."""
        return [(row, self._captions(row["id"])) for row in self.present(rows)]

    def present(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of the store without those that stand for images without regions.

        Raises:
            UsageError: no row has regions.
        """
        found = [row for row in rows if row["count"] is not None]
        if not found:
            raise UsageError(f"{self.features}: a whole batch of images without regions; extract it anew")
        return found

    def check(self) -> None:
        """Raises `UsageError` if an image with regions has no captions; reads the ids of the whole store."""
        missing = [name for name in features.image_names(self.features) if name not in self.references]
        if missing:
            count = f"{len(missing)} images of {self.features}, {missing[0]} for one"
            raise UsageError(f"{self.captions} has no captions for {count}")

    def feature_size(self) -> int:
        """F of the regions; raises as `features.feature_size`."""
        return features.feature_size(self.features)

    def _captions(self, image_id: str) -> list[str]:
        name = features.image_name(image_id)
        try:
            return self.references[name]
        except KeyError:
            raise UsageError(f"{self.captions} has no captions for {name} of {self.features}") from None


@dataclass(frozen=True, kw_only=True)
class RewardedRegions(CaptionedRegions):
    """Images as stored regions, and what rewards need: references, CLIP vectors, or both."""

    captions: str = ""
    """captions.json of the same images, matched by file name; empty where nothing needs references."""
    clip_features: str = ""
    """Feature store of the same images that jobs/extract_regions.py wrote with regions.kind clip; empty where
    no reward looks at the images."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name; none where there is no file of them."""
        return coco.load_captions(self.captions) if self.captions else {}
