"""Odd images in runs: which files get rows, the content of these rows, and what the run records."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job
from glied.bulk.chunks import run_here
from glied.bulk.config import HEIF_EXTENSIONS, IMAGE_EXTENSIONS, InputConfig, describe_skipped
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.bulk.run.summary import Summary
from glied.config import parse
from glied.errors import UsageError
from glied.vision.image_formats import signatures
from tests.bulk import runs
from tests.bulk.models import model_options

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
FORMER_EXTENSIONS = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
    "jp2", "ppm", "pgm", "pbm", "pnm", "tga", "ico", "avif", "heic", "heif",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good images, truncated images, and images in unsupported formats."""
    source = tmp_path / "in"
    source.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    data = stream.getvalue()
    (source / "good.jpg").write_bytes(data)
    (source / "cut.jpg").write_bytes(data[: len(data) * 9 // 10])
    (source / "photo.heic").write_bytes(HEIC)
    (source / "named.jpg").write_bytes(b"8BPS\0\1" + bytes(40))
    (source / "drawing.tga").write_bytes(bytes(100))
    (source / "notes.txt").write_text("not an image")
    return source


@pytest.fixture
def without_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate in this process that the extra heif is not installed."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)


@pytest.fixture
def configure(models: Path, folder: Path, tmp_path: Path) -> Callable[..., CaptionDatasetConfig]:
    def make(*options: str) -> CaptionDatasetConfig:
        where = [f"--input.uri={folder}", f"--output.uri={tmp_path / 'out'}"]
        config = ["--config=configs/caption/demo.yaml", *where, *model_options(models)]
        return parse(CaptionDatasetConfig, [*config, *options])

    return make


def execute(config: CaptionDatasetConfig) -> Summary:
    stage = caption_factory(config).build()
    return bulk_run.execute(caption_job(config), run_here(Fetch(pause=0.0), stage))


def rows(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in read_rows(str(folder))}


@pytest.mark.usefixtures("without_heif")
def test_unsupported_formats_are_skipped_and_named(configure, tmp_path):
    summary = execute(configure())
    found = rows(tmp_path / "out")
    assert found.keys() == {"good.jpg", "cut.jpg", "named.jpg"}
    assert {name: row["error_kind"] for name, row in found.items()} == {
        "good.jpg": None,
        "cut.jpg": "truncated",
        "named.jpg": "unsupported",
    }
    assert "Photoshop" in found["named.jpg"]["error"]
    assert summary.skipped_kinds == {".heic": 1, ".tga": 1, ".txt": 1}
    (line,) = [line for line in summary.lines() if "left out" in line]
    assert line.startswith("3 files left out")
    assert line.endswith('1 .heic, 1 .tga, 1 .txt; pip install -e ".[heif]" adds HEIC')
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["skipped_kinds"] == summary.skipped_kinds
    assert execute(configure()).skipped_kinds == summary.skipped_kinds  # a resumed run reports the same


@pytest.mark.skipif(not signatures.heif_is_read(), reason="pillow-heif is not installed")
def test_heic_gets_a_row_if_it_can_be_decoded(configure, folder, tmp_path):
    image = Image.new("RGB", (64, 48), "red")
    image.save(folder / "photo.heic", "HEIF")
    summary = execute(configure())
    assert rows(tmp_path / "out")["photo.heic"]["status"] == "ok"
    assert summary.skipped_kinds == {".tga": 1, ".txt": 1}


def test_a_requested_extension_gets_a_row(configure, tmp_path):
    execute(configure("--input.extensions=[jpg, tga, heic]"))
    found = rows(tmp_path / "out")
    assert found.keys() == {"good.jpg", "cut.jpg", "named.jpg", "photo.heic", "drawing.tga"}
    assert found["photo.heic"]["status"] == found["drawing.tga"]["status"] == "rejected"


@pytest.mark.usefixtures("without_heif")
def test_the_error_for_a_folder_without_images_names_its_files(configure, folder):
    for path in folder.glob("*.jpg"):
        path.unlink()
    with pytest.raises(UsageError, match="no images there; 3 files") as caught:
        execute(configure())
    assert "1 .heic, 1 .tga, 1 .txt; pip install" in str(caught.value)


def test_skipped_files_are_named_with_the_most_frequent_first():
    kinds = {".a": 1, ".b": 5} | {f".{number:02}": 2 for number in range(9)}
    expected = "5 .b, 2 .00, 2 .01, 2 .02, 2 .03, 2 .04, 2 .05, 2 .06, 5 others"
    assert describe_skipped(kinds) == expected
    assert describe_skipped({}) == ""


def test_a_truncated_jpeg_is_captioned_on_request(configure, tmp_path, models):
    execute(configure("--input.max_missing_rows=0.3"))
    found = rows(tmp_path / "out")
    cut = found["cut.jpg"]
    assert (cut["status"], cut["error_kind"], cut["width"], cut["height"]) == ("ok", None, 160, 120)
    assert cut["caption"]
    assert cut["error"].startswith("the file was cut off: the last ")
    assert found["good.jpg"]["error"] is None
    with pytest.raises(UsageError, match=r"missing_rows was 0\.3 and is now null"):
        execute(configure())

    options = ["--config=configs/extract/demo.yaml", f"--regions.checkpoint={models / 'regions'}"]
    options += [f"--input.uri={tmp_path / 'in'}", f"--output.uri={tmp_path / 'store'}"]
    config = parse(ExtractRegionsConfig, [*options, "--input.max_missing_rows=0.3"])
    bulk_run.execute(extract_job(config), run_here(Fetch(pause=0.0), extract_factory(config).build()))
    record = json.loads((tmp_path / "store" / "run.json").read_text())
    assert record["fingerprint"]["preprocessing"]["missing_rows"] == 0.3


def test_a_jpeg_truncated_more_than_allowed_is_rejected(configure, tmp_path):
    execute(configure("--input.max_missing_rows=0.02"))
    cut = rows(tmp_path / "out")["cut.jpg"]
    assert (cut["status"], cut["error_kind"]) == ("rejected", "truncated")
    assert "of its rows are missing" in cut["error"]


def test_invalid_proportions_of_rows_are_refused():
    for share in (-0.1, 1.0):
        with pytest.raises(UsageError, match="max_missing_rows"):
            InputConfig(uri="x", max_missing_rows=share)


def test_a_run_of_an_earlier_version_is_resumed(configure, tmp_path):
    """Its run.json has the former default of the extensions, and lacks newer settings."""
    execute(configure())
    with runs.changed_record(tmp_path / "out") as record:
        del record["input"]["max_missing_rows"]
        record["input"]["extensions"] = FORMER_EXTENSIONS
    assert execute(configure()).units_done_earlier == 1
    same = ", ".join(FORMER_EXTENSIONS)
    assert execute(configure(f"--input.extensions=[{same}]")).units_done_earlier == 1
    with pytest.raises(UsageError, match=r"input\.extensions was "):
        execute(configure("--input.extensions=[jpg]"))


def test_the_page_on_inputs_names_the_supported_extensions():
    page = " ".join((Path(__file__).parents[2] / "docs" / "inputs.md").read_text().split())
    assert f"one of {', '.join(IMAGE_EXTENSIONS)}," in page
    assert f", {', '.join(HEIF_EXTENSIONS)}." in page
