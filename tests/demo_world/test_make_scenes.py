"""jobs/make_scenes.py: its files, their formats, and its errors."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glied.data.hard_negatives import load_hard_negatives
from glied.data.pairs import PairsConfig
from glied.demo_world.dataset import write_split
from glied.errors import UsageError

JOB = Path(__file__).parents[2] / "jobs" / "make_scenes.py"


def job(*arguments: str) -> subprocess.CompletedProcess:
    """Run the job as a process, like a user."""
    command = [sys.executable, str(JOB), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=JOB.parents[1], env=_env()
    )


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(JOB.parents[1])}


def test_files_do_not_depend_on_count_or_workers(tmp_path: Path) -> None:
    write_split(tmp_path / "one", "test", 6, seed=0, workers=1)
    write_split(tmp_path / "two", "test", 8, seed=0, workers=2)
    for image in sorted((tmp_path / "one" / "images").iterdir()):
        assert image.read_bytes() == (tmp_path / "two" / "images" / image.name).read_bytes()
    for file in ("annotations.jsonl", "descriptions.jsonl"):
        lines = [(tmp_path / name / file).read_text().splitlines() for name in ("one", "two")]
        assert lines[0] == lines[1][:6]
    negatives = [(tmp_path / name / "hard_negatives.jsonl").read_text() for name in ("one", "two")]
    assert negatives[1].startswith(negatives[0])


def test_the_files_of_a_split(tmp_path: Path) -> None:
    done = job("--out", str(tmp_path), "--split", "val", "--count", "5", "--workers", "1")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "annotations.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == [f"val-{i:06d}.jpg" for i in range(5)]
    classes = json.loads((tmp_path / "classes.json").read_text())
    for row in rows:
        assert Image.open(tmp_path / "images" / row["file_name"]).size == (row["width"], row["height"])
        for one in row["objects"]:
            assert one["class"] in (classes["stuff"] if one["stuff"] else classes["classes"])
            assert set(one["attributes"]) <= {
                name for group in classes["attributes"].values() for name in group
            }
    described = [json.loads(line) for line in (tmp_path / "descriptions.jsonl").read_text().splitlines()]
    for row, one in zip(rows, described, strict=True):
        assert (tmp_path / one["image"]).name == row["file_name"]
        assert one["text"] == [row["description"], *row["captions"]]
        assert one["clauses"] == row["clauses"]
    pairs = PairsConfig(pairs=str(tmp_path / "descriptions.jsonl"))
    negatives = load_hard_negatives(str(tmp_path / "hard_negatives.jsonl"), pairs)
    assert negatives.kinds == ("color", "object", "relation")
    for pair in pairs.all:
        assert {one.kind for one in negatives.variants(pair.image, pair.texts[0])} >= {0, 1}
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert (len(captions["images"]), len(captions["annotations"])) == (5, 25)
    assert len({annotation["id"] for annotation in captions["annotations"]}) == 25
    with (tmp_path / "finecapeval.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", "caption", "background", "object", "relation"]
    assert table[0]["object"].split("\\;") == rows[0]["phrases"]["object"]


@pytest.mark.parametrize("wrong", [("--split", "dev"), ("--split", "test", "--count", "0")])
def test_wrong_usage_is_one_line_and_exit_2(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    done = job("--out", str(tmp_path), *wrong)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_split(tmp_path / "file" / "inside", "test", 1, seed=0, workers=1)
