"""Odd folders: odd names, links, pipes, and the run folder among its inputs."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import UsageError
from tests.bulk.plan.sources.reading import read, read_rows

Fill = Callable[[Path], None]


def write(folder: Path, *names: str) -> None:
    """Write files whose content is their name; surrogates represent bytes that are not UTF-8."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def link(folder: Path, name: str, target: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def latin(folder: Path) -> None:
    write(folder, "a.png", "caf\udce9.png", "\udcff/b.png", "\udcff/\udce9/c.png", "r\udce9sum\udce9.txt")


def loops(folder: Path) -> None:
    write(folder, "a.png", "x/b.png")
    link(folder, "self", ".")
    link(folder, "x/up", "..")
    link(folder, "x/me", "me")


def mutual(folder: Path) -> None:
    write(folder, "p/a.png", "q/b.png")
    link(folder, "p/to", "../q")
    link(folder, "q/to", "../p")


def links(folder: Path) -> None:
    write(folder, "real/a.png", "real/note.txt")
    link(folder, "real/link.png", "a.png")
    link(folder, "gone.png", "/nowhere/gone.png")
    link(folder, "under.png", "real/a.png/x")
    link(folder, "folder", "real")


def special(folder: Path) -> None:
    write(folder, "a.png", "dir.png/in.png")
    os.mkfifo(folder / "fifo.png")
    link(folder, "device.png", "/dev/null")
    with socket.socket(socket.AF_UNIX) as unix:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        try:
            unix.bind("socket.png")
        finally:
            os.chdir(here)


ODD = [
    *[
        "new\nline.png",
        "\r.png",
        "\t.png",
        "#h?%20+.png",
        "back\\slash.png",
        "a::b.png",
        "x:y.png",
        "100%.png",
    ],
    *["\u202eabc.png", "\ufeffbom.png", "\u00e9.png", "e\u0301.png", " .png", "~.png", "'\".png", "a.b.PNG"],
    *["x:y.png", ".hidden.png", "._a.png", "-rf.png", "s3:/b/k.png", "\U0001f600.png", "*.png", "[a].png"],
]


def odd(folder: Path) -> None:
    write(folder, *ODD, "a.png ", "a.png.", "a.png~", "noext")


CASES: dict[str, tuple[Fill, dict[str, bytes], dict[str, int]]] = {
    "names that are no UTF-8": (
        latin,
        {"a.png": b"a.png", "caf%E9.png": b"caf\xe9.png", "%FF/b.png": b"\xff/b.png",
         "%FF/%E9/c.png": b"\xff/\xe9/c.png"},
        {".txt": 1},
    ),
    "links to folders around them": (
        loops, {"a.png": b"a.png", "x/b.png": b"x/b.png"}, {"(link loop)": 2, "(dangling link)": 1},
    ),
    "folders that link to each other": (
        mutual,
        {"p/a.png": b"p/a.png", "p/to/b.png": b"q/b.png", "q/b.png": b"q/b.png", "q/to/a.png": b"p/a.png"},
        {"(link loop)": 2},
    ),
    "links": (
        links,
        dict.fromkeys(["folder/a.png", "folder/link.png", "real/a.png", "real/link.png"], b"real/a.png"),
        {"(dangling link)": 2, ".txt": 2},
    ),
    "pipes, sockets and devices": (
        special, {"a.png": b"a.png", "dir.png/in.png": b"dir.png/in.png"}, {"(special file)": 3},
    ),
    "odd names": (
        odd, {name: name.encode() for name in ODD}, {".png ": 1, "(none)": 2, ".png~": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_odd_folders(case: str, tmp_path: Path) -> None:
    fill, rows, skipped = CASES[case]
    fill(tmp_path)
    assert read(tmp_path, "files") == (rows, skipped)


def test_every_uri_is_text_and_opens_the_file(tmp_path: Path) -> None:
    for fill in (latin, odd):
        fill(tmp_path)
    rows, _ = read_rows(tmp_path, "files")
    for row in rows:
        assert row["uri"].encode()
        assert storage.read_bytes(row["uri"]) == row["data"]


def test_an_input_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "d\udce9"
    write(folder, "a.png", "b\udce9.png", "run/old.png")
    config = InputConfig(uri=str(folder))
    (table,) = inputs(open_source(config, str(folder / "run")), config)
    assert table["id"].to_pylist() == ["a.png", "b%E9.png"]
    assert [storage.read_bytes(uri) for uri in table["uri"].to_pylist()] == [b"a.png", b"b\xe9.png"]


@pytest.mark.parametrize(
    "form", ["{0}", "{0}/", "file://{0}", "file://{1}", "FILE://{1}/", "{0}/../sp ace", "sp ace", "./sp ace/"]
)
def test_ways_to_name_a_folder(form: str, tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "sp ace", "a.png", "100%25.png")
    monkeypatch.chdir(tmp_path)
    path = f"{tmp_path}/sp ace"
    found, _ = read(form.format(path, path.replace(" ", "%20")), "files")
    assert found == {"100%25.png": b"100%25.png", "a.png": b"a.png"}


@pytest.mark.parametrize(
    "run", ["{0}/run", "{0}/run/", "{0}/x/../run", "in/run", "file://{0}/run", "{1}/run"]
)
def test_the_run_folder_among_the_inputs_is_skipped(run: str, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "in"
    write(folder, "a.png", "run.png", "run/old.png", "runs/b.png", "x/run/c.png")
    link(tmp_path, "other", str(folder))
    monkeypatch.chdir(tmp_path)
    config = InputConfig(uri=str(folder))
    (table,) = inputs(open_source(config, run.format(folder, tmp_path / "other")), config)
    assert table["id"].to_pylist() == ["a.png", "run.png", "runs/b.png", "x/run/c.png"]


def test_a_run_folder_that_contains_the_inputs_hides_none(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.png")
    config = InputConfig(uri=str(tmp_path / "in"))
    (table,) = inputs(open_source(config, str(tmp_path)), config)
    assert table["id"].to_pylist() == ["a.png"]


@pytest.mark.parametrize(("uri", "run"), [("{0}", "{0}/"), ("s3://b/k", "s3://b/k/")])
def test_the_folder_of_the_inputs_is_not_a_run_folder(uri: str, run: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    config = InputConfig(uri=uri.format(tmp_path))
    with pytest.raises(UsageError, match=r"is the folder of the inputs: choose another, such as .*/run"):
        open_source(config, run.format(tmp_path))
