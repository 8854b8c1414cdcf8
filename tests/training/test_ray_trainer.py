"""The trainer in real TorchTrainer runs; there are few of them, because each takes 20 s to start."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from glied.errors import JobError, UsageError
from glied.training import batching, ray_trainer, steps
from glied.training.config import TrainerConfig
from glied.training.history import Best, Sample, read_history
from glied.training.ray_trainer import train
from tests.training.settings import changed, trainer
from tests.training.test_finite_check import BAD, BrokenTask
from tests.training.toy import ToyTask, table

EPOCH_STEPS = 6  # 96 rows in batches of 16


def make_config(output: Path, **values: Any) -> TrainerConfig:
    settings: dict[str, Any] = {
        "epochs": 3, "batch_size": 16, "learning_rate": 0.05, "warmup_steps": 4, "weight_decay": 0.1,
        "log_every_steps": 1, "checkpoint_every_steps": 4, "device": "cpu", "seed": 5,
    }  # fmt: skip
    return trainer(output, **{**settings, **values})


def read_metrics(output: Path, kind: str) -> list[dict]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def plain_training(task: ToyTask, config: TrainerConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Run the same training as a plain loop without Ray; return its losses and averaged weights."""
    steps.seed_everything(config.seed, "build")
    model = task.build().train()
    optimizer = steps.build_optimizer(
        model,
        name="adamw",
        learning_rate=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )
    rows, losses, average = table(task.rows), [], {}
    total = config.epochs * EPOCH_STEPS
    for epoch in range(config.epochs):
        order = batching.permutation(task.rows, config.seed, "epoch", epoch)
        for index in range(EPOCH_STEPS):
            step = epoch * EPOCH_STEPS + index
            batch = task.collate(
                rows.take(order[index * 16 : (index + 1) * 16]).to_pylist(),
                training=True,
                generator=steps.generator(config.seed, "collate", step, 0),
            )
            steps.seed_everything(config.seed, "step", step, 0)
            loss, _ = task.loss(model, batch)
            factor = steps.learning_rate_factor(step, schedule="cosine", warmup_steps=4, total_steps=total)
            rate = config.optimizer.learning_rate * factor
            steps.optimizer_step(
                loss, model, optimizer, learning_rate=rate, clip_norm=config.optimizer.clip_norm
            )
            losses.append(loss.detach().item())
            for name, value in model.state_dict().items():
                kept = average.setdefault(name, value.clone())
                kept += (value - kept) * (1 - config.optimizer.ema_decay)
    return losses, average


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, ray_session: None) -> None:
    task, config = ToyTask(), make_config(tmp_path / "run", ema_decay=0.8)
    torch.set_num_threads(1)
    paused = train(task, changed(config, pause_after_steps=9))
    assert paused == {"complete": False}
    assert len(read_metrics(tmp_path / "run", "train")) == 9
    # Elastic: of two workers with four CPUs each, only one fits on six CPUs.
    result = train(task, changed(config, workers=2, min_workers=1, cpus_per_worker=4))

    logged = read_metrics(tmp_path / "run", "train")
    assert [line["step"] for line in logged] == list(range(1, 19))
    losses, average = plain_training(task, config)
    assert [line["loss"] for line in logged] == losses
    exported = json.loads((tmp_path / "run" / "last" / "model.json").read_text())
    for name, value in average.items():
        torch.testing.assert_close(torch.tensor(exported[name]), value, rtol=1e-5, atol=1e-6)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "validation")] == [6, 12, 18]
    assert (result["complete"], result["stopped_early"]) == (True, False)
    assert result["steps"] == 18
    assert result["best"] == max(line["fit"] for line in read_metrics(tmp_path / "run", "validation"))
    for folder in ("best", "last"):
        assert (tmp_path / "run" / folder / "model.json").is_file()
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    told = read_history(str(tmp_path / "run"))
    assert (told.steps, told.total_steps, told.complete) == (18, 18, True)
    assert told.best() == Best("fit", result["best"], result["best_step"])
    fits = {line["step"]: line["fit"] for line in read_metrics(tmp_path / "run", "validation")}
    assert told.samples() == {step: [Sample(f"fit {fit}", "fit 0")] for step, fit in fits.items()}
    kept = list((tmp_path / "run" / "checkpoints").glob("checkpoint_*"))
    assert len(kept) <= 3, "6 were written and 2 are kept; Ray may still be deleting one"

    assert train(task, config) == result, "a complete run is left alone"
    with pytest.raises(UsageError, match=r"trainer\.optimizer\.learning_rate was 0\.05, is 0\.1"):
        train(task, changed(config, learning_rate=0.1))
    with pytest.raises(UsageError, match=r"task\.width was 8, is 9"):
        train(ToyTask(width=9), config)
    with pytest.raises(UsageError, match="kind was 'toy', is 'other'"):
        train(ToyTask(name="other"), config)
    with pytest.raises(UsageError, match="resume is false"):
        train(task, changed(config, resume=False))


def test_two_workers_stream_uneven_files_and_survive_a_kill(tmp_path: Path, ray_session: None) -> None:
    sizes, files = (50, 3, 30, 13), []
    for index, size in enumerate(sizes):
        files.append(str(tmp_path / f"{index}.parquet"))
        pyarrow.parquet.write_table(table(size, start=sum(sizes[:index])), files[-1])
    crash_file = tmp_path / "crash"
    crash_file.touch()
    task = ToyTask(files=tuple(files), crash_file=str(crash_file), flat=True)
    config = make_config(tmp_path / "run", workers=2, epochs=5, shuffle_buffer=7, patience=1)
    result = train(task, config)

    assert result["complete"]
    assert (result["best_step"], result["steps"], result["stopped_early"]) == (6, 12, True)
    assert not crash_file.exists()
    logged = read_metrics(tmp_path / "run", "train")
    assert [line["step"] for line in logged] == list(range(1, 13))
    for epoch in range(2):
        ids = [2 * line["ids"] for line in logged[epoch * EPOCH_STEPS :][:EPOCH_STEPS]]
        assert sum(ids) == sum(range(96)), "each row once an epoch"


def test_a_loss_that_is_not_finite_stops_the_run_which_can_resume(
    tmp_path: Path, ray_session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", workers=2, seed=0, checkpoint_every_steps=1, epochs=1)
    with pytest.raises(JobError, match=rf"at step 4; these rows have values that are not finite: {BAD}\."):
        train(BrokenTask(), config)
    assert len(re.findall(r"toy: 96 rows", capfd.readouterr().out)) == 1, "Ray did not try again"
    assert max(line["step"] for line in read_metrics(tmp_path / "run", "train")) == 3
    result = train(BrokenTask(), changed(config, skip_steps=1))
    assert (result["complete"], result["steps"], result["skipped_steps"]) == (True, 6, 1)
    assert [line["step"] for line in read_metrics(tmp_path / "run", "train")] == [1, 2, 3, 5, 6]


def test_missing_gpus_are_reported(tmp_path: Path, ray_session: None) -> None:
    config = make_config(tmp_path, workers=2, device="cuda", accelerator="L4", wait_s=1)
    with pytest.raises(
        JobError, match=r"no room for 2 x \(1 CPU, 1 GPU, L4\) and .* \(trainer\.resources\.wait_s\)"
    ):
        train(ToyTask(), config)


def test_bad_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"batch_size 16 must be a multiple of .* \(3 x 1\)"):
        make_config(tmp_path, workers=3)
    with pytest.raises(UsageError, match=r"multiple of workers x accumulate \(1 x 3\)"):
        make_config(tmp_path, accumulate=3)
    with pytest.raises(UsageError, match=r"\(3 x 1\), for every number of workers"):
        make_config(tmp_path, workers=4, min_workers=2)
    with pytest.raises(UsageError, match=r"min_workers: 3 is more than trainer\.workers"):
        make_config(tmp_path, workers=2, min_workers=3)
    with pytest.raises(UsageError, match=r"trainer\.monitoring\.patience: 0 is not at least 1"):
        make_config(tmp_path, patience=0)
    with pytest.raises(UsageError, match=r"ema_decay: 1\.0 is not in \[0, 1\)"):
        make_config(tmp_path, ema_decay=1.0)
    with pytest.raises(UsageError, match="accelerator: L4 is a GPU"):
        make_config(tmp_path, accelerator="L4")
    with pytest.raises(UsageError, match=r"trainer\.epochs: 0 is not at least 1"):
        make_config(tmp_path, epochs=0)
    with pytest.raises(UsageError, match="batch_size 16 is more than the 15 training rows"):
        train(ToyTask(rows=15), make_config(tmp_path))


def test_failures_that_are_no_workers_own_are_one_line(caplog) -> None:
    killed = "Training failed due to controller error: 7 worker(s) were killed, node running low on memory.\n"
    found = str(ray_trainer._controller_error(RuntimeError(killed + "Memory on the node\n" * 400)))
    assert found == (
        "training failed: a machine ran out of memory, and Ray killed the workers: run less beside them; "
        "the same command continues from the last checkpoint"
    )
    assert not caplog.records
    other = str(ray_trainer._controller_error(RuntimeError("no such thing\n" * 400)))
    assert len(other) < 450
    assert "\n" not in other
    assert "no such thing\n" * 400 in caplog.text, "the whole text is logged"
