"""Train a CLIP, a finetuned CLIP, a grammar head and a CoCa with the tiny configs, without Ray."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

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


COLORS = {"red": (220, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 220), "white": (240, 240, 240)}


def test_a_trained_coca_says_what_is_in_an_image(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)

    def wall(color: str) -> np.ndarray:
        noisy = np.array(COLORS[color]) + random.normal(0, 12, (32, 32, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    pairs = []
    for number, color in enumerate([*COLORS, *COLORS]):
        Image.fromarray(wall(color)).save(f"{number}.png")
        pairs.append(json.dumps({"image": f"{number}.png", "text": f"a wall painted {color}"}))
    (tmp_path / "val.jsonl").write_text("\n".join(pairs))
    (tmp_path / "train.jsonl").write_text("\n".join(60 * pairs))  # 60 steps
    options = ["--train.pairs=train.jsonl", "--validation.pairs=val.jsonl", "--trainer.batch_size=8"]
    train_here("clip/coca_tiny.yaml", *options, "--trainer.optimizer.learning_rate=0.02")
    coca = CocaEngine.load(CocaConfig(checkpoint="runs/coca_tiny/best"), DecodingConfig(beam_size=3))
    found = coca.caption([wall(color) for color in COLORS])
    assert [captions[0].text for captions in found] == [f"a wall painted {color}" for color in COLORS]
    assert not any(captions[0].truncated for captions in found)
