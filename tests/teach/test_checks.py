"""What jobs/teach.py refuses before its first step."""

import json
from pathlib import Path
from typing import Any

import pytest

from glied.config import build
from glied.errors import UsageError
from glied.teach.checks import Checks, check_output
from glied.teach.config import TeachConfig
from glied.teach.job_runner import JobRunner
from glied.teach.run import steps_of, teach
from glied.teach.step_records import Step
from glied.teach.teaching import Teaching

WEIGHTS = "glied/weights/demo"
REGIONS = {"kind": "torchvision", "checkpoint": f"{WEIGHTS}/regions"}
START = {"captioner": f"{WEIGHTS}/glied", "attributes": f"{WEIGHTS}/attributes"}


def config(folder: Path, **given: Any) -> TeachConfig:
    values: dict[str, Any] = {"input": {"uri": str(folder / "in")}, "output": {"uri": str(folder / "out")}}
    values |= {"captions": "captions.csv", "regions": REGIONS, "start": START}
    return build(TeachConfig, values | given)


def steps(folder: Path) -> list[Step]:
    return steps_of(Teaching(config(folder), JobRunner.of("local")))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "steps").mkdir(parents=True)
    (out / "steps" / "running.json").write_text("{}")
    (out / "teach.log").write_text("of the shell")
    check_output(str(out), steps(tmp_path))
    (out / "captions").mkdir()
    (out / "captions" / "unit-00000.parquet").write_bytes(b"rows")
    with pytest.raises(
        UsageError, match=r"files that no teaching wrote, such as captions/unit-00000\.parquet"
    ):
        teach(config(tmp_path))
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
        "running.json", "teach.log", "unit-00000.parquet",
    ]  # fmt: skip
    (out / "teach.json").write_text("{}")
    check_output(str(out), steps(tmp_path))


@pytest.mark.parametrize("file", ["run.json", "features/train_3/run.json", "rewarded/run.json"])
def test_files_of_other_jobs_are_found_everywhere(tmp_path: Path, file: str) -> None:
    path = tmp_path / "out" / file
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(UsageError, match=f"such as {file}: choose"):
        check_output(str(tmp_path / "out"), steps(tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": {"overrides": {"captioner": {"label_smothing": 0}}}},
         r"^run\.overrides\.captioner\.label_smothing is no key of .*Did you mean label_smoothing\?"),
        ({"run": {"overrides": {"captioner": {"trainr": {}}}}}, r"^run\.overrides\.captioner\.trainr is no"),
        ({"run": {"overrides": {"reward": {"trainer": {"optimiser": {"ema_decay": 0}}}}}},
         r"^run\.overrides\.reward\.trainer\.optimiser\.ema_decay is no key"),
        ({"start": START | {"captioner": "nowhere"}}, "no checkpoint in .*nowhere"),
        ({"start": START | {"attributes": "nowhere"}}, "no checkpoint in .*nowhere"),
        ({"start": START | {"captioner": "glied/weights/photographs/glied"}},
         r"^start\.captioner glied/weights/photographs/glied was trained on other regions than"),
        ({"regions": REGIONS | {"checkpoint": "nowhere"}}, "no checkpoint in .*nowhere"),
        ({"judge": {"checkpoint": "nowhere"}}, "^judge: no checkpoint in .*nowhere"),
        ({"teacher": {"config": "nowhere.yaml"}}, r"nowhere\.yaml"),
        ({"teacher": {"config": "caption/demo", "options": {"captioner": {"checkpoint": "nowhere"}}}},
         "no checkpoint in .*nowhere"),
        ({"teacher": {"config": "caption/demo", "options": {"captioner": {"kind": "blip"}}}},
         r"captioner\.kind: 'blip' is not one of"),
    ],
)  # fmt: skip
def test_mistakes_of_the_config_are_found_first(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Checks(Teaching(config(tmp_path, **given), JobRunner.of("local"))).run()


def test_a_right_config_passes_and_nothing_is_written(tmp_path: Path) -> None:
    overrides = json.loads('{"captioner": {"trainer": {"learning_rate": 0.001}}, "test": null}')
    teacher = {"config": "caption/demo"}
    right = config(
        tmp_path, run={"overrides": overrides}, teacher=teacher, judge={"checkpoint": f"{WEIGHTS}/clip"}
    )
    Checks(Teaching(right, JobRunner.of("local"))).run()
    assert list(tmp_path.iterdir()) == []
