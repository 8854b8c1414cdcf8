"""Reading the folder of a training run that the trainer's log has written."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glied.errors import UsageError
from glied.training.history import METRICS, RUN, Best, Sample, read_history
from glied.training.run_log import TENSORBOARD, RunLog
from tests.training.logged import lines, make_run


def test_a_run_is_read_as_it_was_logged(tmp_path: Path) -> None:
    found = read_history(make_run(tmp_path / "run", scale=2.0))
    train, validation = found.scalars("train"), found.scalars("validation")
    assert train["loss"] == [(step, 2.0 / step) for step in range(5, 41, 5)]
    assert validation["cider"] == [(10, 20.0), (20, 40.0), (30, 60.0), (40, 50.0)]
    assert found.samples()[20] == [Sample("a dog at 20", "a dog"), Sample("a kite at 20", "a kite")]
    assert (found.kind, found.complete, found.steps, found.epoch_steps) == ("captioner", True, 40, 10)
    assert (found.total_steps, found.best()) == (40, Best("cider", 60.0, 30))
    assert found.seconds() == pytest.approx(40 * 8 / 20.0)


def test_tensorboard_has_the_same_scalars_and_captions(tmp_path: Path) -> None:
    found = read_history(make_run(tmp_path / "run", rewards=True))
    events = EventAccumulator(str(tmp_path / "run" / TENSORBOARD))
    events.Reload()
    logged = {
        f"{kind}/{name}": [(step, pytest.approx(value, rel=1e-6)) for step, value in points]
        for kind in ("train", "validation")
        for name, points in found.scalars(kind).items()
    }
    shown = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert shown == logged
    (tag,) = events.Tags()["tensors"]
    texts = [one.tensor_proto.string_val[0].decode() for one in events.Tensors(tag)]
    assert [one.step for one in events.Tensors(tag)] == [10, 20, 30, 40]
    assert texts[0] == "- a dog at 10 *(a dog)*\n- a kite at 10 *(a kite)*"


def test_a_resumed_run_has_no_step_twice(tmp_path: Path) -> None:
    uri = make_run(tmp_path / "run", complete=False)
    with (tmp_path / "run" / METRICS).open("a") as file:
        file.write('{"kind": "train", "st')  # the run is killed here
    log = RunLog(uri, 20)
    log.write("train", 25, {"loss": 9.0})
    log.close()
    found = read_history(uri)
    assert [step for step, _ in found.scalars("train")["loss"]] == [5, 10, 15, 20, 25]
    assert found.scalars("train")["loss"][-1] == (25, 9.0)
    assert list(found.samples()) == [10, 20]
    assert not found.complete


def test_a_running_run_can_be_read(tmp_path: Path) -> None:
    uri = make_run(tmp_path / "run", steps=20, complete=False)
    logged = lines(tmp_path / "run")
    with (tmp_path / "run" / METRICS).open("a") as file:
        file.write('{"kind": "train", "st')
    found = read_history(uri)
    assert found.lines == logged
    assert (found.steps, found.total_steps) == (20, 40)


def test_max_steps_end_a_run_earlier(tmp_path: Path) -> None:
    uri = make_run(tmp_path / "run")
    config = json.loads((tmp_path / "run" / RUN).read_text())
    config["trainer"]["max_steps"] = 33
    (tmp_path / "run" / RUN).write_text(json.dumps(config))
    assert read_history(uri).total_steps == 33


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere holds no training run: .*run\.json is missing"):
        read_history(str(tmp_path / "nowhere"))
    bulk = tmp_path / "bulk"
    bulk.mkdir()
    (bulk / RUN).write_text('{"fingerprint": {}}')
    with pytest.raises(UsageError, match="is not that of a training run"):
        read_history(str(bulk))
    (bulk / RUN).write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        read_history(str(bulk))
    silent = make_run(tmp_path / "silent", steps=0, complete=False)
    with pytest.raises(UsageError, match=r"silent has no scalars yet: its metrics\.jsonl is missing"):
        read_history(silent)
    uri = make_run(tmp_path / "broken")
    path = tmp_path / "broken" / METRICS
    path.write_text("{\n" + path.read_text())
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 1 is not JSON: {"):
        read_history(uri)
