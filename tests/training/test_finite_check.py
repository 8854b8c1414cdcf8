"""A loss or gradient that is not finite costs at most its step, and never a checkpoint or the run."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from glied.data.captioned_regions import CaptionedRegions
from glied.errors import JobError, UsageError
from glied.training import data_order, finite_check, steps
from glied.training.config import TrainerConfig
from glied.training.finite_check import NotFiniteError
from glied.training.local_trainer import FileCheckpoints, train_here
from glied.training.loop import Loop
from glied.training.plan import Plan, Progress
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.training.tasks.clip import ClipTask, TrainClipConfig
from glied.training.tasks.clip_model import ClipModelConfig
from tests.training import test_loop
from tests.training.settings import changed, trainer
from tests.training.tasks import rewarded
from tests.training.tasks.pairs import ARCHITECTURE, write_pairs
from tests.training.test_loop import Nowhere, losses, make_config, make_task
from tests.training.toy import ToyTask

BAD = 16
"""The broken row of the toy data, which has 96 rows: with batches of 16, six steps per epoch."""


@dataclass
class BrokenTask(ToyTask):
    """The toy task with a row whose loss, or only whose gradient, is not finite."""

    broken: str = "value"
    normed: bool = False
    bad_validation: bool = False

    def build(self) -> nn.Module:
        norm = [nn.BatchNorm1d(4)] if self.normed else []
        return nn.Sequential(*norm, *super().build())

    def collate(self, rows: Any, *, training: bool, generator: torch.Generator) -> dict[str, Any]:
        batch = super().collate(rows, training=training, generator=generator)
        if training and self.broken == "value":
            batch["x"][[row["id"] == BAD for row in rows]] = float("nan")
        return batch

    def loss(self, model: nn.Module, batch: dict) -> tuple[Tensor, dict[str, float | Tensor]]:
        loss, scalars = super().loss(model, batch)
        if self.broken == "gradient" and BAD in batch["ids"]:
            zero = sum(parameter.sum() for parameter in model.parameters()) * 0
            loss = loss + zero.sqrt()  # the value is 0 and the derivative infinite
        return loss, scalars

    def validate(self, model: nn.Module, batches: Any) -> dict[str, float]:
        metrics = super().validate(model, batches)
        return {"fit": float("nan")} if self.bad_validation else metrics


def state(output: Path) -> dict[str, Any]:
    data = FileCheckpoints(f"{output}/checkpoints/here.pt").restore()
    assert data is not None
    return torch.load(io.BytesIO(data), weights_only=True)


def bad_step(config: TrainerConfig) -> int:
    """Return the first step, counted from 1, that has the broken row."""
    task = ToyTask()
    for step, batch in data_order.Rows(Plan.of(task, config), data_order.read, 0, 1).training(0, 6):
        if BAD in [row["id"] for row in batch]:
            return step + 1
    raise AssertionError


@pytest.mark.parametrize("broken", ["value", "gradient"])
@pytest.mark.parametrize("clip_norm", [1.0, 0.0])
def test_the_run_stops_at_the_step_names_the_row_and_keeps_the_last_good_state(
    tmp_path: Path, broken: str, clip_norm: float
) -> None:
    config = make_config(
        tmp_path / "run",
        learning_rate=0.05,
        checkpoint_every_steps=1,
        log_every_steps=50,
        clip_norm=clip_norm,
    )
    task, step = BrokenTask(broken=broken), bad_step(config)
    named = rf"values that are not finite: {BAD}\." if broken == "value" else rf"rows: .*\b{BAD}\b"
    for _ in range(2):  # the same command stops at the same row
        with pytest.raises(NotFiniteError, match=rf"at step {step}; .*{named}") as found:
            train_here(task, config)
        assert "--trainer.recovery.skip_steps 1 continues without that step" in str(found.value)
        kept = state(tmp_path / "run")
        assert kept["progress"]["step"] == step - 1
        assert all(value.isfinite().all() for value in kept["model"].values())
    assert not (tmp_path / "run" / "result.json").exists()

    result = train_here(task, changed(config, skip_steps=3))
    assert (result["complete"], result["steps"], result["skipped_steps"]) == (True, 18, 3)
    assert all(np.isfinite(losses(tmp_path / "run")))
    assert np.isfinite(result["best"])


def test_too_many_skipped_steps_stop_the_run(tmp_path: Path, caplog) -> None:
    with caplog.at_level("WARNING"), pytest.raises(NotFiniteError, match="skip_steps 3 continues"):
        train_here(BrokenTask(), make_config(tmp_path / "run", skip_steps=2))
    assert [f"({n} of 2)" in record.getMessage() for n, record in enumerate(caplog.records, 1)] == [True] * 2


def test_a_skipped_step_equals_a_step_without_gradient(tmp_path: Path) -> None:
    """This includes the batch norm statistics, which the forward pass of the step has changed."""
    config = make_config(tmp_path / "run", learning_rate=0.05, epochs=1, skip_steps=1)
    task = BrokenTask(normed=True)
    assert train_here(task, config)["skipped_steps"] == 1

    steps.seed_everything(config.seed, "build")
    model = task.build().train()
    optimizer = steps.build_optimizer(model, name="sgd", learning_rate=0.05, weight_decay=0.0)
    for step, some in data_order.Rows(Plan.of(task, config), data_order.read, 0, 1).training(0, 6):
        batch = task.collate(some, training=True, generator=steps.generator(config.seed, "collate", step, 0))
        steps.seed_everything(config.seed, "step", step, 0)
        optimizer.zero_grad(set_to_none=True)
        if BAD in batch["ids"]:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        else:
            task.loss(model, batch)[0].backward()
        steps.update(model, optimizer, learning_rate=0.05, clip_norm=config.optimizer.clip_norm)
    for name, value in state(tmp_path / "run")["model"].items():
        if name != "0.num_batches_tracked":
            torch.testing.assert_close(value, model.state_dict()[name])


def test_micro_batches_and_a_moving_average(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", learning_rate=0.05, accumulate=4, ema_decay=0.9)
    with pytest.raises(NotFiniteError, match=rf"these rows have values that are not finite: {BAD}\."):
        train_here(BrokenTask(), config)
    result = train_here(BrokenTask(), changed(config, skip_steps=3))
    assert result["complete"]
    average = state(tmp_path / "run")["average"]
    assert all(value.isfinite().all() for value in average.values())


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path: Path, caplog) -> None:
    result = train_here(BrokenTask(broken="", bad_validation=True), make_config(tmp_path / "run"))
    assert (result["best"], result["best_step"]) == (None, 18)
    assert "fit of this validation is nan" in caplog.text


def test_a_best_value_of_nan_and_weights_that_are_not_finite_from_earlier_versions(tmp_path: Path) -> None:
    model = ToyTask().build()
    optimizer = steps.build_optimizer(model, name="sgd", learning_rate=1.0, weight_decay=0.0)
    data = steps.pack_state(model, optimizer, Progress(step=1, best=float("nan")))
    assert steps.unpack_state(data, model, optimizer).best is None

    config = make_config(tmp_path / "run", learning_rate=0.05)
    train_here(ToyTask(), changed(config, pause_after_steps=6))
    with torch.no_grad():
        model[0].weight[0, 0] = float("inf")
    spoiled = steps.pack_state(model, optimizer, Progress(step=6))
    (tmp_path / "run" / "checkpoints" / "here.pt").write_bytes(spoiled)
    with pytest.raises(NotFiniteError, match=r"checkpoint of .* has weights that are not finite"):
        train_here(ToyTask(), config)


def half(rank: int, folder: str) -> None:
    """Run one of two workers, with and without skipping; it writes its results to files."""
    torch.set_num_threads(1)
    for skip_steps in (0, 3):
        output = f"{folder}/{skip_steps}"  # a new run for each: only rank 0 of this test restores a state
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{output}.rendezvous", rank=rank, world_size=2
        )
        config = make_config(Path(output), learning_rate=0.05, workers=2, skip_steps=skip_steps)
        plan = Plan.of(BrokenTask(), config)
        kept = FileCheckpoints(f"{output}/checkpoints/here.pt") if rank == 0 else Nowhere()
        try:
            with contextlib.closing(Loop(plan, data_order.read, kept, rank=rank, world=2)) as loop:
                loop.run()
            answer = "complete"
        except NotFiniteError as error:
            answer = str(error)
        Path(f"{output}.{rank}").write_text(answer)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_workers_agree(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.multiprocessing.spawn(half, (str(tmp_path),), nprocs=2)
    stopped, skipped = (
        [(tmp_path / f"{skip_steps}.{rank}").read_text() for rank in range(2)] for skip_steps in (0, 3)
    )
    assert stopped[0] == stopped[1]
    assert f"these rows have values that are not finite: {BAD}." in stopped[0]
    assert skipped == ["complete"] * 2


@pytest.mark.parametrize("kind", ["xe", "scst", "attributes"])
def test_tasks_on_stored_features(tmp_path: Path, kind: str) -> None:
    (tmp_path / "world").mkdir()
    rewarded.write_world(tmp_path / "world")
    vectors = 4 * np.eye(8)[[i % 4 for i in range(rewarded.IMAGES)]]
    vectors[5, 2] = np.nan
    rewarded.write_store(tmp_path / "broken", vectors, {"weights": "toy"})
    for path in (tmp_path / "broken").iterdir():
        path.replace(tmp_path / "world" / "features" / path.name)
    if kind == "attributes":
        split = CaptionedRegions(
            features=str(tmp_path / "world" / "features"), captions=str(tmp_path / "world" / "captions.json")
        )
        task: Any = AttributesTask(
            config=TrainAttributesConfig(
                train=split, validation=split, minimum_positives=1, trainer=trainer()
            )
        )
    else:
        task = make_task(tmp_path / "world", kind)
    with pytest.raises(
        NotFiniteError, match=r"these rows have values that are not finite: images/train-5\.jpg\."
    ):
        train_here(task, make_config(tmp_path / "run", batch_size=8))
    assert not (tmp_path / "run" / "best").exists()


def test_a_clip_that_diverges(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    task = ClipTask(
        config=TrainClipConfig(
            train=pairs, validation=pairs, model=ClipModelConfig(architecture=ARCHITECTURE), trainer=trainer()
        )
    )
    config = make_config(tmp_path / "run", batch_size=12, learning_rate=1e38, clip_norm=0.0)
    with pytest.raises(JobError, match=r"not finite|its rows: .*/\d+\.png"):
        train_here(task, config)
    assert not (tmp_path / "run" / "best").exists()


def _collated(part: list[dict]) -> Any:
    """Collate rows of which the second is broken and the third is left out."""
    if "uri" in part[0]:
        raise UsageError("nothing")
    return {"x": [torch.tensor(float("nan") if "image" in part[0] else 1.0)], "names": ["n"]}


def test_rows_are_named_by_their_identifying_columns() -> None:
    rows_ = [{"id": 7}, {"image": "a.png", "index": 0}, {"uri": "b.png"}, {}]
    names = finite_check.name_rows(rows_, [torch.ones(2)], lambda _: torch.ones(1))
    assert names == finite_check.Names(["7", "a.png", "b.png", "a row without a name"])
    assert finite_check.name_rows(rows_, [torch.tensor([1.0, float("nan")])], _collated).faulty == ["a.png"]
    step = finite_check.Step(3, finite_check.Names([str(number) for number in range(50)]))
    step.add(torch.tensor(float("inf")), {}, 1.0)
    text = finite_check.describe(step, world=1)
    assert text.startswith("the loss is inf and the gradient's norm 0 at step 4; its rows: 0, 1, 2, ")
    assert text.endswith("17, 18, 19 and 30 more")
    assert test_loop.IMAGES == rewarded.IMAGES
