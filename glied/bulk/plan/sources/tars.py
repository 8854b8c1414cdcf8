"""Tars as WebDataset writes them: images, with the .json and .txt of their samples."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from glied import storage
from glied.bulk import arrow_tables
from glied.bulk.parallel import InOrder, in_order
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources import archives
from glied.bulk.plan.sources.archives import Member, Place
from glied.bulk.plan.sources.input_columns import passed_name
from glied.bulk.plan.sources.listing import Files, extension_of, with_break
from glied.errors import UsageError

SIDECARS = ("json", "txt")
SIDECAR_BYTES = 1 << 20
"""Longer .json and .txt members do not pass through."""
_PADDING = 2048
"""About what header and padding add to a member."""
UNSUPPORTED = "unsupported"
"""Kind of error of a member that has no bytes of its own."""
Row = dict[str, Any]

_EXTRA = arrow_tables.schema(
    sidecars=arrow_tables.list_of(name=pa.string(), offset=pa.int64(), size=pa.int64()),
    compressed=pa.string(),
)
"""What the plan of a tar has in addition to `PLANNED`; offsets are those in the decompressed tar."""
_SKIPPED = b"skipped"
"""Key of a table's metadata: how many members are not inputs, by extension."""


class TarSource:
    """The images in tars, as WebDataset writes them; shard and member name are the id."""

    def __init__(self, files: Files, index: InOrder = in_order) -> None:
        """Shards are read by calls of `index`."""
        self.files = files
        self.index = index
        self.columns = pa.schema([(passed_name(name), pa.string()) for name in SIDECARS])
        self.skipped = files.skipped

    def __iter__(self) -> Iterator[pa.Table]:
        read = functools.partial(_index_tar, takes=self.files.config.takes)
        for table in self.index(read, self.files.shards(*archives.ENDINGS)):
            for extension, count in json.loads(table.schema.metadata[_SKIPPED]).items():
                self.skipped[extension] = self.skipped.get(extension, 0) + count
            yield table.replace_schema_metadata(None)


def _index_tar(shard: storage.FileInfo, takes: Callable[[str], bool]) -> pa.Table:
    """The images of a tar with the places of their sidecars, members in any order."""
    images: list[Member] = []
    sidecars: dict[tuple[int, str], dict[str, Place]] = {}
    skipped: Counter[str] = Counter()
    fault = compressed = None
    try:
        compressed = archives.compression(shard.uri)
        for member in archives.members(shard.uri, compressed):
            key, extension = _sample_key(member.name)
            if member.place is None and member.problem is None:
                skipped["(special file)"] += 1
            elif takes(member.name):
                images.append(member)
            elif extension not in SIDECARS:
                skipped[extension_of(member.name)] += 1
            elif member.place is not None:
                sidecars.setdefault((member.part, key), {})[extension] = member.place
    except archives.Broken as error:
        fault = str(error)
    except FileNotFoundError as error:
        raise UsageError(f"{shard.uri}: no such file") from error
    table = with_break(_planned(shard, images), shard, fault)
    rows = [{"sidecars": _sidecars_of(image, sidecars), "compressed": compressed} for image in images]
    extra = pa.Table.from_pylist(rows + [{}] * bool(fault), schema=_EXTRA)
    for field, column in zip(_EXTRA, extra.columns, strict=True):
        table = table.append_column(field, column)
    return table.replace_schema_metadata({_SKIPPED: json.dumps(skipped)})


def _planned(shard: storage.FileInfo, images: list[Member]) -> pa.Table:
    names = _distinct([image.name for image in images])
    places = [image.place if image.place is not None else Place(0, 0) for image in images]
    return planned(
        id=[f"{shard.name}/{name}" for name in names],
        uri=[f"{shard.uri}#{name}" for name in names],
        file=[shard.uri if image.place else None for image in images],
        offset=[place.offset for place in places],
        size=[place.size for place in places],
        fault_kind=[UNSUPPORTED if image.problem else None for image in images],
        fault=[image.problem for image in images],
    )


def _distinct(names: list[str]) -> list[str]:
    """The names without duplicates: the last of equal ones stays, as in unpacking; others get #1, #2."""
    left = Counter(names)
    taken, numbers = set(names), Counter[str]()
    distinct = []
    for name in names:
        left[name] -= 1
        distinct.append(name if not left[name] else _numbered(name, numbers, taken))
    return distinct


def _numbered(name: str, numbers: Counter[str], taken: set[str]) -> str:
    while True:
        numbers[name] += 1
        numbered = f"{name}#{numbers[name]}"
        if numbered not in taken:
            taken.add(numbered)
            return numbered


def _sidecars_of(image: Member, sidecars: dict[tuple[int, str], dict[str, Place]]) -> list[dict[str, Any]]:
    found = sidecars.get((image.part, _sample_key(image.name)[0]), {})
    return [{"name": name, "offset": place.offset, "size": place.size} for name, place in found.items()]


def _sample_key(name: str) -> tuple[str, str]:
    """WebDataset's key of a member (all before the first dot of the base name), and its last extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extensions = base.partition(".")
    return folder + slash + stem, extensions.rpartition(".")[2].lower()


def member_places(row: Row) -> dict[str, Place]:
    """Places of an image of the plan, under "", and of its sidecars that are not too long for text."""
    sidecars = {one["name"]: Place(one["offset"], one["size"]) for one in row["sidecars"]}
    small = {name: place for name, place in sidecars.items() if place.size <= SIDECAR_BYTES}
    return {"": Place(row["offset"], row["size"])} | small


def neighbors(rows: list[Row], max_bytes: int) -> Iterator[list[Row]]:
    """Runs of rows that are worth reading by one request: their extent is little more than what they need.

    A compressed tar is read from beginning to end: its rows are one run.
    """
    run: list[Row] = []
    for row in rows:
        places = [place for one in [*run, row] for place in member_places(one).values()]
        extent = max(sum(place) for place in places) - min(place.offset for place in places)
        wanted = sum(place.size + _PADDING for place in places)
        if run and row.get("compressed") is None and extent > min(2 * wanted, max_bytes):
            yield run
            run = []
        run.append(row)
    if run:
        yield run
