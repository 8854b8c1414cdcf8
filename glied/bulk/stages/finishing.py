"""What happens to captions after any captioner has given them: text rules, existing captions, scores, choice.

It is the same for all captioners. No Ray here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pyarrow as pa
import torch
from torch import Tensor

from glied.bulk import arrow_tables, row_schemas
from glied.bulk.plan.sources.fetch import SIDECAR
from glied.bulk.plan.sources.input_columns import passed_name
from glied.bulk.stages.describe import IMAGE_VECTOR, Describe, Row, clip_scores
from glied.bulk.stages.quality import QualityConfig
from glied.bulk.stages.stage import DescribeStage, Fault, Read
from glied.clock import Clock
from glied.text.caption_rules import TextRules

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer

Item = TypeVar("Item")


@dataclass(frozen=True)
class Entry(Generic[Item]):
    """A decoded image, or its regions, with columns of its row in the input table.

    Attributes:
        item: what is described.
        columns: those that the captioner or its finishing reads, by the names that the input has for them.
    """

    item: Item
    columns: Mapping[str, Any] = field(default_factory=dict)


class WithoutColumns(Generic[Item]):
    """Describes entries without looking at their columns; implements `Describe`."""

    def __init__(self, describe: Describe[Item]) -> None:
        """`describe` gets the items of entries."""
        self.describe = describe
        self.schema, self.model = describe.schema, describe.model

    def __call__(self, batch: Sequence[Entry[Item]], clock: Clock) -> list[Row]:
        """The rows of the items."""
        return self.describe([one.item for one in batch], clock)


class FinishCaptions(Generic[Item]):
    """The captions of a captioner as the config wants them; implements `Describe`."""

    schema = row_schemas.CAPTIONS

    def __init__(
        self,
        describe: Describe[Entry[Item]],
        *,
        text: TextRules | None = None,
        quality: QualityConfig | None = None,
        clip: "ClipScorer | None" = None,
    ) -> None:
        """Finish what `describe` gives: rows with captions, or with why there are none.

        Args:
            describe: the captioner.
            text: rules for its texts, and what becomes of captions that images have already.
            quality: choice and flags.
            clip: scores the captions; None for no scores.
        """
        self.describe = describe
        self.model = describe.model
        self.text = text or TextRules()
        self._trigger = TextRules(trigger=self.text.trigger)  # of the whole caption, the existing part too
        self._rules = replace(self.text, trigger="")
        self.quality = quality or QualityConfig()
        self.clip = clip

    def __call__(self, batch: Sequence[Entry[Item]], clock: Clock) -> list[Row]:
        """The columns of the captioner, and caption, caption_source, clip_score and the flags."""
        existing = [self._existing(entry) for entry in batch]
        keep = self.text.existing.mode == "keep"
        todo = [entry for entry, known in zip(batch, existing, strict=True) if not (keep and known)]
        described = iter(self.describe(todo, clock) if todo else [])
        rows = [
            _kept(entry, known) if keep and known else self._written(next(described), known)
            for entry, known in zip(batch, existing, strict=True)
        ]
        if self.clip is not None:
            with clock.measure("clip"):
                self._score(self.clip, batch, rows)
        for row in rows:
            if row.get("captions"):
                row["captions"] = self.quality.ordered(row["captions"])
                row |= self.quality.columns_of(row["captions"][0])
        return rows

    def _existing(self, entry: Entry[Item]) -> str:
        """The caption that an image has already; empty where it has none."""
        config = self.text.existing
        found = entry.columns.get(config.column or SIDECAR) if config.is_set else None
        return found.strip() if isinstance(found, str) else ""

    def _written(self, row: Row, existing: str) -> Row:
        """A row with the texts of its captions as they are to be."""
        captions = row.get("captions") or []
        if existing and captions:
            captions = [one for one in captions if one["text"].strip()]
            if not captions:  # the model has nothing to say; the image keeps its caption
                return row | {"captions": [{"text": existing}], "caption_source": "input"}
            row["captions"] = captions
        row["caption_source"] = "model" if captions else None
        for one in captions:
            raw = one["text"]
            text = self._rules(raw)
            if existing:
                text, row["caption_source"] = self.text.existing.combined(existing, text)
            text = self._trigger(text)
            one |= {"text": text, "raw_text": None if text == raw else raw}
        return row

    def _score(self, clip: "ClipScorer", batch: Sequence[Entry[Item]], rows: Sequence[Row]) -> None:
        """Fill the clip_score of all captions."""
        found = [(entry.item, row) for entry, row in zip(batch, rows, strict=True) if row.get("captions")]
        pairs = [
            (vector, one)
            for (_, row), vector in zip(found, _image_vectors(clip, found), strict=True)
            for one in row["captions"]
        ]
        if not pairs:
            return
        images = torch.stack([vector.to(clip.device) for vector, _ in pairs])
        texts = [one["text"] for _, one in pairs]
        for (_, one), score in zip(pairs, clip_scores(clip, images, texts), strict=True):
            one["clip_score"] = score


class ReadEntries(Generic[Item]):
    """Entries of a table: items of another reader with columns that pass through; implements `Read`."""

    def __init__(self, read: Read[Item], columns: Sequence[str]) -> None:
        """Read items with `read`, and columns by the names that the input has for them."""
        self.read, self.columns = read, columns
        self.schema = read.schema

    def __call__(self, table: pa.Table, clock: Clock) -> Iterator[list[Entry[Item] | Fault]]:
        """An entry or a fault per row."""
        rows = iter(self._columns_of(table))
        for batch in self.read(table, clock):
            yield [_with_columns(item, next(rows)) for item in batch]

    def _columns_of(self, table: pa.Table) -> Sequence[dict[str, Any]]:
        """The wanted columns of each row; what the input lacks is not among them."""
        places = {name: table.schema.get_field_index(passed_name(name)) for name in self.columns}
        there = {name: table.column(place) for name, place in places.items() if place >= len(self.schema)}
        if not there:
            return [{}] * table.num_rows
        return arrow_tables.to_rows(pa.table(there))


class CaptionStage(DescribeStage[Entry[Item]]):
    """The stage of any captioner: reads images or regions, captions them and finishes the captions."""

    def __init__(
        self,
        read: Read[Item],
        describe: FinishCaptions[Item],
        *,
        columns: Sequence[str] = (),
        take_usage: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """As that of `DescribeStage`.

        Args:
            read: images or regions.
            describe: their captions.
            columns: those of the input that prompts name.
            take_usage: returns what was used (requests, tokens, cost) since its last call.
        """
        existing = describe.text.existing
        wanted = [*columns, *filter(None, [existing.column or (SIDECAR if existing.sidecar else "")])]
        super().__init__(ReadEntries(read, list(dict.fromkeys(wanted))), describe)
        self.take_usage = take_usage

    def __call__(self, table: pa.Table) -> pa.Table:
        """As that of `DescribeStage`; the metadata has what was used, too (`arrow_tables.usage_of`)."""
        return arrow_tables.with_usage(super().__call__(table), self.take_usage())


def _with_columns(item: Item | Fault, columns: Mapping[str, Any]) -> Entry[Item] | Fault:
    return item if isinstance(item, Fault) else Entry(item, columns)


def _kept(entry: Entry[Any], existing: str) -> Row:
    """The row of an image that keeps its caption."""
    size = {"width": entry.item.width, "height": entry.item.height}
    return size | {"captions": [{"text": existing}], "caption_source": "input"}


def _image_vectors(clip: "ClipScorer", found: Sequence[tuple[Any, Row]]) -> list[Tensor]:
    """CLIP's vector of each image: that which its captioner has put into the row, or else a new one."""
    vectors = [row.pop(IMAGE_VECTOR, None) for _, row in found]
    missing = [place for place, vector in enumerate(vectors) if vector is None]
    encoded = clip.encode_images([found[place][0].pixels for place in missing])
    for place, vector in zip(missing, encoded, strict=True):
        vectors[place] = vector
    return vectors
