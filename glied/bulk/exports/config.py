"""The config and the report of an export."""

from dataclasses import dataclass, field
from typing import Literal

from glied.bulk.exports.row_filter import RowFilter
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, in which format, and where to."""

    run: str
    """Run folder of jobs/caption_dataset.py."""
    out: str
    """Folder to write to; with form coco the JSON file."""
    form: Literal["parquet", "csv", "jsonl", "webdataset", "lance", "txt", "coco"]
    """parquet, csv, jsonl and webdataset write a file per unit, lance one dataset, txt a sidecar file per
    image, coco a JSON list. csv has lists and structs as JSON. lance needs the extra of that name."""
    existing: Literal["skip", "overwrite", "append"] = "skip"
    """What happens to a sidecar file that exists: skip keeps it, overwrite replaces it. With the other forms
    overwrite replaces an export of another run; Lance keeps it as an older version. append was removed in
    version 0.2."""
    partial: bool = False
    """Export what an unfinished run has so far; a bare --partial means true."""
    columns: list[str] | None = None
    """Columns of the forms parquet, csv and lance, in this order; all of them by default."""
    image_column: str = ""
    """Form parquet: name of a further column with the images' files, read again from where the run read them.
    Hugging Face's `load_dataset` takes the folder as it is. Needs the extra datasets; empty for no images."""
    where: str | None = None
    """Export only the rows that fulfill a condition, such as "status == 'ok' and clip_score >= 0.7 and not
    repeats" (docs/captioners.md). A row for which it is null is left out."""

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        if not self.run or not self.out:
            raise UsageError("run and out must not be empty")
        if self.existing == "append":
            raise UsageError(
                "existing append was removed in version 0.2: use skip to keep the sidecar files that exist, "
                "overwrite to replace them, or another out to have both captions"
            )
        if self.columns is not None and self.form not in _TABLES:
            raise UsageError(f"columns is for the forms {', '.join(_TABLES)}, not for {self.form}")
        if self.image_column and self.form != "parquet":
            raise UsageError(f"image_column is for form parquet, not for {self.form}")
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise UsageError(f"columns {self.columns}: name at least one, and none twice")
        if self.where is not None:
            RowFilter(self.where)  # refuses other syntax

    @property
    def row_filter(self) -> RowFilter | None:
        """The condition of `where`."""
        return None if self.where is None else RowFilter(self.where)


_TABLES = ("parquet", "csv", "lance")


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        config: the config of the export.
        planned, units, earlier: units of the run, those exported now, those exported by an earlier call.
        written: sidecar files (txt), captions (coco) or rows (all other forms) written now.
        skipped: sidecar files that existed and were kept.
        captionless: images exported now without a caption, because their status is not ok.
        refused: ids with a caption for which there is no safe file name, over the whole export, or whose
            image for `image_column` could not be read.
        refusals: the first of them with the reason.
    """

    config: ExportConfig
    planned: int
    units: int = 0
    earlier: int = 0
    written: int = 0
    skipped: int = 0
    captionless: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as lines of text."""
        verb = "no image for" if self.config.image_column else "refused"
        lines = [f"{verb} {refusal}" for refusal in self.refusals]
        if self.refused > len(self.refusals):
            lines.append(f"{verb} {self.refused - len(self.refusals)} more ids")
        noun = {"txt": "sidecars", "coco": "captions"}.get(self.config.form, "rows")
        where = f", rows where {self.config.where}" if self.config.where else ""
        lines.append(
            f"{self.config.form} at {self.config.out}: {self.units + self.earlier} of {self.planned} units, "
            f"{self.earlier} of them from before; {self.written} {noun} written, {self.skipped} skipped, "
            f"{self.refused} refused, {self.captionless} images without a caption{where}"
        )
        return lines


@dataclass(frozen=True)
class UnitReport:
    """What the export of one unit did; the content of its marker.

    Attributes:
        written, skipped, captionless, refusals: as in `ExportReport`.
    """

    written: int = 0
    skipped: int = 0
    captionless: int = 0
    refusals: list[str] = field(default_factory=list)
