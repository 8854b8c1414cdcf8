"""Folders of training runs written by the trainer's log without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glied.training.history import METRICS, RESULT, RUN, Sample
from glied.training.run_log import RunLog

EPOCH_STEPS = 10


def make_run(
    folder: Path,
    *,
    kind: str = "captioner",
    steps: int = 40,
    scale: float = 1.0,
    batch_size: int = 8,
    references: Sequence[str] = ("a dog", "a kite"),
    rewards: bool = False,
    complete: bool = True,
) -> str:
    """Write four epochs of ten steps, with scalars every five steps, validation and captions every ten."""
    folder.mkdir(parents=True)
    trainer = {"output": str(folder), "batch_size": batch_size, "epochs": 4, "max_steps": None}
    config = {
        "kind": kind,
        "rows": {"train": EPOCH_STEPS * batch_size + 1, "validation": 5},
        "task": {"model": {"scale": scale}},
        "trainer": trainer,
    }
    (folder / RUN).write_text(json.dumps(config))
    log = RunLog(str(folder), 0)
    for step in range(5, steps + 1, 5):
        log.write("train", step, train_scalars(step, scale, rewards))
        if step % EPOCH_STEPS == 0:
            log.write("validation", step, {"cider": scale * (step if step < 40 else 25), "loss": 1.0})
            log.write_samples(step, [Sample(f"{one} at {step}", one) for one in references])
    log.close()
    if complete:
        (folder / RESULT).write_text("{}")
    return str(folder)


def train_scalars(step: int, scale: float, rewards: bool) -> dict[str, float]:
    scalars = {"epoch": step / EPOCH_STEPS, "loss": scale / step, "images_per_s": 20.0, "data_share": 0.1}
    parts = {"reward": 1.5, "reward_clip_s": 0.5, "greedy": 1.4, "baseline": 1.4, "seconds_draw": 0.2}
    return scalars | (parts if rewards else {})


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
