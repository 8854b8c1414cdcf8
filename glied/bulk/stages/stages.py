"""Ordinary classes that turn fetched chunks into rows; no Ray here.

A stage maps an Arrow table to an Arrow table with as many rows in the same order. No image raises: a row is
`ok`, `rejected` (the image is at fault) or `failed` (ours), with the kind of error and a message.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import torch

from glied.bulk import arrow_tables, row_schemas
from glied.bulk.plan.sources import fetch
from glied.bulk.row_schemas import FAILED, OK, REJECTED
from glied.captioner.captioner import Caption, Captioner
from glied.data import features
from glied.errors import ImageError
from glied.redaction import redacted
from glied.regions import RegionBatch, Regions
from glied.vision.attributes import AttributePredictor
from glied.vision.decoder_pool import Decoded
from glied.vision.extractors.region_extractor import RegionExtractor
from glied.vision.images import Picture

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer

log = logging.getLogger(__name__)

T = TypeVar("T")
Row = dict[str, Any]

TRANSIT = features.EXACT
"""Features between two pools: as the detector gave them, so that captions are those of one fused stage."""
BATCH_BYTES = 16 << 20
"""Most encoded bytes that are decoded together: pixels take about thirteen times as much."""


class Describe(Protocol):
    """What a model does with decoded images.

    Attributes:
        schema: of the rows; has id, uri, status, error_kind, error and model.
        model: names the weights, for the column of that name.
    """

    schema: pa.Schema
    model: str

    def __call__(self, batch: Sequence[Picture], clock: "Clock") -> list[Row]:
        """One row per image, in order, without id, uri, status, error and model."""
        ...


class Decoding(Protocol):
    """A batch that is being decoded."""

    def result(self) -> list[Decoded]:
        """Wait for it: a picture or an error per image, in order."""
        ...


class Decoder(Protocol):
    """What decodes images; `glied.vision.decoder_pool.DecoderPool`, for one."""

    def start(self, batch: Sequence[bytes]) -> Decoding:
        """Begin with a batch and return at once."""
        ...


class Clock:
    """Seconds spent by stage."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class ImageStage:
    """Decodes fetched images and describes them in batches; the fused stage of the bulk jobs.

    Decoding happens in other processes, one batch ahead of the models.
    """

    def __init__(
        self,
        describe: Describe,
        decoder: Decoder,
        *,
        batch_size: int = 16,
        vary: Callable[[str, Picture], Picture] | None = None,
    ) -> None:
        """At most `batch_size` images, or `BATCH_BYTES` of encoded ones, are described at a time.

        Args:
            vary: makes the picture of an image id what is described in its place.
        """
        self.describe = describe
        self.decoder = decoder
        self.batch_size = batch_size
        self.vary = vary

    def __call__(self, table: pa.Table) -> pa.Table:
        """`fetch.FETCHED` to the describer's schema; the metadata has the seconds by stage."""
        clock = Clock()
        rows: list[Row] = []
        for fetched, decoded in self._decoded(table.select(fetch.FETCHED.names).to_pylist(), clock):
            rows += self._rows(fetched, decoded, clock)
        result = pa.Table.from_pylist(rows, schema=self.describe.schema)
        for name in table.column_names[len(fetch.FETCHED) :]:  # what passes through
            result = result.append_column(table.schema.field(name), table[name])
        return arrow_tables.with_seconds(result, clock.seconds)

    def _decoded(self, rows: list[Row], clock: Clock) -> Iterator[tuple[list[Row], list[Picture | Row]]]:
        """Batches with their pixels, or with what stands in their place."""
        started = ((batch, self._start(batch)) for batch in _batches(rows, self.batch_size))
        for batch, pending in _one_ahead(started):
            with clock.measure("decode"):  # the time that the models wait
                pixels = iter(pending.result())
            yield batch, [self._varied(row, _outcome(row, pixels)) for row in batch]

    def _varied(self, row: Row, item: Picture | Row) -> Picture | Row:
        return self.vary(row["id"], item) if self.vary and isinstance(item, Picture) else item

    def _start(self, batch: list[Row]) -> Decoding:
        return self.decoder.start([row["data"] for row in batch if row["data"] is not None])

    def _rows(self, fetched: list[Row], decoded: list[Picture | Row], clock: Clock) -> list[Row]:
        good = [item for item in decoded if isinstance(item, Picture)]
        described = iter(_described(self.describe, good, clock))
        rows = []
        for source, item in zip(fetched, decoded, strict=True):
            columns = next(described) if isinstance(item, Picture) else item
            base = {"id": source["id"], "uri": source["uri"], "status": OK, "model": self.describe.model}
            if isinstance(item, Picture) and item.missing_rows:
                base["error"] = f"the file was cut off: the last {item.missing_rows} rows are missing"
            rows.append(row_schemas.empty_row(self.describe.schema, **(base | columns)))
        return rows


class RegionsStage:
    """Describes what an `ImageStage` with `ExtractRegions` found: the second of two separate pools."""

    def __init__(self, describe: "CaptionRegions", *, batch_size: int = 16) -> None:
        """At most `batch_size` images are described at a time."""
        self.describe = describe
        self.batch_size = batch_size

    def __call__(self, table: pa.Table) -> pa.Table:
        """`row_schemas.FEATURES` with float32 features to captions; the metadata has the seconds by stage."""
        clock = Clock()
        sources = table.select(row_schemas.FEATURES.names).to_pylist()
        good = [features.read(row) for row in sources if row["status"] == OK]
        described: list[Row] = []
        for start in range(0, len(good), self.batch_size):
            described += _described(self.describe, good[start : start + self.batch_size], clock)
        following = iter(described)
        rows = []
        for source in sources:
            base = {name: source[name] for name in ("id", "uri", "status", "error_kind", "error")}
            columns = next(following) if source["status"] == OK else {}
            whole = base | {"model": self.describe.model} | columns
            rows.append(row_schemas.empty_row(self.describe.schema, **whole))
        result = pa.Table.from_pylist(rows, schema=self.describe.schema)
        for name in table.column_names[len(row_schemas.FEATURES) :]:  # what passes through
            result = result.append_column(table.schema.field(name), table[name])
        return arrow_tables.with_seconds(result, clock.seconds)


def _described(describe: Callable[[list[T], Clock], list[Row]], batch: list[T], clock: Clock) -> list[Row]:
    """A batch described; where that fails, its halves; at last single images, which fail alone."""
    if not batch:
        return []
    try:
        rows = describe(batch, clock)
        assert len(rows) == len(batch), f"{len(rows)} rows for {len(batch)} images"
        return rows
    except Exception as error:
        if len(batch) == 1:
            return [_failure(error)]
        log.warning("a batch of %d failed (%s); trying its halves", len(batch), type(error).__name__)
    # Outside the except block: the traceback would keep the tensors of the failed batch alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return _described(describe, batch[:middle], clock) + _described(describe, batch[middle:], clock)


class CaptionRegions:
    """Attributes and captions of regions."""

    schema = row_schemas.CAPTIONS

    def __init__(self, predictor: AttributePredictor, captioner: Captioner, *, model: str) -> None:
        """Both on the device they were loaded to."""
        self.predictor = predictor
        self.captioner = captioner
        self.model = model

    def __call__(self, regions: Sequence[Regions], clock: Clock) -> list[Row]:
        """Columns caption, captions, familiarity, attributes, regions, width, height."""
        with clock.measure("attributes"):
            attributes = self._attributes(regions)
        with clock.measure("captions"):
            captions = self.captioner.caption(regions, attributes)
        rows = [_caption_row(*parts) for parts in zip(regions, attributes, captions, strict=True)]
        familiarity = self.captioner.familiarity
        if familiarity is None:
            return rows
        return [
            row | {"familiarity": familiarity(one.features)} for row, one in zip(rows, regions, strict=True)
        ]

    def _attributes(self, regions: Sequence[Regions]) -> list[list[tuple[str, float]]]:
        device = next(self.predictor.parameters()).device
        with torch.inference_mode():
            return self.predictor.top(RegionBatch.collate(regions).to(device), self.captioner.attribute_count)


class CaptionImages:
    """Regions, attributes and captions of decoded images."""

    schema = row_schemas.CAPTIONS

    def __init__(
        self, extractor: RegionExtractor, describe: CaptionRegions, clip: "ClipScorer | None" = None
    ) -> None:
        """All models on the device they were loaded to; without `clip` there are no scores."""
        self.extractor = extractor
        self.describe = describe
        self.clip = clip
        self.model = describe.model

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        """Columns caption, captions, familiarity, attributes, regions, width, height, clip_score."""
        with clock.measure("regions"):
            regions = _regions(self.extractor, batch)
        rows = self.describe(regions, clock)
        if self.clip is None:
            return rows
        with clock.measure("clip"):
            scores = self._scores(self.clip, batch, [row["caption"] for row in rows])
        return [row | {"clip_score": score} for row, score in zip(rows, scores, strict=True)]

    def _scores(self, clip: "ClipScorer", batch: Sequence[Picture], captions: list[str]) -> list[float]:
        from glied.clip.scores import clip_score

        images = clip.encode_images([picture.pixels for picture in batch])
        return clip_score(images, clip.encode_texts(captions)).tolist()


class ExtractRegions:
    """Regions of decoded images, as rows of the feature store."""

    schema = row_schemas.FEATURES

    def __init__(self, extractor: RegionExtractor, *, model: str, dtype: str = features.STORED) -> None:
        """The extractor is on its device; features are given as `dtype`."""
        self.extractor = extractor
        self.model = model
        self.dtype = dtype

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        """The columns of the feature store."""
        with clock.measure("regions"):
            regions = _regions(self.extractor, batch)
        return [features.row(one, self.dtype) for one in regions]


def _regions(extractor: RegionExtractor, batch: Sequence[Picture]) -> list[Regions]:
    """Regions of pictures, in pixels of the images as they are stored."""
    found = extractor([picture.pixels for picture in batch])
    return [one.scaled(of.width, of.height) for one, of in zip(found, batch, strict=True)]


def _batches(rows: list[Row], images: int) -> Iterator[list[Row]]:
    """Runs of rows of at most `images` images and `BATCH_BYTES`, at least one each."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        one = len(row["data"] or b"")
        if batch and (len(batch) == images or size + one > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += one
    if batch:
        yield batch


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items, each when the next one has been drawn."""
    held: list[T] = []
    for item in items:
        held.append(item)
        if len(held) == 2:
            yield held.pop(0)
    yield from held


def _outcome(row: Row, pixels: Iterator[Decoded]) -> Picture | Row:
    """The pixels of a fetched row, or the columns that say why there are none."""
    if row["data"] is None:
        status = FAILED if fetch.is_failure(row["kind"]) else REJECTED
        return {"status": status, "error_kind": row["kind"], "error": row["error"]}
    found = next(pixels)
    if isinstance(found, Picture):
        return found
    status = REJECTED if isinstance(found, ImageError) else FAILED
    return {"status": status, "error_kind": found.kind, "error": found.message}


def _failure(error: Exception) -> Row:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        kind = "out_of_memory"
    else:
        kind = type(error).__name__
        log.warning("an image failed", exc_info=error)
    return {"status": FAILED, "error_kind": kind, "error": redacted(" ".join(str(error).split()))[:500]}


def _caption_row(regions: Regions, attributes: list[tuple[str, float]], captions: list[Caption]) -> Row:
    return {
        "caption": captions[0].text,
        "captions": [{"text": one.text, "log_probability": one.log_probability} for one in captions],
        "attributes": [{"word": word, "probability": probability} for word, probability in attributes],
        "regions": [
            {"box": box.tolist(), "label": label, "score": float(score)}
            for box, label, score in zip(regions.boxes, regions.labels, regions.scores, strict=True)
        ],
        "width": regions.width,
        "height": regions.height,
    }
