r"""Reader of FineCapEval (Cho et al. 2022): descriptions of images by several annotators, as phrases.

The CSV file has the columns image, caption, background, object and relation, and one row per image and
annotator. The phrases of a field are separated by `\;`. The published file has 5,000 rows for 1,000 images.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from glied import storage
from glied.errors import UsageError

PHRASE_SEPARATOR = "\\;"
CRITERIA = ("background", "object", "relation")
COLUMNS = ("image", "caption", *CRITERIA)
# Values that pandas.read_csv, which the published script uses, treats as missing.
_MISSING = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)


@dataclass(frozen=True)
class Annotation:
    """One annotator's row, with fields as in the file; missing fields are ""."""

    image: str
    caption: str
    background: str
    object: str
    relation: str

    @property
    def complete(self) -> bool:
        """Whether no field is missing."""
        return all((self.caption, self.background, self.object, self.relation))

    def field(self, criterion: str) -> str:
        """Return the field of one of `CRITERIA`."""
        return {"background": self.background, "object": self.object, "relation": self.relation}[criterion]

    def phrases(self, criterion: str) -> list[str]:
        """Return the non-empty phrases of one of `CRITERIA`, stripped."""
        parts = (part.strip() for part in self.field(criterion).split(PHRASE_SEPARATOR))
        return [part for part in parts if part]


def load_annotations(uri: str) -> list[Annotation]:
    """Read the rows of a FineCapEval file in order, several per image.

    Raises:
        UsageError: the file is missing or malformed; the message names the row, counted from 1 after the
            header.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"no FineCapEval file at {uri}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri} is not UTF-8: {error}") from error
    annotations = list(_annotations(text, uri))
    if not annotations:
        raise UsageError(f"{uri} has no rows")
    return annotations


def _annotations(text: str, uri: str) -> Iterator[Annotation]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        header = next(reader, [])
        if sorted(header) != sorted(COLUMNS):
            raise UsageError(f"{uri}: the columns are {', '.join(header)}; expected {', '.join(COLUMNS)}")
        for number, values in enumerate((row for row in reader if row), 1):
            yield _annotation(header, values, f"{uri}, row {number} (line {reader.line_num})")
    except csv.Error as error:
        raise UsageError(f"{uri}, row {number + 1} (line {reader.line_num}): {error}") from error


def _annotation(header: list[str], values: list[str], where: str) -> Annotation:
    if len(values) != len(header):
        raise UsageError(f"{where}: {len(values)} fields instead of {len(header)}")
    fields = {name: "" if value in _MISSING else value for name, value in zip(header, values, strict=True)}
    if not fields["image"].strip():
        raise UsageError(f"{where}: no image")
    return Annotation(**fields)
