"""Odd tars: each case is a file, its expected rows, and the expected counts of skipped members."""

import bz2
import gzip
import io
import lzma
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from glied.bulk.config import InputConfig
from glied.bulk.plan.sources import archives
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import UsageError
from tests.bulk.plan.sources.reading import read, read_rows

PNG = {name: name.encode() * 300 for name in "abcdefghij"}
"""Contents by name; they are not decoded here."""


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], **options: Any) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **options) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PLAIN = tar(*(member(f"{name}.png", data) for name, data in PNG.items()))
ALL = {f"{name}.png": data for name, data in PNG.items()}
A = member("a.png", PNG["a"])
B = member("b.png", PNG["b"])
AB = {"a.png": PNG["a"], "b.png": PNG["b"]}
BROKEN = {"#break": "broken_shard"}
ODD = [f"{name}.png" for name in ("new\nline", "é", "e\u0301", "b\\s", " ", "\t", "#?%20")]
LATIN = tar(A, member("caf\udce9.png", PNG["b"]), member("b.png", PNG["c"]), format=tarfile.GNU_FORMAT)
LATIN_PAX = tar(A, member("d\udcff/\udce9.png", PNG["b"]), format=tarfile.PAX_FORMAT)

CASES: dict[str, tuple[str, bytes, dict[str, bytes | str], dict[str, int]]] = {
    # file name, content, rows by member name, skipped
    "upper case": ("S.TAR", PLAIN, ALL, {}),
    "gzip": ("s.tar.gz", gzip.compress(PLAIN), ALL, {}),
    "gzip named tgz, upper case": ("s.TGZ", gzip.compress(PLAIN), ALL, {}),
    "gzip named tar": ("s.tar", gzip.compress(PLAIN), ALL, {}),
    "two gzip streams": ("s.tgz", gzip.compress(PLAIN[:2000]) + gzip.compress(PLAIN[2000:]), ALL, {}),
    "a tar named tar.gz": ("s.tar.gz", PLAIN, ALL, {}),
    "zstd": ("s.tar.zst", zstd(PLAIN), ALL, {}),
    "zstd with a skippable frame": (
        "s.tzst", b"\x51\x2a\x4d\x18\x03\x00\x00\x00abc" + zstd(PLAIN), ALL, {},
    ),
    "bzip2": ("s.tar.bz2", bz2.compress(PLAIN), ALL, {}),
    "xz": ("s.tar.xz", lzma.compress(PLAIN), ALL, {}),
    "lz4": ("s.tar", b"\x04\x22\x4d\x18" + bytes(600), BROKEN, {}),
    "a name that looks compressed": ("s.tar", tar(member("BZh9.png", b"x")), {"BZh9.png": b"x"}, {}),
    "gzip that breaks off": ("s.tar.gz", gzip.compress(PLAIN, 0)[:2500], AB | BROKEN, {}),
    "zstd that breaks off": ("s.tar.zst", zstd(PLAIN)[:40], BROKEN, {}),
    "gzip of something else": ("s.tgz", gzip.compress(b"hello" * 500), BROKEN, {}),
    "no byte": ("s.tar", b"", BROKEN, {}),
    "no member": ("s.tar", tar(), {}, {}),
    "no member, compressed": ("s.tgz", gzip.compress(tar()), {}, {}),
    "a tar behind a tar": (
        "s.tar", tar(A) + tar(B) + tar(), AB, {},
    ),
    "a tar behind a tar, padded oddly": (
        "s.tar", tar(A) + bytes(100_001) + tar(B), AB, {},
    ),
    "a tar behind a tar, compressed": (
        "s.tgz", gzip.compress(tar(A) + tar(B)), AB, {},
    ),
    "text behind a tar": ("s.tar", tar(A) + b"signature", {"a.png": PNG["a"]} | BROKEN, {}),
    "equal names": (
        "s.tar", tar(A, member("a.png", PNG["b"]), member("a.png", PNG["c"]), member("a.png#1", b"x")) ,
        {"a.png#1": PNG["a"], "a.png#2": PNG["b"], "a.png": PNG["c"]}, {".png#1": 1},
    ),
    "dots and slashes": (
        "s.tar",
        tar(member("./", type=tarfile.DIRTYPE), member("./a.png", PNG["a"]), member("./x/b.png", PNG["b"]),
            member("/abs/c.png", PNG["c"]), member("../d.png", PNG["d"]), member("e//f.png", PNG["e"])),
        {"./a.png": PNG["a"], "./x/b.png": PNG["b"], "/abs/c.png": PNG["c"], "../d.png": PNG["d"],
         "e//f.png": PNG["e"]}, {},
    ),
    "hard links": (
        "s.tar",
        tar(member("./a.png", PNG["a"]), link("b.png", "a.png"), link("c.png", "b.png"), link("d.png", "no")),
        {"./a.png": PNG["a"], "b.png": PNG["a"], "c.png": PNG["a"], "d.png": "unsupported"}, {},
    ),
    "hard links, compressed": (
        "s.tgz", gzip.compress(tar(A, B, link("c.png", "a.png"))),
        {"a.png": PNG["a"], "b.png": PNG["b"], "c.png": PNG["a"]}, {},
    ),
    "symbolic links": (
        "s.tar", tar(A, link("b.png", "a.png", tarfile.SYMTYPE), link("text", "a.png", tarfile.SYMTYPE)),
        {"a.png": PNG["a"], "b.png": "unsupported"}, {"(none)": 1},
    ),
    "pipes and devices": (
        "s.tar", tar(A, member("p.png", type=tarfile.FIFOTYPE), member("d.png", type=tarfile.CHRTYPE)),
        {"a.png": PNG["a"]}, {"(special file)": 2},
    ),
    "a type of member that is not known": (
        "s.tar", tar(member("v.png", type=b"V"), A), {"v.png": "unsupported", "a.png": PNG["a"]}, {},
    ),
    "names that are no UTF-8": (
        "s.tar", LATIN, {"a.png": PNG["a"], "caf%E9.png": PNG["b"], "b.png": PNG["c"]}, {},
    ),
    "names that are no UTF-8, in a pax header": (
        "s.tar", LATIN_PAX, {"a.png": PNG["a"], "d%FF/%E9.png": PNG["b"]}, {},
    ),
    "odd names": (
        "s.tar", tar(*(member(name, PNG["a"]) for name in ODD)), dict.fromkeys(ODD, PNG["a"]), {},
    ),
    "other files": (
        "s.tar", tar(A, member("a.jpg~", b"x"), member("README", b"x"), member("._b.png", PNG["b"])),
        {"a.png": PNG["a"], "._b.png": PNG["b"]}, {".jpg~": 1, "(none)": 1},
    ),
    "a header that promises gigabytes": (
        "s.tar", tar(A)[:1024] + member("@", type=b"L", size=1 << 34)[0].tobuf(),
        {"a.png": PNG["a"]} | BROKEN, {},
    ),
    "damage between members": (
        "s.tar", PLAIN[:2048] + b"\xff" * 512 + PLAIN[2560:],
        AB | BROKEN, {},
    ),
    "the last member is cut off": ("s.tar", PLAIN[:1800], {"a.png": PNG["a"]} | BROKEN, {}),
    "the end marker is missing": ("s.tar", PLAIN[:1024], {"a.png": PNG["a"]} | BROKEN, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_odd_tars(case: str, tmp_path: Path) -> None:
    name, content, rows, skipped = CASES[case]
    (tmp_path / name).write_bytes(content)
    expected = {name + one if one == "#break" else f"{name}/{one}": value for one, value in rows.items()}
    if not expected:
        (tmp_path / "z.tar").write_bytes(tar(A))
        expected = {"z.tar/a.png": PNG["a"]}
    assert read(tmp_path, "webdataset") == (expected, skipped)


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_members_have_a_row(form: str, tmp_path: Path) -> None:
    with (tmp_path / "a.bmp").open("wb") as file:
        file.write(b"head")
        file.truncate(1 << 20)
    (tmp_path / "b.png").write_bytes(PNG["b"])
    command = ["tar", "--sparse", f"--format={form}", "-cf", "s.tar", "a.bmp", "b.png"]
    subprocess.run(command, cwd=tmp_path, check=True)
    rows, _ = read_rows(tmp_path / "s.tar", "webdataset")
    assert [(row["id"], row["kind"], row["data"]) for row in rows] == [
        ("s.tar/a.bmp", "unsupported", None),
        ("s.tar/b.png", None, PNG["b"]),
    ]
    assert rows[0]["error"] == "a sparse member; pack the file again without --sparse"


def test_tars_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder, data in (("p", PNG["a"]), ("q", PNG["b"])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(tar(member("a.png", data)))
    expected = {"p/0.tar/a.png": PNG["a"], "q/0.tar/a.png": PNG["b"]}
    assert read(tmp_path, "webdataset") == (expected, {})


def test_an_id_that_two_tars_share_is_refused(tmp_path: Path) -> None:
    """Object storage can have the keys x.tar and x.tar/y.tar."""
    (tmp_path / "caf%E9.tar").write_bytes(tar(A))
    Path(f"{tmp_path}/caf\udce9.tar").write_bytes(tar(member("a.png", PNG["b"])))
    with pytest.raises(UsageError, match=r"duplicate id 'caf%E9.tar/a.png'"):
        read(tmp_path, "webdataset")
    kept, _ = read(tmp_path, "webdataset", duplicates="keep_first")
    assert len(kept) == 1


def test_a_tar_whose_name_is_not_utf8(tmp_path: Path) -> None:
    Path(f"{tmp_path}/caf\udce9.tar").write_bytes(PLAIN)
    Path(f"{tmp_path}/d\udce9.tgz").write_bytes(gzip.compress(PLAIN))
    found, _ = read(tmp_path, "webdataset")
    assert found == {
        f"{one}/{name}": data for one in ("caf%E9.tar", "d%E9.tgz") for name, data in ALL.items()
    }


def texts(key: str, number: int) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [
        member(f"{key}.png", b"image %d" % number),
        member(f"{key}.txt", b"text %d" % number),
        member(f"{key}.json", b"[%d]" % number),
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_texts_stay_with_their_images(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """For compressed tars, any order of members, and concatenated tars."""
    first, second = texts("x", 0), texts("x", 1)
    content = tar(*reversed(first), *texts("y", 2), link("z.png", "y.png"), link("z.txt", "y.txt")) + tar(
        *second
    )
    (tmp_path / "s.tar").write_bytes(pack(content))
    rows, skipped = read_rows(tmp_path, "webdataset")
    assert [(row["id"][6:], row["data"], row["txt"], row["json"]) for row in rows] == [
        ("x.png#1", b"image 0", "text 0", "[0]"),
        ("y.png", b"image 2", "text 2", "[2]"),
        ("z.png", b"image 2", "text 2", None),
        ("x.png", b"image 1", "text 1", "[1]"),
    ]
    assert skipped == {}


def test_a_compressed_tar_is_read_once_for_its_chunks(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "s.tgz").write_bytes(gzip.compress(PLAIN))
    opened: list[int] = []
    unpack = archives._DECOMPRESSORS["gzip"]
    monkeypatch.setitem(archives._DECOMPRESSORS, "gzip", lambda file: opened.append(1) or unpack(file))
    monkeypatch.setattr(archives, "_kept", {})
    rows, _ = read_rows(tmp_path, "webdataset")
    assert {row["id"][6:]: row["data"] for row in rows} == ALL
    assert len(opened) == 2, "once to plan, once to read"


def test_a_compressed_tar_that_changed_is_a_storage_failure(tmp_path: Path) -> None:
    path = tmp_path / "s.tgz"
    path.write_bytes(gzip.compress(PLAIN))
    config = InputConfig(uri=str(path), form="webdataset")
    (table,) = inputs(open_source(config, "/nowhere"), config)
    for content in (b"", gzip.compress(b"short"), gzip.compress(PLAIN, 0)[:2500], b"no gzip" * 100):
        path.write_bytes(content)
        archives._kept.clear()
        rows = Fetch(form="webdataset", pause=0, attempts=2)(table.slice(5)).to_pylist()
        assert {row["kind"] for row in rows} == {"storage"}
    path.unlink()
    rows = Fetch(form="webdataset", pause=0)(table).to_pylist()
    assert {row["kind"] for row in rows} == {"storage"}
