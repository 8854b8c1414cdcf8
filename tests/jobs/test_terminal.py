"""The terminal of a training shows only its own lines, and none of the libraries that it uses."""

import json
import re
from pathlib import Path

import pytest

from glied import checkpoint
from glied.cluster_runtime.ray_output import shown
from glied.demo_world.dataset import write_split
from tests.jobs.conftest import ROOT
from tests.jobs.test_training import extract_here

TRAINING = [
    r"captioner: 24 rows, 3 steps an epoch, 3 in all, \d+ parameters, 1 workers on cpu",
    r"step [123]/3 epoch .*",
    r"caption: .* \| reference: .*",
    r"validation at step 3: cider .*",
    r"the loss did not fall: .*",
    r"runs/features_tiny/val has 8 images: familiarity .*",
    r"familiarity: 8 validation images, [\d.]+ s",
    r"complete: 3 steps, best [\d.]+ at step 3, models in runs/glied_tiny",
    r'\{"complete": true, .*\}',
]


def unexpected(text: str, patterns: list[str]) -> list[str]:
    return [line for line in text.splitlines() if not re.fullmatch("|".join(patterns), line)]


@pytest.mark.timeout(400)
def test_train_captioner(run_job, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 24), ("val", 8)):
        write_split(tmp_path / "data" / "scenes_tiny" / split, split, count, 0, 1)
        places = [f"--input.uri=data/scenes_tiny/{split}/images", f"--output.uri=runs/features_tiny/{split}"]
        extract_here(*places, "--regions.checkpoint=glied/weights/demo/regions")
    shipped = ROOT / "glied" / "weights" / "demo" / "attributes"
    target = tmp_path / "runs" / "attributes_tiny" / "best"
    target.mkdir(parents=True)
    for name in (checkpoint.TENSORS, checkpoint.METADATA):  # not the extractor: these regions are fewer
        (target / name).write_bytes((shipped / name).read_bytes())
    done = run_job(
        "train_captioner", f"--config={ROOT / 'configs/captioner/glied_tiny.yaml'}", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert unexpected(done.stdout, TRAINING) == []
    assert done.stderr == ""
    assert json.loads(done.stdout.splitlines()[-1])["complete"]


@pytest.mark.parametrize(
    ("actor", "line", "kept"),
    [
        ("RayTrainWorker", "step 1/3", True),
        ("RayTrainWorker", "RuntimeError: out of memory", True),
        ("RayTrainWorker", "Progress bars disabled. To enable, set ...", False),
        ("RayTrainWorker", "Reporting training result 1: TrainingReport(...)", False),
        ("TrainController", "ray.exceptions.GetTimeoutError: Get timed out", False),
        ("PlacementGroupCleaner", "Failed to query Ray Train Controller actor state.", False),
        (None, "Actor x has constructor arguments in the object store and max_restarts > 0. If", False),
        ("MapWorker(MapBatches(DescribeChunk))", "a.jpg: a warning", True),
        (None, "a raylet line", True),
        (None, "Raylet is terminated. Termination is unexpected. Possible\nlog", False),
        (None, "some words: Raylet is terminated. ", True),
    ],
)  # fmt: skip
def test_which_lines_of_workers_are_shown(actor: str | None, line: str, kept: bool) -> None:
    assert shown({"actor_name": actor, "lines": [line]}) == ([line] if kept else [])
