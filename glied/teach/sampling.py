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
from glied.bulk.plan.sources.input_sources import inputs, no_images, open_source
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
    """An image of the archive; `planned` is its row of the plan, `hash` the perceptual one, 0 until read."""

    image: TaughtImage
    planned: pa.Table
    hash: int = 0


def take_sample(config: TeachConfig, output: str) -> tuple[list[TaughtImage], dict[str, Any]]:
    """The images in the order of their draw, and how many there were.

    Images that lie in tars or Parquet files are copied to <output>/images.

    Raises:
        UsageError: the input or the captions are missing or not of their form, or do not fit together.
        JobError: none of the images can be read.
    """
    known = _known(config)
    archive = _Archive(config, output, known)
    drawn = _drawn(config, archive)
    if known is not None:
        known.check()
    if not archive.images:
        raise no_images(config.input.uri, archive.source)
    if not drawn:
        raise _no_captions(config, archive)
    listed, taken = _looked_at(config, output, drawn)
    facts: dict[str, Any] = {"listed": listed}
    if _is_read(config):
        facts["unreadable"] = listed - len(taken)
    if not taken:
        raise JobError(f"none of the {listed} images of {config.input.uri} can be read")
    if config.teacher is None:
        captioned = [one for one in taken if one.image.captions]
        if not captioned:
            raise _no_captions(config, archive)
        _log_left_out(archive, len(taken), len(captioned))
        taken = captioned[: config.sample.images]
    if config.sample.near_duplicates is not None:
        kept = near_duplicates.distinct([one.hash for one in taken], config.sample.near_duplicates)
        facts["near_duplicates"] = kept.count(False)
        taken = [one for one, keep in zip(taken, kept, strict=True) if keep]
    images = [one.image for one in taken]
    return images, facts | {"images": len(images), "captioned": sum(bool(one.captions) for one in images)}


def _no_captions(config: TeachConfig, archive: "_Archive") -> UsageError:
    """The error for images without captions; it says where these were looked for."""
    looked = []
    if config.sample.caption_column:
        looked.append(f"the column {config.sample.caption_column} is empty in all rows")
    if config.sample.caption_sidecars:
        text_uri = known_captions.sidecar_uri(archive.example)
        looked.append(f"NAME.txt beside NAME.jpg was looked for, such as {text_uri}")
    return UsageError(
        f"none of the {archive.images} images of {config.input.uri} has a caption: {'; '.join(looked)}. "
        "--captions FILE names a file of captions"
    )


def _known(config: TeachConfig) -> KnownCaptions | None:
    if not config.captions:
        return None
    try:
        return KnownCaptions(known_captions.load(config.captions), f"captions {config.captions}")
    except UsageError as error:
        if not (config.sample.caption_column or config.sample.caption_sidecars):
            raise
        raise UsageError(f'{error}. --captions "" takes only the captions of the input') from error


def _count(config: TeachConfig) -> int | None:
    """How many images are asked for; None for all."""
    return config.sample.images or (DEFAULT_SAMPLE if config.teacher else None)


def _log_left_out(archive: "_Archive", read: int, captioned: int) -> None:
    """Say how many images have no captions: of all, or of those read, where these show their captions."""
    is_read = _captions_come_later(archive.config)
    left_out, of = (read - captioned, read) if is_read else (archive.left_out, archive.images)
    if left_out:
        log.info("images without a caption are left out: %d of %d", left_out, of)


def _drawn(config: TeachConfig, archive: "_Archive") -> list[_Candidate]:
    """The images with the smallest draws, of those that are of use or, unless they are read, may be."""
    count = None if _captions_come_later(config) else _count(config)
    seed = config.sample.seed
    if count is None:
        return sorted(archive, key=lambda one: _draw(seed, one.image.id))
    return heapq.nsmallest(count, archive, key=lambda one: _draw(seed, one.image.id))


def _captions_come_later(config: TeachConfig) -> bool:
    """Whether only a look at an image shows if it has captions, which it must have."""
    in_images = bool(config.sample.caption_column) and config.input.form in _SHARDS
    return config.teacher is None and (in_images or config.sample.caption_sidecars)


def _draw(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()


class _Archive:
    """The archive's images with the captions that are known before anything is read; counts what it yields.

    Attributes:
        source: of the images.
        images: how many there are; complete, like the following, once the iteration has ended.
        left_out: how many of them were not yielded, since they have no captions.
        example: the URI of the first image.
    """

    def __init__(self, config: TeachConfig, output: str, known: KnownCaptions | None) -> None:
        self.source = open_source(config.input, output)
        self.images = self.left_out = 0
        self.example = ""
        self.config, self._known = config, known

    def __iter__(self) -> Iterator[_Candidate]:
        """Those that are of use or, unless they are read, may be."""
        config = self.config
        for table in inputs(self.source, config.input):
            table = _with_caption_column(table, config, self.source.columns)
            cells = _cells(table, INPUT + _column(config))
            names, uris = arrow_tables.texts(table, "id"), arrow_tables.texts(table, "uri")
            self.images += len(names)
            self.example = self.example or uris[0]
            for row, (name, uri, cell) in enumerate(zip(names, uris, cells, strict=True)):
                known = self._known.of(name) if self._known else []
                texts = [*known, *known_captions.of_cell(cell)]
                if texts or config.teacher or _captions_come_later(config):
                    yield _Candidate(TaughtImage(name, uri, texts), table.slice(row, 1))
                else:
                    self.left_out += 1


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


def _looked_at(config: TeachConfig, output: str, drawn: Sequence[_Candidate]) -> tuple[int, list[_Candidate]]:
    """How many were looked at until enough have captions, and those that can be read, with their captions."""
    count = _count(config)
    if count is None or not _captions_come_later(config):
        return len(drawn), _read(config, output, drawn)
    found: list[_Candidate] = []
    listed = captioned = 0
    while captioned < count and listed < len(drawn):
        batch = drawn[listed : listed + max(count - captioned, _CHUNK)]
        listed += len(batch)
        found += _read(config, output, batch)
        captioned = sum(bool(one.image.captions) for one in found)
    return listed, sorted(found, key=lambda one: _draw(config.sample.seed, one.image.id))


def _is_read(config: TeachConfig) -> bool:
    return config.sample.near_duplicates is not None or config.input.form in _SHARDS


def _read(config: TeachConfig, output: str, taken: Sequence[_Candidate]) -> list[_Candidate]:
    """The images with the captions beside them; where images are read, those that can be."""
    if _is_read(config):
        taken = _fetched(config, output, taken)
    if not config.sample.caption_sidecars:
        return [*taken]
    found = known_captions.sidecars([one.image.uri for one in taken])
    return [_with_captions(one, texts) for one, texts in zip(taken, found, strict=True)]


def _with_captions(one: _Candidate, texts: Sequence[str]) -> _Candidate:
    return replace(one, image=replace(one.image, captions=[*one.image.captions, *texts]))


def _fetched(config: TeachConfig, output: str, taken: Sequence[_Candidate]) -> list[_Candidate]:
    """The images that can be read, with their hashes and the captions that lie in the same files."""
    fetch = fetch_stage(config.input, ResourcesConfig())
    copies = config.input.form in _SHARDS
    if copies:  # neighbors in a file are read together
        taken = sorted(taken, key=lambda one: (one.image.uri.partition("#")[0], one.image.id))
    found: list[_Candidate] = []
    for start in range(0, len(taken), _CHUNK):
        chunk = taken[start : start + _CHUNK]
        fetched = fetch(pa.concat_tables([one.planned for one in chunk]))
        cells = _cells(fetched, _column(config)) if copies else [None] * len(chunk)
        read: list[Any] = fetched["data"].to_pylist()
        for one, data, cell in zip(chunk, read, cells, strict=True):
            value = _hash(data, wanted=config.sample.near_duplicates is not None)
            if value is None:
                continue
            one = _with_captions(one, known_captions.of_cell(cell))
            if copies:
                one = replace(one, image=replace(one.image, uri=_copy(output, one.image.id, data)))
            found.append(replace(one, hash=value))
    return found


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
