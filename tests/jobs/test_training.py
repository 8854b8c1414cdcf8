"""From scenes to a captioner through the tiny configs: two jobs as processes, the rest in this one."""

import json
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import torch

from glied.bulk import run
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.sources.fetch import Fetch
from glied.captioner.captioner import Captioner
from glied.config import parse
from glied.datasets import features
from glied.scenes.dataset import write_split
from glied.training import loading, steps
from glied.vision.attributes import load_attributes
from glied.vision.regions import RegionBatch
from jobs import train_attributes, train_captioner
from tests.jobs.conftest import ROOT

GENERATOR = torch.Generator()


def load_config(job: ModuleType, name: str):
    return parse(job.Config, [f"--config={ROOT / 'configs' / name}"])


def train_here(job: ModuleType, config_name: str) -> None:
    """What a training job does with its config, without Ray and checkpoints."""
    config = load_config(job, config_name)
    task, trainer = job.build_task(config), config.trainer
    model = task.build()
    optimizer = steps.build_optimizer(
        model, name=trainer.optimizer, learning_rate=trainer.learning_rate, weight_decay=trainer.weight_decay
    )
    rows = {
        split: [row for uri in task.data(split) for row in pq.read_table(uri).to_pylist()]
        for split in ("train", "validation")
    }
    for batch in loading.batched(rows["train"], trainer.batch_size, drop_last=True):
        loss, _ = task.loss(model.train(), task.collate(batch, training=True, generator=GENERATOR))
        steps.optimizer_step(
            loss, model, optimizer, learning_rate=trainer.learning_rate, clip_norm=trainer.clip_norm
        )
    with torch.no_grad():
        batch = task.collate(rows["validation"], training=False, generator=GENERATOR)
        metrics = task.validate(model.eval(), [batch])
    assert all(0 <= value < 1000 for value in metrics.values())
    task.export(model, f"{trainer.output}/best")


def extract_here(*options: str) -> None:
    config = parse(
        ExtractRegionsConfig, [f"--config={ROOT / 'configs' / 'extract' / 'demo_tiny.yaml'}", *options]
    )
    summary = run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert run.exit_code(summary) == 0


@pytest.mark.timeout(400)
def test_every_stage_trains_on_what_the_one_before_wrote(run_job, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 24), ("val", 8)):
        write_split(tmp_path / "data" / "scenes_tiny" / split, split, count, 0, 1)
    regions = run_job("train_regions", f"--config={ROOT / 'configs/regions/demo_tiny.yaml'}", folder=tmp_path)
    assert regions.returncode == 0, regions.stderr
    assert json.loads(regions.stdout.splitlines()[-1])["complete"]
    extract_here()
    extract_here("--input.uri=data/scenes_tiny/val/images", "--output.uri=runs/features_tiny/val")
    train_here(train_attributes, "attributes/demo_tiny.yaml")
    plain = ("base", "lstm", "soft_att", "up_down", "ct")
    for name in plain:
        train_here(train_captioner, f"captioner/{name}_tiny.yaml")
    glied = run_job(
        "train_captioner", f"--config={ROOT / 'configs/captioner/glied_tiny.yaml'}", folder=tmp_path
    )
    assert glied.returncode == 0, glied.stderr
    result = json.loads(glied.stdout.splitlines()[-1])
    assert (result["complete"], result["steps"]) == (True, 3)

    validation = load_config(train_captioner, "captioner/glied_tiny.yaml").validation
    image = features.read(pq.read_table(validation.paths()[0]).to_pylist()[0])
    predictor = load_attributes("runs/attributes_tiny/best")
    for name in (*plain, "glied"):
        captioner = Captioner.load(f"runs/{name}_tiny/best")
        with torch.inference_mode():
            attributes = predictor.top(RegionBatch.collate([image]), captioner.attribute_count)
        assert captioner.model.config.architecture == name
        assert captioner.caption([image], attributes)[0]
