"""Training data of the attribute predictor and the captioner: stored regions with reference captions."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glied.data import coco, features
from glied.data.image_names import ImageNames
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CaptionedRegions(FieldsOnlyPickle):
    """Images as stored regions, with their reference captions."""

    features: str
    """Feature store (folder or URI) written by jobs/extract_regions.py."""
    captions: str
    """Captions file of the same images. Its file names are the ids of the store; either may omit folders
    (docs/inputs.md)."""
    copies: tuple[str, ...] = ()
    """Feature stores of augmented copies of the same images (`copy` of jobs/extract_regions.py); each epoch
    also includes them."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name."""
        return coco.load_captions(self.captions)

    @cached_property
    def _names(self) -> ImageNames:
        return ImageNames(self.references, self.captions)

    @cached_property
    def extractor(self) -> dict[str, Any]:
        """Fingerprint of the store's extractor; raises as `features.fingerprint`."""
        return features.fingerprint(self.features)

    @property
    def stores(self) -> list[str]:
        """The feature store and those of the copies."""
        return [self.features, *self.copies]

    def paths(self) -> list[str]:
        """Return the Parquet files of all stores; raises as `features.paths`."""
        return [path for store in self.stores for path in features.paths(store)]

    def pair(self, rows: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
        """Pair rows of the store with their captions; raises as `present` and `name`."""
        return [(row, self.references[self.name(row["id"])]) for row in self.present(rows)]

    def present(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that have regions.

        Raises:
            UsageError: no row has regions.
        """
        present = [row for row in rows if row["count"] is not None]
        if not present:
            raise UsageError(f"{self.features}: a whole batch of images without regions; extract it again")
        return present

    def check(self) -> None:
        """Check the ids of all stores against the captions.

        Raises:
            UsageError: an image with regions has no captions, several images match the same captions, or the
                copies come from another extractor.
        """
        features.check_same_extractor(self.stores)
        for store in self.stores:
            self._check_captions(store)

    def _check_captions(self, store: str) -> None:
        ids = features.image_ids(store)
        found = self._names.join(ids, store)
        missing = [image_id for image_id in ids if image_id not in found]
        if missing:
            count = f"{len(missing)} images of {store}, e.g. {missing[0]}"
            raise UsageError(f"{self.captions} has no captions for {count}")

    def feature_size(self) -> int:
        """Return F, the feature size of the regions; raises as `features.feature_size`."""
        return features.feature_size(self.features)

    def name(self, image_id: str) -> str:
        """Return the file name in the captions file for an id of the store.

        Raises:
            UsageError: the captions file does not have the image.
        """
        name = self._names.find(image_id)
        if name is None:
            raise UsageError(f"{self.captions} has no captions for {image_id} of {self.features}")
        return name


@dataclass(frozen=True, kw_only=True)
class RewardedRegions(CaptionedRegions):
    """Images as stored regions, with the inputs of rewards: references, CLIP vectors, or both."""

    captions: str = ""
    """Captions file of the same images; empty if nothing needs references."""
    clip_features: str = ""
    """Feature store of the same images, written by jobs/extract_regions.py with regions.kind clip; empty if
    no reward uses the images."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name; empty without a captions file."""
        return coco.load_captions(self.captions) if self.captions else {}

    def name(self, image_id: str) -> str:
        """Return the file name in the captions file for an id, or the id itself without a captions file."""
        return super().name(image_id) if self.captions else image_id
