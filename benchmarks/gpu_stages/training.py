"""Measure XE and SCST images/s of the paper-size captioner, the share of each part, and the training loop.

SCST is that of benchmarks/scst.py: 5 samples and the greedy caption, rewarded with CIDEr-D and the CLIP-S of
a ViT-B/32 with random weights. `images_per_s` is measured without synchronization between the parts; the
shares come from further steps that synchronize after each part, so that each part includes its own kernels.
Batches are collated beforehand; `collate_images_per_s` is the rate of one loader thread.
"""

import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import torch

from benchmarks import scst as benchmark
from benchmarks.gpu_stages.measuring import peak_memory, release, synchronize
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.captioner.architectures import PAPER_SIZES
from glied.clock import Clock
from glied.data.captioned_regions import CaptionedRegions
from glied.training import data_order as training_rows
from glied.training import history, steps
from glied.training.config import (
    MonitoringConfig,
    OptimizerConfig,
    RecoveryConfig,
    TrainerConfig,
    TrainerResourcesConfig,
)
from glied.training.local_trainer import FileCheckpoints
from glied.training.loop import Loop
from glied.training.plan import Plan, Source
from glied.training.task import Task
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig, WordsConfig


def rows(setting: Setting) -> Iterator[Row]:
    """Measure SCST and XE steps, then run the training loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = setting.pick("ViT-S-32-alt", "ViT-B-32")
        config = benchmark.Config(full=not setting.dry, device=setting.device, clip=clip)
        task = benchmark.make_task(config, folder)
        xe = cross_entropy_task(folder)
        stored = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]
        for kind, one in (("scst", task), ("xe", xe)):
            for bf16 in setting.pick((True,), (True, False)):
                yield {"kind": kind, "bf16": bf16} | speed(setting, one, stored, bf16)
                release(setting.torch_device)
        yield from loop(setting, xe, folder / "run")


def cross_entropy_task(folder: Path) -> CaptionerTask:
    """Return an XE task with the images and references of the SCST task."""
    words = benchmark.clip_vocabulary().to_json()
    (folder / "vocabulary.json").write_text(json.dumps({"words": words}))
    split = CaptionedRegions(features=str(folder / "regions"), captions=str(folder / "captions.json"))
    config = TrainCaptionerConfig(
        train=split,
        validation=split,
        words=WordsConfig(vocabulary=str(folder / "vocabulary.json"), attributes=str(folder / "attributes")),
        model=PAPER_SIZES["glied"],
        trainer=TrainerConfig(output=str(folder / "run")),
    )
    return CaptionerTask(config=config)


def speed(setting: Setting, task: Task, stored: list[Row], bf16: bool) -> Row:
    """Measure the images/s of steps, and the shares of their parts."""
    device = setting.torch_device
    start = time.perf_counter()
    batches = [task.collate(stored, training=True, generator=steps.generator(number)) for number in range(2)]
    collated = 2 * len(stored) / (time.perf_counter() - start)
    batches = [steps.move(batch, device) for batch in batches]
    steps.seed_everything(0)
    model = task.build().to(device).train()
    optimizer = steps.build_optimizer(model, name="adamw", learning_rate=1e-6, weight_decay=0.0)
    warm_ups, count, waits = setting.pick((0, 1, 1), (3, 10, 4))
    with peak_memory(device) as memory:
        whole = [step(task, model, optimizer, batches[n % 2], bf16) for n in range(warm_ups + count)]
    with synchronized_clock(device):
        by_part = [step(task, model, optimizer, batches[n % 2], bf16, device) for n in range(waits)]
    without = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    taken = statistics.median(one["seconds"] for one in whole[-count:])
    total = statistics.median(one["seconds"] for one in by_part)
    parts = {name: statistics.median(one[name] for one in by_part) / total for name in by_part[0]}
    shares = {f"share_{name}": round(share, 3) for name, share in parts.items() if name != "seconds"}
    return {
        "batch": len(stored),
        "images_per_s": round(len(stored) / taken, 1),
        "ms": round(1000 * taken, 2),
        "ms_when_waiting": round(1000 * total, 2),
        **shares,
        "weights_without_gradient": len(without),
        "collate_images_per_s": round(collated, 1),
        **memory,
    }


def step(
    task: Task,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    bf16: bool,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Return the seconds of a step and of its parts; with a `device`, synchronize after each part."""
    here = next(model.parameters()).device
    synchronize(here)
    marks = [time.perf_counter()]

    def mark() -> None:
        if device is not None:
            synchronize(device)
        marks.append(time.perf_counter())

    with steps.autocast(here, bf16=bf16):
        loss, figures = task.loss(model, batch)
    mark()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    mark()
    steps.update(model, optimizer, learning_rate=1e-6, clip_norm=1.0)
    synchronize(here)
    marks.append(time.perf_counter())
    forward, backward, update = (after - before for before, after in itertools.pairwise(marks))
    known = {name.removeprefix("seconds_"): float(figures[name]) for name in figures if "seconds_" in name}
    parts = known or {"forward": forward}
    return {"seconds": marks[3] - marks[0], **parts, "backward": backward, "update": update}


@contextlib.contextmanager
def synchronized_clock(device: torch.device) -> Iterator[None]:
    """Let the clock of SCST steps synchronize with the device after each part within the block."""
    measure = Clock.measure

    @contextlib.contextmanager
    def synchronized(clock: Clock, name: str) -> Iterator[None]:
        with measure(clock, name):
            yield
            synchronize(device)

    with mock.patch.object(Clock, "measure", synchronized):
        yield


def loop(setting: Setting, task: CaptionerTask, output: Path) -> Iterator[Row]:
    """Run the training loop with one worker: pause half-way, resume and export."""
    count = setting.pick(2, 40)
    config = TrainerConfig(
        output=str(output), epochs=10 * count, max_steps=count, batch_size=setting.pick(2, 64),
        optimizer=OptimizerConfig(learning_rate=1e-3, precision="bf16", ema_decay=0.9),
        resources=TrainerResourcesConfig(loader_threads=4),
        monitoring=MonitoringConfig(log_every_steps=setting.pick(1, 10)),
        recovery=RecoveryConfig(checkpoint_every_steps=count // 2),
    )  # fmt: skip
    paused = replace(config.recovery, pause_after_steps=count // 2)
    for part in (replace(config, recovery=paused), config):
        plan = Plan.of(task, part)
        plan = replace(plan, validation=Source(()))  # CIDEr would need pycocoevalcap
        checkpoints = FileCheckpoints(str(output / "checkpoint.pt"))
        with contextlib.closing(
            Loop(plan, training_rows.read, checkpoints, device=setting.torch_device)
        ) as running:
            running.run()
    result = json.loads((output / "result.json").read_text())
    losses = [line["loss"] for line in history.read_lines(str(output)) if line["kind"] == "train"]
    yield check("steps of the loop, resumed half-way", result["steps"], least=count, most=count)
    yield check("loss at the end / at the start", losses[-1] / losses[0], most=setting.pick(1.05, 0.9))
