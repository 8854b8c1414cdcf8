"""Train a CLIP, a finetuned CLIP and a grammar head with the tiny configs, without Ray."""

from pathlib import Path

import numpy as np

from glied.captioner.config import DecodingConfig
from glied.captioner.engines.coca import CocaEngine
from glied.captioner.engines.config import CocaConfig
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import CORRUPTIONS, load_grammar, unfit
from glied.demo_world.dataset import write_split
from tests.jobs.local_training import train_here


def test_every_stage_trains_on_the_output_of_the_previous_one(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 24), ("val", 8)):
        write_split(tmp_path / "data" / "scenes_tiny" / split, split, count, 0, 1)
    learned = train_here("clip/demo_tiny.yaml")
    assert (learned["pool"], learned["r10"]) == (8, 100)
    finetuned = train_here("clip/coco_tiny.yaml")
    assert (finetuned["pool"], finetuned["r10"]) == (8, 100)
    hard = train_here("clip/hard_negatives_tiny.yaml")
    assert {"hard_relation", "hard_color", "hard_object"} <= hard.keys()
    figures = train_here("grammar/demo_tiny.yaml")
    assert all(0 <= figures[f"accuracy_{kind}"] <= 100 for kind in CORRUPTIONS)
    assert train_here("clip/coca_tiny.yaml")["pool"] == 8
    coca = CocaEngine.load(CocaConfig(checkpoint="runs/coca_tiny/best"), DecodingConfig(beam_size=1))
    words = coca.caption([np.zeros((40, 60, 3), np.uint8)])[0][0].text.split()
    assert 0 < len(words) <= DecodingConfig().max_length
    scorer = load_grammar(ClipConfig(checkpoint="runs/grammar_tiny/best"))
    assert scorer.figures == figures
    assert unfit(figures)
    assert 0 < scorer(["a dog on a sandy beach"]).item() < 1
