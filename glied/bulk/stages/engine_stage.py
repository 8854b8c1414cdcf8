"""The stage of captioners of whole images: decoded images to captions by an engine. No Ray here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from glied.bulk import arrow_tables, row_schemas
from glied.bulk.items import Stage
from glied.bulk.row_schemas import INPUT
from glied.bulk.stages.describe import Row, clip_scores
from glied.bulk.stages.specs import EngineSpec
from glied.bulk.stages.stage import DecodeImages, DescribeStage, Fault
from glied.captioner.engines.config import EndpointConfig
from glied.captioner.engines.engine import Engine, EngineCaption, Failure
from glied.captioner.engines.loading import load_engine
from glied.clock import Clock
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import Picture

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer


@dataclass(frozen=True)
class PictureOfRow(Picture):
    """A decoded image, with the columns of its row in the input table."""

    columns: Mapping[str, Any] = field(default_factory=dict)


class CaptionWithEngine:
    """Captions of decoded images by an engine; implements `Describe`."""

    schema = row_schemas.CAPTIONS

    def __init__(
        self,
        engine: Engine,
        *,
        prices: Mapping[str, float] | None = None,
        clip: "ClipScorer | None" = None,
    ) -> None:
        """All models are on their devices.

        Args:
            engine: captions the images.
            prices: prompt_price and completion_price of a million tokens; None where nothing is billed.
            clip: scores the captions; None for no scores.
        """
        self.engine = engine
        self.prices = prices
        self.clip = clip
        self.model = engine.name

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        """Columns caption, captions, clip_score, width, height; or why there is no caption."""
        columns = [image.columns if isinstance(image, PictureOfRow) else {} for image in batch]
        with clock.measure("captions"):
            outcomes = self.engine.caption([image.pixels for image in batch], columns)
        rows = [_row(image, outcome) for image, outcome in zip(batch, outcomes, strict=True)]
        if self.clip is not None:
            with clock.measure("clip"):
                self._score(self.clip, batch, rows)
        return rows

    def take_usage(self) -> dict[str, float]:
        """Requests, tokens and cost since the last call of this function; empty where nothing is billed."""
        if self.prices is None:
            return {}
        used = self.engine.usage()
        return vars(used) | {"cost": used.cost(**self.prices)}

    def _score(self, clip: "ClipScorer", batch: Sequence[Picture], rows: list[Row]) -> None:
        done = [place for place, row in enumerate(rows) if row.get("caption") is not None]
        scores = clip_scores(
            clip, [batch[place] for place in done], [rows[place]["caption"] for place in done]
        )
        for place, score in zip(done, scores, strict=True):
            rows[place]["clip_score"] = score


class EngineStage(DescribeStage[Picture]):
    """Decodes images and has an engine caption them, which may read the columns that pass through."""

    def __init__(self, read: DecodeImages, describe: CaptionWithEngine) -> None:
        """As that of `DescribeStage`."""
        super().__init__(read, describe)
        self.take_usage = describe.take_usage

    def __call__(self, table: pa.Table) -> pa.Table:
        """As that of `DescribeStage`; the metadata has what was used, too (`arrow_tables.usage_of`)."""
        described = super().__call__(table)
        return arrow_tables.with_usage(described, self.take_usage())

    def _items(self, items: pa.Table, passing: pa.Table, clock: Clock) -> Iterator[list[Picture | Fault]]:
        """Pictures with the columns of their rows."""
        names = [name.removeprefix(INPUT) for name in passing.column_names]
        rows = iter(passing.rename_columns(names).to_pylist() or [{}] * items.num_rows)
        for batch in self.read(items, clock):
            yield [_with_columns(item, next(rows)) for item in batch]


def engine_stage(spec: EngineSpec) -> Stage:
    """The stage of a spec, with its engine.

    Raises:
        UsageError: a model, a package or a GPU is missing.
    """
    engine = load_engine(spec.engine, spec.decoding)
    clip = load_scorer(spec)
    resolution = engine.resolution
    if clip is not None:
        resolution = max(resolution[0], clip.resolution), max(resolution[1], clip.resolution)
    pool = DecoderPool(spec.decoders, resolution=resolution, missing_rows=spec.missing_rows)
    describe = CaptionWithEngine(engine, prices=_prices(spec), clip=clip)
    return EngineStage(DecodeImages(pool, batch_size=spec.batch_size), describe)


def load_scorer(spec: EngineSpec) -> "ClipScorer | None":
    """The CLIP that scores captions, if the spec names one."""
    if spec.clip is None:
        return None
    from glied.clip.scorer import load_clip

    return load_clip(spec.clip)


def _prices(spec: EngineSpec) -> dict[str, float] | None:
    config = spec.engine
    if not isinstance(config, EndpointConfig):
        return None
    return {"prompt_price": config.cost.prompt_price, "completion_price": config.cost.completion_price}


def _with_columns(item: Picture | Fault, columns: Mapping[str, Any]) -> Picture | Fault:
    return PictureOfRow(**vars(item), columns=columns) if isinstance(item, Picture) else item


def _row(image: Picture, outcome: list[EngineCaption] | Failure) -> Row:
    size = {"width": image.width, "height": image.height}
    if isinstance(outcome, Failure):
        return size | {"status": outcome.status, "error_kind": outcome.kind, "error": outcome.message}
    return size | {"caption": outcome[0].text, "captions": [vars(one) for one in outcome]}
