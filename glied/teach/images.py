"""The images that a captioner is taught with, as JSON lines: id, address and the captions there are."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from glied import storage


@dataclass(frozen=True)
class TaughtImage:
    """An image of the archive.

    Attributes:
        id: as the bulk jobs name it.
        uri: where it is.
        captions: those that were there; maybe none.
        taught: the teacher's that are learned from.
    """

    id: str
    uri: str
    captions: list[str] = field(default_factory=list)
    taught: list[str] = field(default_factory=list)

    @property
    def all_captions(self) -> list[str]:
        """Both, each caption once, those that were there first."""
        return list(dict.fromkeys([*self.captions, *self.taught]))


def write_images(uri: str, images: Iterable[TaughtImage]) -> None:
    """Write images as JSON lines."""
    storage.write_bytes(uri, "".join(json.dumps(asdict(one)) + "\n" for one in images).encode())


def read_images(uri: str) -> list[TaughtImage]:
    """What `write_images` wrote."""
    lines = storage.read_bytes(uri).decode().split("\n")
    return [TaughtImage(**json.loads(line)) for line in lines if line]


def table_of(images: Sequence[TaughtImage]) -> bytes:
    """The images as the table (id, uri) that the bulk jobs read with input.form table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "uri"])
    writer.writerows([one.id, one.uri] for one in images)
    return text.getvalue().encode()
