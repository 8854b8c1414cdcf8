"""Train a captioner with rewards from scenes with the tiny configs."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.captioner.captioner import Captioner
from glied.clip.grammar_head import CORRUPTIONS, GrammarHead, save_grammar
from glied.clip.model import build_clip, save_clip
from glied.commands import prepare_cider, train_scst
from glied.config import parse
from glied.data import features
from glied.demo_world.dataset import write_split
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.training import local_trainer
from glied.vision.attributes import load_attributes
from tests.clip.test_clip import TINY
from tests.jobs.conftest import ROOT
from tests.jobs.local_training import load_task, train_here


def extract_here(*options: str, name: str = "demo_tiny") -> None:
    config = parse(
        ExtractRegionsConfig, [f"--config={ROOT / 'configs' / 'extract' / f'{name}.yaml'}", *options]
    )
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert bulk_run.exit_code(summary) == 0


def make_clips() -> None:
    """Save a random CLIP, and the same CLIP with a grammar head whose recorded accuracies are good enough."""
    torch.manual_seed(0)
    clip = build_clip(TINY, preprocess={"resize_mode": "squash"})
    for folder in ("runs/clip_tiny/best", "runs/grammar_tiny/best"):
        save_clip(folder, clip, TINY)
    head = GrammarHead(width=TINY["text_cfg"]["width"], hidden=8)
    save_grammar("runs/grammar_tiny/best", head, {f"accuracy_{kind}": 100.0 for kind in CORRUPTIONS})


@pytest.mark.timeout(400)
def test_every_stage_trains_on_the_output_of_the_previous_one(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 24), ("val", 8)):
        write_split(tmp_path / "data" / "scenes_tiny" / split, split, count, 0, 1)
    assert train_here("regions/demo_tiny.yaml")["ap50"] >= 0
    extract_here()
    extract_here("--input.uri=data/scenes_tiny/val/images", "--output.uri=runs/features_tiny/val")
    assert 0 <= train_here("attributes/demo_tiny.yaml")["map"] <= 1
    plain = ("base", "lstm", "soft_att", "up_down", "ct")
    for name in (*plain, "glied"):
        assert train_here(f"captioner/{name}_tiny.yaml")["cider"] >= 0
    make_clips()
    extract_here(name="clip_tiny")
    outputs = ["--input.uri=data/scenes_tiny/val/images", "--output.uri=runs/clip_features_tiny/val"]
    extract_here(*outputs, name="clip_tiny")

    scst = f"--config={ROOT / 'configs/scst/cider_tiny.yaml'}"
    monkeypatch.setattr("sys.argv", ["train_scst.py", scst])
    with pytest.raises(UsageError, match=r"no checkpoint in runs/cider_tiny.*prepare_cider\.py makes it"):
        train_scst.main()
    options = ["--captions=data/scenes_tiny/train/captions.json", "--captioner=runs/glied_tiny/best"]
    monkeypatch.setattr("sys.argv", ["prepare_cider.py", *options, "--out=runs/cider_tiny"])
    assert prepare_cider.main() == 0
    for name in ("clip_s", "ref_clip_s", "cider_clip_s", "clip_s_grammar"):
        load_task(f"scst/{name}_tiny.yaml").check()
        assert train_here(f"scst/{name}_tiny.yaml")["reward"] >= 0
    task = load_task("scst/cider_tiny.yaml")
    result = local_trainer.train_here(task, task.config.trainer)
    assert (result["complete"], result["steps"]) == (True, 3)
    assert {"reward", "reward_cider", "entropy", "seconds_draw"} <= set(result["last"])

    validation = load_task("captioner/glied_tiny.yaml").config.validation
    image = features.read(pq.read_table(validation.paths()[0]).to_pylist()[0])
    predictor = load_attributes("runs/attributes_tiny/best")
    folders = {name: f"{name}_tiny" for name in plain} | {"glied": "scst_tiny/cider"}
    for name, folder in folders.items():
        captioner = Captioner.load(f"runs/{folder}/best")
        with torch.inference_mode():
            attributes = predictor.top(RegionBatch.collate([image]), captioner.attribute_count)
        assert captioner.model.config.architecture == name
        assert captioner.caption([image], attributes)[0]
