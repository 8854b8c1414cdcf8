"""A step has the gradient of its whole batch for any number of micro-batches and workers."""

import contextlib
import dataclasses
import io
import json
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from glied.captioner.model import CaptionerConfig
from glied.errors import UsageError
from glied.rewards.config import RewardConfig
from glied.text.vocabulary import PAD
from glied.training import batching, data_order, steps
from glied.training.config import TrainerConfig
from glied.training.local_trainer import FileCheckpoints, train_here
from glied.training.loop import Loop
from glied.training.plan import Plan, Source
from glied.training.task import WEIGHT, Task
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig, WordsConfig
from glied.training.tasks.scst import ScstTask
from glied.training.tasks.scst_config import SamplingConfig, TrainScstConfig
from tests.training.settings import changed, trainer
from tests.training.tasks.rewarded import IMAGES, write_world
from tests.training.toy import ToyTask


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def make_task(world: Path, kind: str) -> Task:
    from glied.data.captioned_regions import RewardedRegions

    split = RewardedRegions(features=str(world / "features"), captions=str(world / "captions.json"))
    if kind == "scst":
        return ScstTask(
            config=TrainScstConfig(
                start=str(world / "start"),
                attributes=str(world / "attributes"),
                train=split,
                validation=split,
                reward=RewardConfig(cider=1.0, frequencies=str(world / "df")),
                sampling=SamplingConfig(max_length=8),
                trainer=trainer(),
            )
        )
    return CaptionerTask(
        config=TrainCaptionerConfig(
            train=split,
            validation=split,
            words=WordsConfig(minimum_count=4, attributes=str(world / "attributes"), attribute_count=3),
            model=CaptionerConfig(width=32, heads=4, dropout=0.0),
            trainer=trainer(),
        )
    )


def make_config(output: Path, **values) -> TrainerConfig:
    settings = {
        "epochs": 3, "batch_size": IMAGES, "learning_rate": 0.5, "optimizer": "sgd", "log_every_steps": 1,
        "schedule": "constant", "device": "cpu", "shuffle_buffer": IMAGES,
    }  # fmt: skip
    return trainer(output, **{**settings, **values})


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def weights(task: Task, config: TrainerConfig) -> dict[str, torch.Tensor]:
    """Return the weights of the state that a run saved."""
    state = FileCheckpoints(f"{config.output}/checkpoints/here.pt").restore()
    assert state is not None
    model = task.build()
    steps.unpack_state(
        state, model, steps.build_optimizer(model, name="sgd", learning_rate=1, weight_decay=0)
    )
    return model.state_dict()


@pytest.mark.parametrize("kind", ["xe", "scst"])
def test_micro_batches_equal_the_whole_batch(world: Path, tmp_path: Path, kind: str) -> None:
    whole, cut = make_config(tmp_path / "whole"), make_config(tmp_path / "cut", accumulate=4)
    for config in (whole, cut):
        assert train_here(make_task(world, kind), config)["steps"] == 3
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
    assert len(set(losses(tmp_path / "cut"))) == 3
    task = make_task(world, kind)
    trained = weights(task, whole)
    for name, value in weights(task, cut).items():
        torch.testing.assert_close(value, trained[name], rtol=1e-4, atol=1e-5)


def test_micro_batches_are_weighted_by_their_words(world: Path) -> None:
    """The test above would not notice a difference if all micro-batches had the same length."""
    task = make_task(world, "xe")
    model = task.build()
    every = [row for part in Source.of(task.data("train")).pieces for row in data_order.read([part])]
    rest = [task.collate(part, training=True, generator=torch.Generator()) for part in (every[:1], every[1:])]
    whole = task.collate(every, training=True, generator=torch.Generator())
    found = [task.loss(model, batch) for batch in (*rest, whole)]
    assert [scalars[WEIGHT] for _, scalars in found] == [
        int((b.targets != PAD).sum()) for b in (*rest, whole)
    ]
    (first, one), (second, two), (both, all_) = found
    mean = (first * one[WEIGHT] + second * two[WEIGHT]) / all_[WEIGHT]
    assert both.item() == pytest.approx(mean.item(), rel=1e-5)
    assert both.item() != pytest.approx((first.item() + second.item()) / 2, rel=1e-3)


def half(rank: int, world: str, output: str) -> None:
    """Run one of two workers, each with two micro-batches of a quarter of the batch."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{output}.rendezvous", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    config = make_config(Path(output), workers=2, accumulate=2)
    plan = Plan.of(make_task(Path(world), "xe"), config)
    kept = FileCheckpoints(f"{output}/checkpoints/here.pt") if rank == 0 else Nowhere()
    with contextlib.closing(Loop(plan, data_order.read, kept, rank=rank, world=2)) as loop:
        loop.run()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class Nowhere:
    """Checkpoints of the other workers, which keep none."""

    def restore(self) -> None:
        return None

    def save(self, step: int, state: bytes | None) -> None:
        assert state is None

    def settle(self) -> None:
        pass


@pytest.mark.slow
def test_two_workers_with_half_the_batch_equal_one(world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    config = make_config(tmp_path / "one")
    train_here(make_task(world, "xe"), config)
    torch.multiprocessing.spawn(half, (str(world), str(tmp_path / "two")), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    task = make_task(world, "xe")
    trained = weights(task, config)
    for name, value in weights(task, changed(config, output=str(tmp_path / "two"))).items():
        torch.testing.assert_close(value, trained[name], rtol=1e-4, atol=1e-5)


def test_local_training_resumes_and_equals_a_plain_loop(tmp_path: Path) -> None:
    task = ToyTask()
    config = make_config(tmp_path / "run", learning_rate=0.05, checkpoint_every_steps=4, epochs=2)
    assert train_here(task, changed(config, pause_after_steps=7)) == {"complete": False}
    result = train_here(task, config)
    assert (result["complete"], result["steps"]) == (True, 12)

    steps.seed_everything(config.seed, "build")
    model = task.build().train()
    optimizer = steps.build_optimizer(model, name="sgd", learning_rate=0.05, weight_decay=0.0)
    table, expected = task.data("train"), []
    for step in range(12):
        order = batching.permutation(96, config.seed, "epoch", step // 6)[step % 6 * 16 :][:16]
        generator = steps.generator(config.seed, "collate", step, 0)
        batch = task.collate(table.take(order).to_pylist(), training=True, generator=generator)
        steps.seed_everything(config.seed, "step", step, 0)
        loss, _ = task.loss(model, batch)
        steps.optimizer_step(loss, model, optimizer, learning_rate=0.05, clip_norm=config.optimizer.clip_norm)
        expected.append(loss.detach().item())
    assert losses(tmp_path / "run") == expected
    assert train_here(task, config) == result, "a complete run is left alone"


def test_a_run_of_an_earlier_version_resumes_if_a_new_setting_has_its_default(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", epochs=1)
    train_here(ToyTask(), changed(config, pause_after_steps=3))
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    del stored["trainer"]["optimizer"]["ema_decay"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match=r"trainer\.optimizer\.ema_decay was 0\.0, is 0\.9"):
        train_here(ToyTask(), changed(config, ema_decay=0.9))
    assert train_here(ToyTask(), config)["complete"]


def test_rewards_train_in_bfloat16_too(world: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        train_here(make_task(world, "scst"), make_config(tmp_path / precision, precision=precision))
    assert losses(tmp_path / "bf16") == pytest.approx(losses(tmp_path / "fp32"), rel=0.2, abs=0.02)


def test_a_run_of_version_0_1_is_resumed(tmp_path: Path, caplog) -> None:
    """Its record has the trainer's keys on one level, and its state an older name."""
    config = make_config(tmp_path / "run", epochs=1, learning_rate=0.05)
    train_here(ToyTask(), changed(config, pause_after_steps=3))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    flat = {old: attrgetter(new)(config) for old, new in TrainerConfig.RENAMED.items()}
    groups = {"resources", "monitoring", "recovery"}
    record["trainer"] = {key: record["trainer"][key] for key in record["trainer"].keys() - groups} | flat
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    kept = FileCheckpoints(str(tmp_path / "run" / "checkpoints" / "here.pt"))
    state = torch.load(io.BytesIO(kept.restore() or b""), weights_only=True)
    state["progress"]["stale"] = state["progress"].pop("validations_without_improvement")
    torch.save(state, tmp_path / "run" / "checkpoints" / "here.pt")

    with pytest.raises(UsageError, match=r"trainer\.optimizer\.learning_rate was 0\.05, is 0\.1\."):
        train_here(ToyTask(), changed(config, learning_rate=0.1))
    assert train_here(ToyTask(), changed(config, log_every_steps=2))["complete"]
    assert "renamed config keys" not in caplog.text


def test_what_is_due_after_a_step(tmp_path: Path) -> None:
    values = {"log_every_steps": 4, "validate_every_epochs": 2, "validate_every_steps": 10}
    config = make_config(tmp_path, **values, checkpoint_every_steps=5, pause_after_steps=9)
    plan = Plan.of(ToyTask(), config)  # three epochs of six steps
    due = {step: plan.due(step) for step in range(1, plan.total_steps + 1)}
    assert [step for step, one in due.items() if one.logs] == [4, 8, 9, 12, 16, 18]
    assert [step for step, one in due.items() if one.validates] == [10, 12, 18]
    assert [step for step, one in due.items() if one.saves] == [5, 6, 9, 10, 12, 15, 18]
    without = dataclasses.replace(plan, validation=Source(()))
    assert not any(without.due(step).validates for step in due)
