"""From scenes to a CLIP, a finetuned one and a grammar head through the tiny configs, without Ray."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from glied.config import parse
from glied.rewards.config import ClipConfig
from glied.rewards.grammar import CORRUPTIONS, load_grammar, unfit
from glied.scenes.dataset import write_split
from glied.training import loading, steps
from jobs import finetune_grammar, train_clip
from tests.jobs.conftest import ROOT

GENERATOR = torch.Generator()


def train_here(job: ModuleType, config_name: str) -> dict[str, float]:
    """What a training job does with its config; one step per batch, then validation and export."""
    config: Any = parse(job.Config, [f"--config={ROOT / 'configs' / config_name}"])
    task, trainer = job.build_task(config), config.trainer
    model = task.build()
    optimizer = steps.build_optimizer(
        model, name=trainer.optimizer, learning_rate=trainer.learning_rate, weight_decay=trainer.weight_decay
    )
    rows = {split: task.data(split).to_pylist() for split in ("train", "validation")}
    batches = list(loading.batched(rows["train"], trainer.batch_size, drop_last=True))
    assert len(batches) == 3
    for batch in batches:
        loss, _ = task.loss(model.train(), task.collate(batch, training=True, generator=GENERATOR))
        steps.optimizer_step(
            loss, model, optimizer, learning_rate=trainer.learning_rate, clip_norm=trainer.clip_norm
        )
    with torch.no_grad():
        batch = task.collate(rows["validation"], training=False, generator=GENERATOR)
        metrics = task.validate(model.eval(), [batch])
    task.export(model, f"{trainer.output}/best")
    return metrics


def test_every_stage_trains_on_what_the_one_before_wrote(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 24), ("val", 8)):
        write_split(tmp_path / "data" / "scenes_tiny" / split, split, count, 0, 1)
    learned = train_here(train_clip, "clip/demo_tiny.yaml")
    assert (learned["pool"], learned["r10"]) == (8, 100)
    finetuned = train_here(train_clip, "clip/coco_tiny.yaml")
    assert (finetuned["pool"], finetuned["r10"]) == (8, 100)
    figures = train_here(finetune_grammar, "grammar/demo_tiny.yaml")
    assert all(0 <= figures[f"accuracy_{kind}"] <= 100 for kind in CORRUPTIONS)
    scorer = load_grammar(ClipConfig(checkpoint="runs/grammar_tiny/best"))
    assert scorer.figures == figures
    assert unfit(figures)
    assert 0 < scorer(["a dog on a sandy beach"]).item() < 1
