"""Make one self-contained HTML page of a captioned run.

python jobs/gallery.py --run demo/captions --references demo/scenes/captions.json --out demo/gallery.html
"""

from dataclasses import dataclass

from glied import storage
from glied.bulk.results import read_rows
from glied.config import parse, run
from glied.errors import UsageError
from glied.evaluation.captions import base_name, read_references
from glied.evaluation.gallery import render_gallery


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """What to show."""

    run: str
    """Run folder of jobs/caption_dataset.py."""
    out: str
    """The HTML file to write."""
    references: str | None = None
    """Captions file in the COCO form, for scores and for reading beside."""
    title: str = "Captions"
    """Heading of the page."""
    limit: int = 500
    """Most images on the page: each is embedded, at about 30 kB."""

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"limit is {self.limit}: it must be at least 1")


def main() -> int:
    """Read the run, write the page."""
    config = parse(GalleryConfig, description=__doc__)
    rows = [row for row, _ in zip(read_rows(config.run), range(config.limit), strict=False)]
    references = {}
    if config.references:
        by_name = read_references(config.references, [base_name(row["id"]) for row in rows])
        references = {row["id"]: by_name[base_name(row["id"])] for row in rows}
    page = render_gallery(rows, references=references, title=config.title)
    storage.write_bytes(config.out, page.encode())
    print(f"{len(rows)} images on {config.out}")
    return 0


if __name__ == "__main__":
    run(main)
