"""What an export is asked for, and what it did."""

from dataclasses import dataclass, field
from typing import Literal

from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What to export, as what, and where to."""

    run: str
    """Run folder of jobs/caption_dataset.py."""
    out: str
    """Folder to write to; with form coco the JSON file."""
    form: Literal["parquet", "jsonl", "webdataset", "txt", "coco"]
    """parquet, jsonl and webdataset are a file per unit, txt a sidecar per image, coco one JSON list."""
    existing: Literal["skip", "append", "overwrite"] = "skip"
    """What happens to a sidecar that is there already: skip leaves it, append adds a line, overwrite replaces
    it. With the other forms overwrite replaces an export of another run; append is refused."""
    partial: bool = False
    """Export what a run has that is not finished; a bare --partial means true."""
    columns: list[str] | None = None
    """Columns of form parquet, in this order; all of them by default."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not self.run or not self.out:
            raise UsageError("run and out must not be empty")
        if self.existing == "append" and self.form != "txt":
            raise UsageError(f"existing append is for form txt; form {self.form} takes skip or overwrite")
        if self.columns is not None and self.form != "parquet":
            raise UsageError(f"columns is for form parquet, not for {self.form}")
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise UsageError(f"columns {self.columns}: name at least one, and none twice")


@dataclass(frozen=True)
class Report:
    """What an export did.

    Attributes:
        config: of the export.
        planned, units, earlier: units of the run, those exported now, those exported by an earlier call.
        written: rows (jsonl, webdataset, parquet), sidecars (txt) or captions (coco) written now.
        skipped: sidecars that were there already and stayed.
        captionless: images exported now that have no caption to write; they are not ok.
        refused: ids with a caption for which there is no safe file name, over the whole export.
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
        """For a person."""
        lines = [f"refused {refusal}" for refusal in self.refusals]
        if self.refused > len(self.refusals):
            lines.append(f"refused {self.refused - len(self.refusals)} more ids")
        noun = {"txt": "sidecars", "coco": "captions"}.get(self.config.form, "rows")
        lines.append(
            f"{self.config.form} at {self.config.out}: {self.units + self.earlier} of {self.planned} units, "
            f"{self.earlier} of them from before; {self.written} {noun} written, {self.skipped} skipped, "
            f"{self.refused} refused, {self.captionless} images without a caption"
        )
        return lines


@dataclass(frozen=True)
class UnitReport:
    """What became of one unit; the content of its marker.

    Attributes:
        rows: txt: positions in the unit whose sidecar holds its caption by this export.
        written, skipped, captionless, refusals: as in `Report`.
    """

    written: int = 0
    skipped: int = 0
    captionless: int = 0
    rows: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
