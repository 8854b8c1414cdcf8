"""Odd tars and folders in runs: what the run records, and that its exports contain every caption."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job
from glied.bulk.chunks import run_here
from glied.bulk.exports.export import ExportConfig, export
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.bulk.run.summary import Summary
from glied.config import parse
from tests.bulk.models import model_options


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((100, 80)).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, names: dict[str, bytes], links: dict[str, str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)


@pytest.fixture
def caption(models: Path, tmp_path: Path) -> Callable[..., Summary]:
    def make(*options: str) -> Summary:
        where = [f"--input.uri={tmp_path / 'in'}", f"--output.uri={tmp_path / 'in' / 'run'}"]
        config = parse(
            CaptionDatasetConfig,
            ["--config=configs/caption/demo.yaml", *where, *model_options(models), *options],
        )
        stage = caption_factory(config).build()
        return bulk_run.execute(
            caption_job(config), run_here(Fetch(form=config.input.form, pause=0.0), stage)
        )

    (tmp_path / "in").mkdir()
    return make


def texts(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*.txt") if ".export" not in path.parts)
    return {str(path.relative_to(folder)): path.read_text().strip() for path in paths}


def test_tars(caption, tmp_path):
    images = {"./a.png": picture(0), "caf\udce9.png": picture(1), "/abs/c.png": picture(2), "n.txt": b"text"}
    write_tar(tmp_path / "in" / "S.TAR", images, {"link.png": "a.png"})
    (tmp_path / "in" / "z.tgz").write_bytes(gzip.compress((tmp_path / "in" / "S.TAR").read_bytes()))
    summary = caption("--input.form=webdataset")
    rows = {row["id"]: row for row in read_rows(str(tmp_path / "in" / "run"))}
    names = ["./a.png", "caf%E9.png", "/abs/c.png", "link.png"]
    assert list(rows) == [f"{shard}/{name}" for shard in ("S.TAR", "z.tgz") for name in names]
    assert summary.statuses == {"ok": 6, "rejected": 2}
    assert summary.errors == {"unsupported": 2}
    for name in names[:3]:
        assert rows[f"S.TAR/{name}"]["caption"] == rows[f"z.tgz/{name}"]["caption"]
    report = export(ExportConfig(run=str(tmp_path / "in" / "run"), out=str(tmp_path / "out"), form="txt"))
    assert (report.written, report.refused) == (6, 0)
    assert texts(tmp_path / "out") == {
        f"{shard}/{name}": rows[f"{shard}/{image}"]["caption"]
        for shard in ("S.TAR", "z.tgz")
        for name, image in [("a.txt", names[0]), ("caf%E9.txt", names[1]), ("abs/c.txt", names[2])]
    }
    export(ExportConfig(run=str(tmp_path / "in" / "run"), out=str(tmp_path / "wds"), form="webdataset"))
    found = webdataset.WebDataset(str(tmp_path / "wds" / "unit-000000.tar"), shardshuffle=False).decode()
    assert {sample["json"]["id"] for sample in found} == set(rows)


def test_folders_with_the_run_inside(caption, tmp_path):
    folder = tmp_path / "in"
    (folder / os.fsdecode(b"d\xff")).mkdir()
    for number, name in enumerate([b"a.png", b"caf\xe9.png", b"d\xff/b.png"]):
        (folder / os.fsdecode(name)).write_bytes(picture(number))
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop").symlink_to(".")
    os.mkfifo(folder / "pipe.png")
    summary = caption()
    assert summary.statuses == {"ok": 3}
    assert "3 files left out: 1 (dangling link), 1 (link loop), 1 (special file)" in summary.lines()
    rows = read_rows(str(folder / "run"))
    assert {row["id"] for row in rows} == {"a.png", "caf%E9.png", "d%FF/b.png"}
    again = caption()
    assert (again.statuses, again.images_this_time) == ({"ok": 3}, 0)


def test_an_input_and_a_run_folder_whose_names_are_not_utf8(caption, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(0))
    where = [f"--input.uri={folder}", f"--output.uri={folder / 'run'}"]
    assert caption(*where).statuses == {"ok": 1}
    assert caption(*where).images_this_time == 0
    (row,) = read_rows(str(folder / "run"))
    assert row["id"] == "a.png"
    report = export(ExportConfig(run=str(folder / "run"), out=str(folder / "out"), form="txt"))
    assert report.written == 1
    assert texts(folder / "out") == {"a.txt": row["caption"]}
