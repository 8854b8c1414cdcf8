"""Schedules that cannot train, runs that learn nothing, and fewer words than requested."""

import json
from pathlib import Path

import pytest

from glied.captioner.model import CaptionerConfig
from glied.errors import UsageError
from glied.reports.training_report import ReportConfig, make_report
from glied.training.history import RUN, progress_note
from glied.training.local_trainer import train_here
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig, WordsConfig
from tests.training.logged import make_run
from tests.training.settings import trainer
from tests.training.tasks import rewarded
from tests.training.test_loop import make_config
from tests.training.toy import ToyTask

STEPS = 18  # three epochs of six


@pytest.mark.parametrize(
    ("schedule", "warmup"), [("cosine", 20_000), ("constant", STEPS + 1), ("noam", 20_000)]
)
def test_a_warm_up_longer_than_the_run_is_refused(tmp_path: Path, schedule: str, warmup: int) -> None:
    config = make_config(tmp_path / "run", schedule=schedule, warmup_steps=warmup)
    message = (
        rf"schedule\.warmup_steps: {warmup} is more than the run's 18 steps, .* reaches .*%.* instance to 1,"
    )
    with pytest.raises(UsageError, match=message):
        train_here(ToyTask(), config)
    assert not (tmp_path / "run").exists()


def test_the_published_schedule_may_end_within_its_warm_up(tmp_path: Path, caplog) -> None:
    config = make_config(tmp_path / "run", schedule="noam", warmup_steps=42, learning_rate=0.05)
    assert train_here(ToyTask(), config)["complete"]
    assert "42 is more than the run's 18 steps, so the learning rate reaches 42.9% of 0.05" in caplog.text
    assert train_here(ToyTask(), make_config(tmp_path / "other", warmup_steps=STEPS, learning_rate=0.05))[
        "complete"
    ]


def test_a_run_of_an_earlier_version_resumes_with_its_warm_up(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", schedule="constant", learning_rate=0.05)
    train_here(
        ToyTask(), make_config(tmp_path / "run", schedule="constant", learning_rate=0.05, pause_after_steps=6)
    )
    record = json.loads((tmp_path / "run" / RUN).read_text())
    record["trainer"]["schedule"]["warmup_steps"] = 100
    del record["trainer"]["recovery"]["skip_steps"]
    (tmp_path / "run" / RUN).write_text(json.dumps(record))
    config = make_config(tmp_path / "run", schedule="constant", learning_rate=0.05, warmup_steps=100)
    assert train_here(ToyTask(), config)["steps"] == STEPS


def test_a_run_that_learned_nothing_is_reported(tmp_path: Path, caplog) -> None:
    result = train_here(ToyTask(), make_config(tmp_path / "still", learning_rate=1e-9))
    assert len(result["notes"]) == 1
    assert result["notes"][0].startswith("the loss did not fall: ")
    assert result["notes"][0] in caplog.text
    assert train_here(ToyTask(), make_config(tmp_path / "learned", learning_rate=0.05))["notes"] == []


@pytest.mark.parametrize(
    ("kind", "name", "values", "expected"),
    [
        ("captioner", "loss", [9.2, 9.3], "the loss did not fall: 9.2 at step 5, 9.3 at step 10. Look at"),
        ("captioner", "loss", [9.2, 5.0, 9.15], "the loss did not fall: 9.2 at step 5, 9.15 at step 15"),
        ("captioner", "loss", [9.2, 9.0], None),
        ("captioner", "loss", [9.2], None),
        ("scst", "reward", [0.5, 0.4], "the reward did not rise: 0.5 at step 5, 0.4 at step 10"),
        ("scst", "reward", [-0.5, -0.4], None),
        ("scst", "loss", [0.1, 0.1], None),
    ],
)
def test_messages_about_progress(kind: str, name: str, values: list[float], expected: str | None) -> None:
    lines = [{"kind": "train", "step": 5 * n, name: value} for n, value in enumerate(values, 1)]
    found = progress_note(kind, lines)
    assert (found is None) == (expected is None)
    assert (found or "").startswith(expected or "")


def test_the_report_has_the_note(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", scale=0.0)]
    report = make_report(ReportConfig(runs=runs, out=str(tmp_path / "report.html")))
    (note,) = [note for note in report.notes if "did not fall" in note]
    assert note.startswith("b: the loss did not fall: 0 at step 5, 0 at step 40. Look at")
    assert "the loss did not fall" in (tmp_path / "report.html").read_text()


def test_fewer_words_than_requested_are_reported(tmp_path: Path, caplog) -> None:
    split = rewarded.write_world(tmp_path)
    assert (
        len(
            AttributesTask(
                config=TrainAttributesConfig(train=split, validation=split, words=1000, trainer=trainer())
            ).vocabulary
        )
        < 1000
    )
    assert "words: 1000 attribute words are asked for" in caplog.text

    def task(**words) -> CaptionerTask:
        config = WordsConfig(attributes=str(tmp_path / "attributes"), **words)
        return CaptionerTask(
            config=TrainCaptionerConfig(
                train=split,
                validation=split,
                words=config,
                model=CaptionerConfig(width=32, heads=4),
                trainer=trainer(),
            )
        )

    task(minimum_count=4, attribute_count=5).data("train")
    assert "words.attribute_count" not in caplog.text
    task(minimum_count=4, attribute_count=49).data("train")
    assert "words.attribute_count: 49 are asked for, the vocabulary has 5 of the words of" in caplog.text
    with pytest.raises(UsageError, match=r"no word of .* occurs 100 times: lower words\.minimum_count"):
        task(minimum_count=100).data("train")
    with pytest.raises(UsageError, match=r"words\.attributes: .* knows no word of the vocabulary"):
        task(minimum_count=30).data("train")
