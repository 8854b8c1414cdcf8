"""Inputs that once caused a fault, kept beside the checkout: the result of every image of each folder.

The archive is not part of the project; this module is skipped if it is missing. Tests that create such
inputs themselves are in tests/bulk/plan/sources/, tests/vision/test_odd_images.py and
tests/data/test_caption_files.py.
"""

import gzip
import os
import re
import shutil
import socket
import socketserver
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied.bulk import row_schemas
from glied.bulk.arrow_tables import conform, from_ipc, to_ipc
from glied.bulk.captioning import fetch_stage
from glied.bulk.config import FetchConfig, InputConfig, ResourcesConfig, WebConfig
from glied.bulk.exports.sidecars import SidecarNames, refusal
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import INPUT
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.stages.stage import DecodeImages, DescribeStage
from glied.clock import Clock
from glied.data import coco
from glied.errors import UsageError
from glied.reports.evaluate import EvaluateConfig, evaluate
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import Picture
from tests.data.test_caption_files import prepare_own

ARCHIVE = Path(__file__).resolve().parents[1].parent / "shared" / "cases" / "cases.tar.gz"
if not ARCHIVE.is_file():
    pytest.skip("shared/cases/cases.tar.gz is not beside the checkout", allow_module_level=True)

OK = "ok"
EMPTY = "rejected empty"
BAD_ROW = "rejected bad_row"
BAD_URL = "rejected bad_url"
BROKEN = "rejected broken_shard"
FORBIDDEN = "rejected forbidden"
NOT_FOUND = "rejected not_found"
UNSUPPORTED = "rejected unsupported"
THREE = ["0", "1", "2"]
TWELVE = [f"{number}.png" for number in range(12)]


class Pixels:
    """Replaces the models: the description of an image is its pixels."""

    model = "pixels"
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "uri", "status", "error_kind", "error", "model")),
            ("pixels", pa.binary()),
            ("height", pa.int32()),
            ("width", pa.int32()),
        ]
    )

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[dict[str, Any]]:
        return [{"pixels": one.pixels.tobytes(), "height": one.height, "width": one.width} for one in batch]


class Result(NamedTuple):
    """The written rows, the columns of the input, and the numbers of skipped files by kind."""

    rows: list[dict[str, Any]]
    columns: pa.Schema
    skipped: dict[str, int]

    def outcomes(self) -> dict[str, str]:
        """Return status and error kind by id, and check that every error is one readable line."""
        for row in self.rows:
            assert (row["error"] is None) == (row["error_kind"] is None) == (row["status"] == OK)
            assert row["error"] is None or (row["error"].isprintable() and len(row["error"]) < 500)
        found = {row["id"]: " ".join(filter(None, (row["status"], row["error_kind"]))) for row in self.rows}
        assert len(found) == len(self.rows)
        return found

    def pixels(self) -> dict[str, np.ndarray]:
        """Return the pixels [H, W, 3] by id."""
        return {
            row["id"]: np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3)
            for row in self.rows
            if row["status"] == OK
        }


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="fully_trusted")  # its links and pipes are needed
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Plan, fetch and decode an input in units of three images, like a job."""
    with DecoderPool(1) as decoder:
        stage = DescribeStage(DecodeImages(decoder), Pixels())

        def one(
            uri: Path | str, form: str, output: str = "/nowhere", web: WebConfig | None = None, **options
        ):
            config = InputConfig(uri=str(uri), form=form, **options)
            source = open_source(config, output)
            folder = str(tmp_path_factory.mktemp("run"))
            batches = list(inputs(source, config))
            if not batches:
                return Result([], source.columns, source.skipped)
            manifest.create(folder, batches, 3, columns=source.columns, skipped=source.skipped)
            plan = manifest.load(folder)
            assert plan is not None
            fetch = fetch_stage(config, ResourcesConfig(fetch=FetchConfig(web=web or WebConfig())))
            schema = pa.schema([*stage.describe.schema, *plan.columns])
            rows = []
            for unit in plan.read_units(range(plan.units)):
                table = unit.table
                for column in plan.columns:
                    if INPUT + column.name not in table.column_names:
                        nulls = pa.nulls(table.num_rows, column.type)
                        table = table.append_column(INPUT + column.name, nulls)
                written = conform(stage(from_ipc(to_ipc(fetch(table)))), schema)
                assert written["id"].to_pylist() == unit.ids
                rows += row_schemas.decode(row_schemas.encode(written)).to_pylist()
            return Result(rows, plan.columns, source.skipped)

        yield one


@dataclass(frozen=True)
class Case:
    """The expected result of a folder, or of a file in it.

    Attributes:
        path: path below the archive's root.
        form: `input.form`.
        rows: status and error kind by id.
        skipped: numbers of skipped files by kind.
        options: other options of `input`.
    """

    path: str
    form: str
    rows: dict[str, str]
    skipped: dict[str, int] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.path, self.form, *self.options])


def ok(*ids: str) -> dict[str, str]:
    return dict.fromkeys(ids, OK)


def files(path: str, rows: dict[str, str], **skipped: int) -> Case:
    return Case(path, "files", rows, skipped)


def parquet(path: str, rows: dict[str, str], skipped: dict[str, int] | None = None, **options: Any) -> Case:
    return Case(path, "parquet", rows, skipped or {}, options)


def table(path: str, rows: dict[str, str], skipped: dict[str, int] | None = None, **options: Any) -> Case:
    return Case(path, "table", rows, skipped or {}, options)


def tars(path: str, rows: dict[str, str], **skipped: int) -> Case:
    return Case(path, "webdataset", rows, skipped)


def rows_of(name: str, count: int) -> dict[str, str]:
    return ok(*(f"{name}#{row}" for row in range(count)))


PNG = {".png": 2}
LINK = {"(link loop)": 1}
ODD_NAMES = ["#h?%20+.png", "back\\slash.png", "new\nline.png", "e\u0301.png", "\u00e9.png"]
NAMED = "parquet-binary-uri/{}.parquet"

READ = [
    table("csv-long-field", ok("a.png", "b.png"), PNG),
    *(table(f"csv-pandas-index/{name}.csv", ok("a.png")) for name in "tuvw"),
    files("fs-latin1", ok("a.png", "caf%E9.png")),
    files("fs-latin1-dir", ok("a.png", "caf%E9/b.png")),
    files("fs-latin1-nonimage", ok("a.png"), **{".txt": 1}),
    files("fs-loop", ok("a.png"), **LINK),
    files("fs-loop2", ok("x/a.png"), **LINK),
    files(
        "fs-names",
        ok(*ODD_NAMES, "._a.png", ".hidden.png", "a.jpeg.webp", "cr\rx.png", "x.PNG", "\u202eabc.png")
        | ok("\ufeffbom.png"),
        **{"(none)": 3, ".db": 1, ".jpg~": 1, ".png ": 1, ".ini": 1},
    ),
    files("fs-run-inside", ok("a.png")),
    files("fs-symlinks", ok("dirlink/a.png", "dirlink/link.png", "real/a.png", "real/link.png"),
        **{"(dangling link)": 2}),
    files("fs-uri-forms", ok("sp ace/a.png")),
    parquet("hf", rows_of("pandas.parquet", 2) | rows_of("pandas2.parquet", 2) | rows_of("polars.parquet", 1),
        {".arrow": 1, ".json": 2, ".png": 1}),
    table("jsonl-blank-lines", ok("a.png", "b.png"), PNG),
    table("jsonl-lone-surrogate/k.jsonl", ok("a.png")),
    table("jsonl-lone-surrogate/t.jsonl", ok("a.png")),
    table("jsonl-lone-surrogate/u.jsonl", {r"a\ud83d.png": BAD_ROW, "a.png": OK}),
    files("named-but-unsupported",
        dict.fromkeys(["heic-named.jpg", "jpg-12bit.jpg", "jxl-named.jpg", "tif-float32-rgb.tif"],
            UNSUPPORTED),
        **{".tga": 1}),
    *(table(NAMED.format(name), ok("a.png")) for name in ("dict", "large_string", "string_view")),
    parquet(NAMED.format("struct"), ok("struct.parquet#0"), image_column="uri"),
    parquet("parquet-broken-later",
        {"0.parquet#0": OK, "1.parquet#break": BROKEN, "2.parquet#break": BROKEN}),
    parquet("parquet-encrypted-or-trunc",
        {"0.parquet#break": BROKEN, "1.parquet#break": BROKEN, "2.parquet#0": OK}),
    parquet("parquet-hidden", ok("part-0.snappy.parquet#0", "part=1/x.parquet#0"), {"(hidden)": 5}),
    *(parquet(f"parquet-image-types/{name}.parquet", rows_of(f"{name}.parquet", count)) for name, count in [
        ("base64", 1), ("binary_view", 1), ("dict", 2), ("fixed", 1), ("list_struct", 1), ("list_u8", 1),
        ("struct_large", 1)]),
    parquet("parquet-image-types/list_bin.parquet", {"list_bin.parquet#0": BAD_ROW}),  # it has two images
    parquet("parquet-image-types/null_struct.parquet",
        {"null_struct.parquet#0": EMPTY, "null_struct.parquet#1": OK}),
    table("parquet-int-ids/t.parquet", ok(*THREE), id_column="id"),
    table("parquet-int-ids/b.parquet", ok("a", "b", "c"), id_column="id"),
    table("parquet-int-ids/f.parquet", ok("0", "1", "f.parquet#2"), id_column="id"),
    parquet("parquet-int-ids/i.parquet", ok("0", "i.parquet#1", "i.parquet#2"), id_column="id"),
    parquet("parquet-int-ids/e.parquet", ok("e.parquet#0", "x", "e.parquet#2"), id_column="id"),
    parquet("parquet-zero-rows", rows_of("1.parquet", 3) | rows_of("2.parquet", 2)),
    files("png-metadata", ok("png-chrm-short.png", "png-iccp-2MB.png", "png-iccp-bad-method.png",
        "png-itxt-3MB-compressed.png", "png-phys-bad-crc.png")),
    parquet("polars-1.38", ok("images.parquet#0")),
    table("ray-hf", ok(*TWELVE) | {"hf://datasets/a/b/x.png": FORBIDDEN}, {".png": 12}),
    table("ray-nul", ok(*TWELVE) | {"x.png\0y": BAD_URL}, {".png": 12}),
    table("table-broken-later", {"a.png": OK, "1.parquet#break": BROKEN}, {".png": 1}),
    table("table-other-csv/urls.csv", ok("a.png")),
    *(table(f"table-other-forms/{name}", ok("a.png")) for name in [
        "C.CSV", "bom.csv", "cr.csv", "j.json", "l.csv", "n.csv", "s.csv", "t.tsv", "u.csv", "ws.csv",
        "z.csv.gz", "z.jsonl.gz"]),
    table("table-other-forms/jj.jsonl", ok("a.png"), duplicates="keep_first"),
    table("table-other-forms/e.csv", {}),
    table("table-other-forms/h.csv", {}),
    table("table-other-forms", ok("a.png"), {".json": 1, ".png": 1}, duplicates="keep_first"),
    tars("tar-concat", ok("c.tar/a.png", "c.tar/c.png")),
    tars("tar-dot-slash", ok("s.tar/./a.png", "s.tar/./sub/b.png"), **{".png": 2, ".txt": 1}),
    tars("tar-extensions",
        ok(*(f"s.tar/{name}" for name in ["0001.JPG", "0002.jpeg", "0005.jpg.png", "0006.image.jpg",
            "__MACOSX/._0008.png", "._0009.png", "0010.PNG"])),
        **{"(none)": 1, ".img": 1, ".jpg~": 1, ".jxl": 1, ".raw": 1, ".dng": 1, ".svg": 1}),
    tars("tar-latin1-names", ok("pax.tar/caf%E9.png", "pax.tar/0003.png", "s.tar/0001.png",
        "s.tar/caf%E9.png", "s.tar/0003.png")),
    tars("tar-links",
        ok("s.tar/a.png", "s.tar/b.png", "s.tar/d.png") | {"s.tar/c.png": UNSUPPORTED},
        **{".png": 4, ".txt": 1}),
    tars("tar-misc",
        ok("U.TAR/u.png", "dup.tar/a.png#1", "dup.tar/a.png", "gz.tar/a.png", "x.tar.gz/a.png")
        | {"y.tgz#break": BROKEN, "zero.tar#break": BROKEN}),
    Case("tar-misc/empty.tar", "webdataset", {}),
    tars("tar-names", ok(*(f"s.tar/{name}" for name in [
        *ODD_NAMES, "x" * 300 + ".png", "/abs/a.png", "../up.png", "a//b.png", "a/./b.png", " lead.png",
        "tab\t.png"]))),
    tars("tar-only-gz", ok("x.tar.gz/a.png")),
    tars("tar-same-names", ok("p/0.tar/a.png", "q/0.tar/a.png")),
    tars("tar-sparse",
        ok("gnu.tar/b.png", "pax.tar/b.png") | dict.fromkeys(["gnu.tar/a.bmp", "pax.tar/a.bmp"], UNSUPPORTED),
        **{".bmp": 1, ".png": 1}),
    files("tiff-pixels",
        ok("_ref.png", "png-gray16-trns.png", "tif-minwhite16.tif")
        | dict.fromkeys(["tif-uint16-rgb-planar.tif", "tif-uint32-gray.tif"], UNSUPPORTED)),
    table("upper", {"a.png": NOT_FOUND}),  # the archive lacks this image
]  # fmt: skip
OTHER_PIXELS = ["png-gray16-trns.png", "tif-minwhite16.tif"]

UNIFIED = [
    ("mixed-dict-vs-string", {"t": ("string", ["x", "y"])}),
    ("mixed-dict8-vs-dict16", {"t": ("string", ["x", "y"])}),
    ("mixed-int-vs-double", {"t": ("double", [1.0, 1.5])}),
    ("mixed-list-item-vs-element", {"t": ("list<element: string>", [["x"], ["x"]])}),
    ("mixed-missing", {"t": ("int64", [1, 1]), "u": ("int64", [2, None])}),
    ("mixed-null-vs-string", {"t": ("string", [None, "x"])}),
    ("mixed-nullability", {"t": ("int64", [1, 1])}),
    ("mixed-order", {"t": ("int64", [1, 2]), "u": ("int64", [2, 1])}),
    ("mixed-string-vs-large", {"t": ("large_string", ["x", "x"])}),
    (
        "mixed-struct-more-fields",
        {"t": ("struct<a: int64, b: int64>", [{"a": 1, "b": None}, {"a": 1, "b": 2}])},
    ),
    ("mixed-ts-us-vs-ns", {"t": ("timestamp[ns]", [1_000, 1])}),
]
"""Folders with two files, for tables and for images: a column's unified type and its values."""

REFUSED = [
    *((f"mixed-int-vs-string-{form}", form,
        r"/1\.parquet: column t is string, and int64 in .*/0\.parquet")
        for form in ("parquet", "table")),
    ("table-mixed-forms", "table", r"/1\.csv: column n is string, and int64 in .*/0\.parquet;.* text\)$"),
    *((NAMED.format(name), "table", rf"/{name}\.parquet: input\.uri_column 'uri' is \S+.* and not text")
        for name in ("binary", "large_binary", "list", "struct")),
    ("table-other-csv", "table", r"/stats\.csv: no input\.uri_column 'uri'; the columns are count, mean"),
    ("table-other-forms", "table", "duplicate id 'a.png'; .* --input.duplicates keep_first"),
    ("csv-pandas-index", "table", "duplicate id 'a.png'; .* --input.duplicates keep_first"),
    ("jsonl-lone-surrogate", "table", "duplicate id 'a.png'; .* --input.duplicates keep_first"),
    ("hf/disk", "parquet", r"no \.parquet file there; .* 1 \.arrow, 2 \.json; .*to_parquet\(FILE\)$"),
    ("hf/disk/data-00000-of-00001.arrow", "table", r"Arrow files are not read; .*to_parquet\(FILE\)$"),
    ("hf/disk/state.json", "table", "no row of it can be read: line 1: not JSON"),
    ("hf/pandas.parquet", "table", "no input.uri_column 'uri'; the columns are image, n, t, cat"),
    ("fs-uri-forms/sp%20ace", "files", "no such folder"),
    ("tar-only-gz", "parquet", r"no \.parquet file there; other files: 1 \.gz"),
]  # fmt: skip

CAPTIONED: dict[str, tuple[str, str]] = {
    # names and captions of the six images, with # as their number
    "abs-name": ("/data/#.jpg", "a dog number #"),
    "all-punct": ("#.jpg", "!!! ..."),
    "bom": ("#.jpg", "a dog number #"),
    "bool-width": ("#.jpg", "a dog number #"),
    "chinese": ("#.jpg", "一只狗在海滩上奔跑"),
    "dotdot": ("../#.jpg", "a dog number #"),
    "dup-image": ("#.jpg", "a dog number #"),
    "float-ids": ("#.jpg", "a dog number #"),
    "html-caption": ("#.jpg", '<b>a dog</b> <br> <a href="x">hi'),
    "image-without-caption": ("#.jpg", "a dog number #"),
    "newline-caption": ("#.jpg", "a dog\nruns\ton\u2028a beach"),
    "special-words": ("#.jpg", "<pad> <unk> <bos> a dog"),
    "string-ids": ("#.jpg", "a dog number #"),
    "subfolder": ("train/#.jpg", "a dog number #"),
    "surrogate": ("#.jpg", "a dog   number #"),
    "surrogate-name": (r"a\ud83d#.jpg", "a dog number #"),
    "unicode": ("#.jpg", "一只狗在海滩上 \U0001f600 naïve café ÇA"),
    "unknown-image": ("#.jpg", "a dog number #"),
    "url-name": ("http://x.org/#.jpg", "a dog number #"),
    "utf16": ("#.jpg", "a dog number #"),
    "win-name": ("train\\#.jpg", "a dog number #"),
}
OTHERS_CAPTIONED = {
    "empty-caption": {f"{number}.jpg": ["a dog"] for number in (0, 1, 3, 4, 5)},
    "jsonl": {"a.jpg": ["x"], "b.jpg": ["y"]},
    "list-of-pairs": {"a.jpg": ["x"]},
    "punct-only": {f"{number}.jpg": ["..." if number == 2 else "a dog"] for number in range(6)},
    "subfolder-dup": {f"{number % 2}/{number // 2}.jpg": [f"a dog number {number}"] for number in range(6)},
}
CAPTIONS: dict[str, dict[str, list[str]]] = {
    name: {names.replace("#", n): [caption.replace("#", n)] for n in "012345"}
    for name, (names, caption) in CAPTIONED.items()
} | OTHERS_CAPTIONED
UNPREPARED = {
    "jsonl": "all 2 images and leave none for training",
    "list-of-pairs": "all 1 images and leave none for training",
    "surrogate-name": r"0 of 6 photographs are below",  # no file can have this name
}
NO_CAPTIONS = {
    "deep": "nested too deeply",
    "dup-name-other-id": r"image 1 \(same\.jpg\) is a duplicate of image 0",
    "empty": "none of its 0 images has a caption",
    "empty-name": "image 0 has the file_name ''",
    "images-as-dict": "has no list 'images'",
    "int-name": "image 0 has the file_name 0",
    "latin1": r"is not UTF-8 \(byte 0xe9 at \d+\)",
    "list-caption": r"a caption of image 0 is \['a dog', 'a cat'\]",
    "list-ids": r"id \[0\] is neither a whole number nor a text",
    "nan": "a caption of image 1 is nan",
    "null-id": "id None is neither a whole number nor a text",
    "null-name": "image 0 has the file_name None",
    "string-vs-int": r'none of its 6 images has a caption .* ids "1" and 1 are not the same',
    "trailing": "not JSON: Extra data",
}

BY_THEMSELVES = ["fs-special", "ray-types", "s3-profile", "ssrf-chain", "uris", "web-answers"]


def test_every_folder_has_a_case(cases: Path) -> None:
    told = {case.path.split("/")[0] for case in READ} | {case[0].split("/")[0] for case in REFUSED}
    told |= {f"{name}-{form}" for name, _ in UNIFIED for form in ("parquet", "table")}
    told |= {f"coco-{name}" for name in [*CAPTIONS, *NO_CAPTIONS]} | set(BY_THEMSELVES)
    assert told == {path.name for path in cases.iterdir()}


@pytest.mark.parametrize("case", READ, ids=str)
def test_rows_and_counts(cases: Path, run: Run, case: Case) -> None:
    result = run(cases / case.path, case.form, **case.options)
    assert result.outcomes() == case.rows
    assert result.skipped == case.skipped
    expected = reference(cases)
    for name, pixels in result.pixels().items():
        assert name in OTHER_PIXELS or np.array_equal(pixels, expected), name


def reference(cases: Path) -> np.ndarray:
    """Return the pixels of all images."""
    with Image.open(cases / "tiff-pixels" / "_ref.png") as image:
        return np.asarray(image.convert("RGB"))


def test_pixels_of_sixteen_bits(cases: Path, run: Run) -> None:
    """In one file white is zero; in the other, gray 4660 is transparent."""
    found = run(cases / "tiff-pixels", "files").pixels()
    with Image.open(cases / "tiff-pixels" / "_ref.png") as image:
        gray = np.asarray(image.convert("L"))
    assert np.array_equal(found["tif-minwhite16.tif"], np.stack([gray] * 3, axis=-1))
    with Image.open(cases / "tiff-pixels" / "png-gray16-trns.png") as image:
        assert image.info["transparency"] == 4660
        values = np.asarray(image).astype(int)
    expected = np.where(values == 4660, 255, values / 257)
    assert np.abs(found["png-gray16-trns.png"] - expected[..., None]).max() <= 1


def test_names_of_unsupported_formats(cases: Path, run: Run) -> None:
    errors = {row["id"]: row["error"] for row in run(cases / "named-but-unsupported", "files").rows}
    for name, format_name in {
        "heic-named.jpg": "HEIC", "jpg-12bit.jpg": "12-bit JPEG", "jxl-named.jpg": "JPEG XL",
        "tif-float32-rgb.tif": "TIFF: 32-bit float",
    }.items():  # fmt: skip
        assert errors[name].startswith(format_name)
    (row,) = run(cases / "named-but-unsupported", "files", extensions=["tga"]).rows
    assert (row["status"], row["error_kind"], row["error"]) == ("rejected", "unsupported", "Truevision (TGA)")


def test_special_files(cases: Path, run: Run) -> None:
    result = run(cases / "fs-special", "files")
    readable = os.access(cases / "fs-special" / "noread.png", os.R_OK)  # root may read it
    unread = OK if readable else "failed storage"
    assert result.outcomes() == ok("a.png", "dir.png/in.png") | {"noread.png": unread}
    assert result.skipped == {"(special file)": 1}


def test_the_run_folder_among_its_images(cases: Path, run: Run) -> None:
    folder = cases / "fs-run-inside"
    (folder / "run" / "captions").mkdir(parents=True)
    try:
        shutil.copy(folder / "a.png", folder / "run" / "captions" / "old.png")
        assert run(folder, "files", output=str(folder / "run")).outcomes() == ok("a.png")
    finally:
        shutil.rmtree(folder / "run")


@pytest.mark.parametrize("form", ["{0}", "{0}/", "file://{0}", "file://{1}", "{0}/../sp ace"])
def test_ways_to_name_a_folder(cases: Path, run: Run, form: str) -> None:
    path = f"{cases}/fs-uri-forms/sp ace"
    assert run(form.format(path, path.replace(" ", "%20")), "files").outcomes() == ok("a.png")


@pytest.mark.parametrize("form", ["parquet", "table"])
@pytest.mark.parametrize(("name", "columns"), UNIFIED)
def test_one_schema_of_files_that_differ(
    cases: Path, run: Run, name: str, columns: dict[str, tuple[str, list]], form: str
) -> None:
    result = run(cases / f"{name}-{form}", form)
    names = ["a.png", "b.png"] if form == "table" else ["0.parquet#0", "1.parquet#0"]
    assert result.outcomes() == ok(*names)
    assert result.skipped == PNG
    assert {field.name: str(field.type) for field in result.columns} == {
        name: kind for name, (kind, _) in columns.items()
    }
    for column, (_, values) in columns.items():
        found = [row[column] for row in result.rows]
        assert [getattr(value, "value", value) for value in found] == values  # nanoseconds of a timestamp


def test_columns_of_every_type(cases: Path, run: Run) -> None:
    """All types pass through with their values, in separate files and in one file."""
    paths = sorted((cases / "ray-types").glob("*.parquet"))
    assert len(paths) == 62
    for path in paths:
        form = "table" if "table" in path.stem else "parquet"
        result = run(path, form)
        names = [f"{n}.png" for n in THREE] if form == "table" else [f"{path.name}#{n}" for n in THREE]
        assert result.outcomes() == ok(*names), path.name
        written = pq.read_table(path)
        for column in result.columns.names:
            found = [row[column] for row in result.rows]
            assert repr(found) == repr(written[column].to_pylist()), (path.name, column)  # NaN is not NaN
    whole = run(paths[0], "parquet")
    assert len(whole.columns) == 29
    assert {str(kind) for kind in whole.columns.types if "view" in str(kind) or "dict" in str(kind)} == set()


@pytest.mark.parametrize(("path", "form", "message"), REFUSED)
def test_refusals(cases: Path, run: Run, path: str, form: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(cases / path, form)
    assert str(caught.value).isprintable()
    assert str(cases / path.split("/")[0]) in str(caught.value)


def test_exports_of_names_with_a_dot(cases: Path, run: Run) -> None:
    ids = [row["id"] for row in run(cases / "tar-dot-slash", "webdataset").rows]
    names = SidecarNames([ids], flat=True)
    assert [names(name, position) for position, name in enumerate(ids)] == ["s.tar/a.txt", "s.tar/sub/b.txt"]
    assert [refusal(name, "/out") for name in ids] == [None, None]


def test_texts_beside_tar_members(cases: Path, run: Run) -> None:
    assert {row["id"]: row["txt"] for row in run(cases / "tar-links", "webdataset").rows}["s.tar/b.png"]
    texts = [row["txt"] for row in run(cases / "tar-dot-slash", "webdataset").rows]
    assert [text is None for text in texts] == [False, True]


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions(cases: Path, tmp_path: Path, name: str) -> None:
    """Captions as read by training and evaluation."""
    uri, expected = str(cases / f"coco-{name}" / "captions.json"), CAPTIONS[name]
    assert coco.load_captions(uri) == expected
    for image in expected:
        path = tmp_path / "photos" / re.sub(r"^(http:|\.\.)?/+", "", image.replace("\\", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    if name in UNPREPARED:
        with pytest.raises(UsageError, match=UNPREPARED[name]):
            prepare_own(tmp_path, uri, str(tmp_path / "photos"))
    else:
        prepared = prepare_own(tmp_path, uri, str(tmp_path / "photos"))
        assert sum(prepared["images"].values()) == len(expected)
    config = EvaluateConfig(captions=uri, references=uri, metrics=["BLEU"])
    assert evaluate(config).systems[0].captions == {
        image: captions[0] for image, captions in expected.items()
    }


@pytest.mark.parametrize("name", NO_CAPTIONS)
def test_invalid_captions(cases: Path, tmp_path: Path, name: str) -> None:
    uri = str(cases / f"coco-{name}" / "captions.json")
    config = EvaluateConfig(captions=uri, references=uri, metrics=["BLEU"])
    (tmp_path / "photos").mkdir()
    for use in (
        lambda: coco.load_captions(uri),
        lambda: prepare_own(tmp_path, uri, str(tmp_path / "photos")),
        lambda: evaluate(config),
    ):
        with pytest.raises(UsageError, match=NO_CAPTIONS[name]) as caught:
            use()
        assert str(caught.value).isprintable()
        assert uri in str(caught.value)


LONG_NAME = "a" * 300 + ".png"


def test_addresses(cases: Path, run: Run) -> None:
    result = run(cases / "uris", "table")
    found = result.outcomes()
    assert {name for name, outcome in found.items() if outcome == BAD_URL} == {"x.png\0y", LONG_NAME}
    assert {name.partition(":")[0] for name, outcome in found.items() if outcome == FORBIDDEN} == {
        "az", "dbfs", "git", "github", "libarchive", "oci", "reference", "smb", "webhdfs", "zip",
    }  # fmt: skip
    assert len(found) == 13
    assert set(found.values()) == {BAD_URL, FORBIDDEN}


@contextmanager
def listening(answer: Callable[[str], bytes] | None = None) -> Iterator[tuple[int, list[str]]]:
    """Start a server on a free port; return the port, and the head of every request so far."""
    heads: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        timeout = 5

        def handle(self) -> None:
            heads.append("a connection")
            lines = list(iter(lambda: self.rfile.readline().rstrip(b"\r\n"), b""))
            heads[-1] = b"\n".join(lines).decode("latin-1")
            if lines and answer is not None:
                self.wfile.write(answer(lines[0].split(b" ")[1].decode()))

    class Server(socketserver.TCPServer):  # one connection at a time, so that the heads are in order
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            pass  # a client that closes the connection

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1], heads
        finally:
            server.shutdown()
            thread.join()


def copied(folder: Path, to: Path, change: Callable[[str], str]) -> Path:
    """Copy the tables of a folder with other addresses."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_text(change(path.read_text()))
    return to


@pytest.mark.parametrize("options", [{}, {"allow": ["s3", "gs"]}])
def test_nothing_connects_to_a_private_address(
    cases: Path, run: Run, tmp_path: Path, options: dict[str, Any]
) -> None:
    with listening() as (port, heads):
        tables = copied(cases / "ssrf-chain", tmp_path / "in", lambda text: text.replace("8765", str(port)))
        found = run(tables, "table", **options).outcomes()
        with socket.create_connection(("127.0.0.1", port)) as own:
            own.sendall(b"GET /own HTTP/1.1\r\n\r\n")
            assert own.recv(1) == b""
        assert heads == ["GET /own HTTP/1.1"]
    assert len(found) == 8
    assert all(str(port) in name for name in found)
    assert set(found.values()) == {FORBIDDEN}


def test_private_hosts_that_are_allowed_are_reached_by_plain_addresses_only(
    cases: Path, run: Run, tmp_path: Path
) -> None:
    image = (cases / "fs-loop" / "a.png").read_bytes()
    with listening(lambda _: reply(200, image)) as (port, heads):
        tables = copied(cases / "ssrf-chain", tmp_path / "in", lambda text: text.replace("8765", str(port)))
        found = run(tables, "table", allow_private=True).outcomes()
        assert [name for name, outcome in found.items() if outcome != FORBIDDEN] == [
            f"http://127.0.0.1:{port}/_pic.png"
        ]
        assert [head.partition("\n")[0] for head in heads] == ["GET /_pic.png HTTP/1.1"]


def reply(status: int, body: bytes = b"", *headers: str, length: int | None = 0) -> bytes:
    """Return an HTTP answer; `length` is added to its Content-Length, None omits it."""
    stated = [] if length is None else [f"Content-Length: {len(body) + length}"]
    head = [f"HTTP/1.1 {status} Answer", "Connection: close", *stated, *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def host_answers(image: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the expected result of each path of the case, and the host's answers."""
    page, packed = b"<html><body>Not here</body></html>", gzip.compress(image)
    half = image[: len(image) // 2]
    return {
        "p.png": (OK, reply(200, image)),
        "429": ("failed http_429", reply(429, page, "Retry-After: 0")),
        "503": ("failed http_503", reply(503, page)),
        "html": ("rejected not_an_image", reply(200, page)),
        "gz": (OK, reply(200, packed, "Content-Encoding: gzip")),
        "gz-x": (OK, reply(200, packed, "Content-Encoding: x-gzip")),
        "gz-lie": ("failed bad_answer", reply(200, image, "Content-Encoding: gzip")),
        "identity-lie": ("rejected not_an_image", reply(200, packed, "Content-Encoding: identity")),
        "br-lie": (OK, reply(200, image, "Content-Encoding: br")),
        "awschunked": (OK, reply(200, image, "Content-Encoding: aws-chunked")),
        "none-enc": (OK, reply(200, image, "Content-Encoding: none")),
        "binary-enc": (OK, reply(200, image, "Content-Encoding: binary")),
        "short": ("failed connection_lost", reply(200, half, length=9)),
        "long": ("failed bad_answer", reply(200, image, length=-len(half))),
        "204": (EMPTY, reply(204, length=None)),
        "206": (
            "failed bad_answer",
            reply(206, half, f"Content-Range: bytes 0-{len(half) - 1}/{len(image)}"),
        ),
        "300": ("rejected refused", reply(300, page)),
        "refresh": ("rejected not_an_image", reply(200, page, "Refresh: 0; url=/p.png")),
        "loop": ("rejected too_many_redirects", reply(302, b"", "Location: /loop")),
        "rel": (OK, reply(302, b"", "Location: p.png")),
        "rel2": (OK, reply(302, b"", "Location: ./x/../p.png?again=1")),
        "frag": (OK, reply(302, b"", "Location: /p.png#part")),
        "space": (OK, reply(302, b"", "Location: /p.png?a b")),
        "nolen": (OK, reply(200, image, length=None)),
        "nolen-cut": ("rejected truncated", reply(200, half, length=None)),
        "403": ("rejected refused", reply(403, page)),
        "451": ("rejected refused", reply(451, page)),
        "500": ("failed http_500", reply(500, page)),
        "522": ("failed http_522", reply(522, page)),
        "xml": ("rejected not_an_image", reply(200, b"<?xml version='1.0'?><Error/>")),
        "empty": (EMPTY, reply(200)),
        "cookie": ("rejected too_many_redirects", reply(302, b"", "Set-Cookie: a=b", "Location: /cookie")),
        "none": (NOT_FOUND, reply(404, page)),
    }


def test_answers_of_hosts(cases: Path, run: Run, tmp_path: Path) -> None:
    """The addresses are forbidden; if private hosts are allowed, each answer has its error kind."""
    answers = host_answers((cases / "fs-loop" / "a.png").read_bytes())
    with listening(lambda path: answers[path.strip("/").partition("?")[0]][1]) as (port, heads):
        folder = copied(cases / "web-answers", tmp_path / "in", lambda text: text.replace("8766", str(port)))
        start = f"http://127.0.0.1:{port}/"
        assert run(folder, "table").outcomes() == {start + path: FORBIDDEN for path in answers}
        assert not heads
        web = WebConfig(attempts=1, silence_s=2.0)
        found = run(folder, "table", web=web, allow_private=True).outcomes()
        assert found == {start + path: outcome for path, (outcome, _) in answers.items()}


@pytest.mark.parametrize("profile", ["store", "regiononly"])
def test_profiles_are_used_for_listing_and_reading(
    cases: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    image = (cases / "fs-loop" / "a.png").read_bytes()
    listing = (
        "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>in/a.png</Key>"
        f"<Size>{len(image)}</Size></Contents></ListBucketResult>"
    )

    def answer(path: str) -> bytes:
        return reply(200, listing.encode() if "list-type=2" in path else image)

    with listening(answer) as (port, heads):
        text = (cases / "s3-profile" / "config").read_text()
        (tmp_path / "config").write_text(text.replace("5999", str(port)))
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", profile)
        if profile == "regiononly":  # which names no endpoint
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        assert run("s3://photos/in", "files").outcomes() == ok("a.png")
    asked = [head.split(" ")[1] for head in heads]
    assert any("list-type=2" in path for path in asked)
    assert any(path.startswith("/photos/in/a.png") for path in asked)
    assert all(re.search("Credential=x/[0-9]{8}/garage/s3/", unquote(head)) for head in heads)
