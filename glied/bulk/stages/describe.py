"""The models of a stage: decoded images, or regions, to the columns that describe them. No Ray here.

An image's life here: `Picture` -> extractor -> `Regions` -> one `RegionBatch` on the models' device, which
attribute predictor and captioner share -> a row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import torch

from glied.bulk import row_schemas
from glied.captioner.captioner import Caption, Captioner
from glied.clock import Clock
from glied.data import features
from glied.regions import RegionBatch, Regions
from glied.vision.attributes import AttributePredictor
from glied.vision.extractors.region_extractor import RegionExtractor
from glied.vision.images import Picture

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer

Row = dict[str, Any]
"""Values by column; columns that it lacks are null."""

IMAGE_VECTOR = "image_vector"
"""Key of caption rows with CLIP's vector [E] of the image, which is no column: `finishing` takes it out."""

Item = TypeVar("Item", contravariant=True)


class Describe(Protocol[Item]):
    """What models do with the decoded images, or the regions, of a batch.

    Attributes:
        schema: of the rows; has id, uri, status, error_kind, error and model.
        model: names the weights, for the column of that name.
    """

    schema: pa.Schema
    model: str

    def __call__(self, batch: Sequence[Item], clock: Clock) -> list[Row]:
        """One row per item, in order, without id, uri, status, error_kind, error and model."""
        ...


class CaptionRegions:
    """Attributes and captions of regions; implements `Describe`."""

    schema = row_schemas.CAPTIONS

    def __init__(self, predictor: AttributePredictor, captioner: Captioner, *, model: str) -> None:
        """Both models are on the same device."""
        self.predictor = predictor
        self.captioner = captioner
        self.model = model

    def __call__(self, batch: Sequence[Regions], clock: Clock) -> list[Row]:
        """Columns captions, familiarity, attributes, regions, width, height; and the image vector, if any."""
        with clock.measure("attributes"), torch.inference_mode():
            regions = RegionBatch.collate(batch).to(self.captioner.device)
            attributes = self.predictor.top(regions, self.captioner.attribute_count)
        with clock.measure("captions"):
            captions = self.captioner.caption_batch(regions, attributes)
        rows = [_caption_row(*parts) for parts in zip(batch, attributes, captions, strict=True)]
        if self.captioner.familiarity is not None:
            for row, one in zip(rows, batch, strict=True):
                row["familiarity"] = self.captioner.familiarity(one.features)
        for row, one in zip(rows, batch, strict=True):
            if one.image_vector is not None:
                row[IMAGE_VECTOR] = torch.from_numpy(one.image_vector)
        return rows


class CaptionImages:
    """Regions, attributes and captions of decoded images; implements `Describe`."""

    schema = row_schemas.CAPTIONS

    def __init__(self, extractor: RegionExtractor, describe: CaptionRegions) -> None:
        """All models are on the device they were loaded to."""
        self.extractor = extractor
        self.describe = describe
        self.model = describe.model

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        """The columns of `CaptionRegions`."""
        with clock.measure("regions"):
            regions = extract(self.extractor, batch)
        return self.describe(regions, clock)


class ExtractRegions:
    """Regions of decoded images, as rows of the feature store; implements `Describe`."""

    def __init__(self, extractor: RegionExtractor, *, model: str, transit: bool = False) -> None:
        """The extractor is on its device; in `transit` to another pool regions are exact."""
        self.extractor = extractor
        self.model = model
        self.schema = row_schemas.TRANSIT if transit else row_schemas.FEATURES
        self.dtype = features.EXACT if transit else features.STORED

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        """The columns of the feature store but id."""
        with clock.measure("regions"):
            regions = extract(self.extractor, batch)
        return [features.row(one, self.dtype) | {IMAGE_VECTOR: one.image_vector} for one in regions]


def extract(extractor: RegionExtractor, batch: Sequence[Picture]) -> list[Regions]:
    """Regions of pictures, in pixels of the images as they are stored, which may be larger."""
    found = extractor([picture.pixels for picture in batch])
    return [one.scaled(of.width, of.height) for one, of in zip(found, batch, strict=True)]


def clip_scores(clip: "ClipScorer", images: torch.Tensor, captions: Sequence[str]) -> list[float | None]:
    """CLIP-S of each caption and the vector of its image, [B, E]; words that the CLIP lacks do not count.

    None for a caption of which it knows no word.
    """
    from glied.clip.scores import clip_score

    texts = clip.known_parts(captions)
    scores = clip_score(images, clip.encode_texts(texts)).tolist()
    return [score if text.strip() else None for score, text in zip(scores, texts, strict=True)]


def _caption_row(regions: Regions, attributes: list[tuple[str, float]], captions: list[Caption]) -> Row:
    return {
        "caption": captions[0].text,
        "captions": [dict(vars(one)) for one in captions],
        "attributes": [{"word": word, "probability": probability} for word, probability in attributes],
        "regions": [
            {"box": box, "label": label, "score": score}
            for box, label, score in zip(
                regions.boxes.tolist(), regions.labels, regions.scores.tolist(), strict=True
            )
        ],
        "width": regions.width,
        "height": regions.height,
    }
