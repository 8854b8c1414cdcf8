"""Images as stored regions with reference captions: what attribute predictor and captioner learn from."""

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
    """Images as stored regions, and their reference captions in COCO's format."""

    features: str
    """Feature store (folder or URI) that jobs/extract_regions.py wrote."""
    captions: str
    """Captions file of the same images, whose file names are the store's ids; either may leave out folders
    (docs/inputs.md)."""
    copies: tuple[str, ...] = ()
    """Feature stores of varied copies of the same images (`copy` of jobs/extract_regions.py): an epoch goes
    through them, too."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name."""
        return coco.load_captions(self.captions)

    @cached_property
    def _names(self) -> ImageNames:
        return ImageNames(self.references, self.captions)

    @cached_property
    def extractor(self) -> dict[str, Any]:
        """Fingerprint of the extractor of the store; raises as `features.fingerprint`."""
        return features.fingerprint(self.features)

    @property
    def stores(self) -> list[str]:
        """The feature store, and those of the copies."""
        return [self.features, *self.copies]

    def paths(self) -> list[str]:
        """The Parquet files of all stores; raises as `features.paths`."""
        return [path for store in self.stores for path in features.paths(store)]

    def pair(self, rows: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
        """Rows of the store with their captions; raises as `present` and `name`."""
        return [(row, self.references[self.name(row["id"])]) for row in self.present(rows)]

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
        """Reads the ids of all stores.

        Raises:
            UsageError: an image with regions has no captions, several images fit the same ones, or the copies
                are another extractor's.
        """
        features.check_same_extractor(self.stores)
        for store in self.stores:
            self._check_captions(store)

    def _check_captions(self, store: str) -> None:
        ids = features.image_ids(store)
        found = self._names.join(ids, store)
        missing = [image_id for image_id in ids if image_id not in found]
        if missing:
            count = f"{len(missing)} images of {store}, {missing[0]} for one"
            raise UsageError(f"{self.captions} has no captions for {count}")

    def feature_size(self) -> int:
        """F of the regions; raises as `features.feature_size`."""
        return features.feature_size(self.features)

    def name(self, image_id: str) -> str:
        """The file name that the captions have for an id of the store.

        Raises:
            UsageError: they have none.
        """
        name = self._names.find(image_id)
        if name is None:
            raise UsageError(f"{self.captions} has no captions for {image_id} of {self.features}")
        return name


@dataclass(frozen=True, kw_only=True)
class RewardedRegions(CaptionedRegions):
    """Images as stored regions, and what rewards need: references, CLIP vectors, or both."""

    captions: str = ""
    """Captions file of the same images, as for other trainings; empty where nothing needs references."""
    clip_features: str = ""
    """Feature store of the same images that jobs/extract_regions.py wrote with regions.kind clip; empty where
    no reward looks at the images."""

    @cached_property
    def references(self) -> dict[str, list[str]]:
        """Captions by file name; none where there is no file of them."""
        return coco.load_captions(self.captions) if self.captions else {}

    def name(self, image_id: str) -> str:
        """As for other trainings; the id itself where there are no captions."""
        return super().name(image_id) if self.captions else image_id
