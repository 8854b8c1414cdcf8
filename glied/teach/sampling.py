"""Which images of the archive the captioner is taught with, and the captions that they have already."""

import hashlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk import arrow_tables
from glied.bulk.captioning import fetch_stage
from glied.bulk.config import ResourcesConfig
from glied.bulk.plan.manifest import INPUT
from glied.bulk.plan.sources.input_columns import passed_name
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import ImageError, JobError, UsageError
from glied.storage import absolute
from glied.teach import known_captions, near_duplicates
from glied.teach.config import DEFAULT_SAMPLE, TeachConfig
from glied.teach.images import TaughtImage
from glied.teach.known_captions import KnownCaptions
from glied.vision import images as pixels

log = logging.getLogger(__name__)

_CHUNK = 64
"""Images that are read together."""
_SHARDS = ("webdataset", "parquet")
"""Forms whose images lie in larger files: those of the sample are copied out of them."""


@dataclass(frozen=True)
class _Candidate:
    """An image of the archive; `planned` is its row of the plan."""

    image: TaughtImage
    planned: pa.Table


def take_sample(config: TeachConfig, output: str) -> tuple[list[TaughtImage], dict[str, Any]]:
    """The images in the order of their draw, and how many there were.

    Images that lie in tars or Parquet files are copied to <output>/images.

    Raises:
        UsageError: the input or the captions are missing or not of their form, or do not fit together.
        JobError: none of the images can be read.
    """
    known = _known(config)
    taken = _drawn(config, output, known)
    if not taken:
        raise UsageError(f"input.uri {config.input.uri}: no image there{_without_captions(config)}")
    facts: dict[str, Any] = {"listed": len(taken)}
    if config.sample.near_duplicates is not None or config.input.form in _SHARDS:
        taken, read = _read(config, output, taken)
        facts |= read
    images = [one.image for one in taken]
    if config.sample.caption_sidecars:
        images = _with_sidecars(images)
    if known is not None:
        known.check(images[0].id)
    if config.teacher is None:
        images = [one for one in images if one.captions]
    if not images:
        raise UsageError(f"none of the images of {config.input.uri} has a caption")
    captioned = [one for one in images if one.captions]
    return images, facts | {"images": len(images), "captioned": len(captioned)}


def _without_captions(config: TeachConfig) -> str:
    return "" if config.teacher else " that has captions"


def _known(config: TeachConfig) -> KnownCaptions | None:
    if not config.captions:
        return None
    return KnownCaptions(known_captions.load(config.captions), f"captions {config.captions}")


def _drawn(config: TeachConfig, output: str, known: KnownCaptions | None) -> list[_Candidate]:
    """The images with the smallest draws, of those that are of use."""
    every = _candidates(config, output, known)
    count = config.sample.images or (DEFAULT_SAMPLE if config.teacher else None)
    seed = config.sample.seed
    if count is None:
        return sorted(every, key=lambda one: _draw(seed, one.image.id))
    return heapq.nsmallest(count, every, key=lambda one: _draw(seed, one.image.id))


def _draw(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()


def _candidates(config: TeachConfig, output: str, known: KnownCaptions | None) -> Iterator[_Candidate]:
    """The archive's images with the captions that are known before anything is read."""
    source = open_source(config.input, output)
    for table in inputs(source, config.input):
        table = _with_caption_column(table, config, source.columns)
        cells = _cells(table, INPUT + _column(config))
        names, uris = arrow_tables.texts(table, "id"), arrow_tables.texts(table, "uri")
        for row, (name, uri, cell) in enumerate(zip(names, uris, cells, strict=True)):
            texts = [*(known.of(name) if known else []), *known_captions.of_cell(cell)]
            if texts or config.teacher or config.sample.caption_column or config.sample.caption_sidecars:
                yield _Candidate(TaughtImage(name, uri, texts), table.slice(row, 1))


def _column(config: TeachConfig) -> str:
    """What the bulk jobs call the column of captions."""
    return passed_name(config.sample.caption_column)


def _with_caption_column(table: pa.Table, config: TeachConfig, columns: pa.Schema) -> pa.Table:
    """The plan with the column of captions, null where it is read with the images."""
    name = _column(config)
    if not config.sample.caption_column or INPUT + name in table.column_names:
        return table
    if name not in columns.names:
        raise UsageError(
            f"sample.caption_column: the input has no column {config.sample.caption_column!r}, it has "
            f"{', '.join(columns.names)}"
        )
    return table.append_column(INPUT + name, pa.nulls(table.num_rows).cast(columns.field(name).type))


def _cells(table: pa.Table, column: str) -> list[Any]:
    """The values of a column, None where the table has no such column."""
    return table[column].to_pylist() if column in table.column_names else [None] * table.num_rows


def _with_sidecars(images: Sequence[TaughtImage]) -> list[TaughtImage]:
    found = known_captions.sidecars([one.uri for one in images])
    return [replace(one, captions=[*one.captions, *texts]) for one, texts in zip(images, found, strict=True)]


def _read(
    config: TeachConfig, output: str, taken: Sequence[_Candidate]
) -> tuple[list[_Candidate], dict[str, Any]]:
    """The images that can be read and look like no other, with captions of columns; how many do not."""
    fetch = fetch_stage(config.input, ResourcesConfig())
    copies = config.input.form in _SHARDS
    if copies:  # neighbors in a file are read together
        taken = sorted(taken, key=lambda one: (one.image.uri.partition("#")[0], one.image.id))
    found: list[_Candidate] = []
    hashes: list[int] = []
    for start in range(0, len(taken), _CHUNK):
        chunk = taken[start : start + _CHUNK]
        fetched = fetch(pa.concat_tables([one.planned for one in chunk]))
        cells = _cells(fetched, _column(config)) if copies else [None] * len(chunk)
        read: list[Any] = fetched["data"].to_pylist()
        for one, data, cell in zip(chunk, read, cells, strict=True):
            value = _hash(data, wanted=config.sample.near_duplicates is not None)
            if value is None:
                continue
            image = replace(one.image, captions=[*one.image.captions, *known_captions.of_cell(cell)])
            if copies:
                image = replace(image, uri=_copy(output, image.id, data))
            found.append(_Candidate(image, one.planned))
            hashes.append(value)
    if not found:
        raise JobError(f"none of the {len(taken)} images of {config.input.uri} can be read")
    facts = {"unreadable": len(taken) - len(found)}
    if config.sample.near_duplicates is not None:
        kept = near_duplicates.distinct(hashes, config.sample.near_duplicates)
        facts["near_duplicates"] = kept.count(False)
        found = [one for one, keep in zip(found, kept, strict=True) if keep]
    return found, facts


def _hash(data: bytes | None, *, wanted: bool) -> int | None:
    """The perceptual hash of an image, 0 where none is wanted; None where it cannot be read."""
    if data is None:
        return None
    if not wanted:
        return 0
    try:
        return near_duplicates.perceptual_hash(pixels.decode(data))
    except ImageError:
        return None


def _copy(output: str, image_id: str, data: bytes) -> str:
    """Write an image below the output, under a name that no id can lead elsewhere."""
    name = hashlib.sha256(image_id.encode()).hexdigest()[:32] + PurePosixPath(image_id).suffix[:8]
    uri = storage.join(absolute(output), "images", name)
    storage.write_bytes(uri, data)
    return uri
