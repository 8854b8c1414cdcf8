"""Finetune all stages of the photographs' backbone, from pixels to the words of captions.

This needs a folder (--carried) with train/ and val/, each with captions.json and images/, and starts from the
shipped backbone. It saves the best backbone and its attribute predictor in half precision in
<results>/finetune/best. A dry run uses scenes and random weights.
"""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_stages.inputs import BACKBONE
from benchmarks.gpu_stages.measuring import peak_memory
from benchmarks.gpu_stages.setting import Row, Setting
from glied.data.pairs import PairsConfig
from glied.demo_world.dataset import write_split
from glied.training import data_order as training_rows
from glied.training.config import (
    MonitoringConfig,
    OptimizerConfig,
    RecoveryConfig,
    ScheduleConfig,
    TrainerConfig,
    TrainerResourcesConfig,
)
from glied.training.local_trainer import FileCheckpoints
from glied.training.loop import Loop
from glied.training.plan import Plan
from glied.training.tasks.backbone import BackboneConfig, BackboneTask, TrainBackboneConfig

TINY = BackboneConfig(model="tf_efficientnet_lite0", size=64)


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the mean average precision on val, and images/s including loading and validation."""
    if not setting.carried and not setting.dry:
        yield {"skipped": "no folder of photographs was given (--carried)"}
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(setting.carried or name)
        if not setting.carried:
            for split, count in (("train", 8), ("val", 4)):
                write_split(folder / split, split, count, 0, 1)
        output = Path(setting.results) / "finetune" if setting.results else Path(name) / "run"
        shutil.rmtree(output, ignore_errors=True)
        yield train(setting, folder, output, FileCheckpoints(f"{name}/checkpoint.pt"))


def make_task(setting: Setting, folder: Path, trainer: TrainerConfig) -> BackboneTask:
    """The finetuning of the photographs' backbone, or a tiny one on scenes."""
    config = TrainBackboneConfig(
        train=PairsConfig(pairs=str(folder / "train" / "captions.json")),
        validation=PairsConfig(pairs=str(folder / "val" / "captions.json")),
        model=setting.pick(TINY, BackboneConfig(checkpoint=str(BACKBONE))),
        words=setting.pick(50, 1000),
        minimum_positives=setting.pick(1, 20),
        decoder_threads=4,
        trainer=trainer,
    )
    return BackboneTask(config=config)


def train(setting: Setting, folder: Path, output: Path, checkpoints: FileCheckpoints) -> Row:
    """Train to the end or to the stage's time limit; the best checkpoint until then is kept."""
    config = TrainerConfig(
        output=str(output), epochs=setting.pick(1, 8), batch_size=setting.pick(4, 64),
        optimizer=OptimizerConfig(learning_rate=6e-4, weight_decay=0.02, clip_norm=5.0, precision="bf16"),
        schedule=ScheduleConfig(warmup_steps=setting.pick(0, 100)),
        resources=TrainerResourcesConfig(loader_threads=4),
        monitoring=MonitoringConfig(validate_every_epochs=2),
        recovery=RecoveryConfig(checkpoint_every_steps=10**6),
    )  # fmt: skip
    plan = Plan.of(make_task(setting, folder, config), config)
    start = time.perf_counter()
    with (
        peak_memory(setting.torch_device) as memory,
        contextlib.closing(Loop(plan, training_rows.read, checkpoints, device=setting.torch_device)) as loop,
    ):
        loop.run()
    seconds = time.perf_counter() - start
    result = json.loads((output / "result.json").read_text())
    images = result["steps"] * config.batch_size
    return {
        "images": plan.train.rows,
        "epochs": result["epochs"],
        "images_per_s": round(images / seconds, 1),
        "best_map": result["best"],
        "validation": result["validation"],
        **memory,
    }
