"""CLIP-S and retrieval with the demo world's CLIP, on scenes whose descriptions are known."""

import csv
import json
from pathlib import Path

import pytest

from glied.clip.config import ClipConfig
from glied.data.coco import load_captions
from glied.demo_world.dataset import write_split
from glied.metrics.clip_metrics import ClipMetrics
from glied.teach.clip_scoring import CaptionScorer
from glied.teach.job_runner import JobRunner

CLIP = "glied/weights/demo/clip"
SCENES = 12


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    write_split(folder, "test", SCENES, 0, 1)
    return folder


@pytest.fixture(scope="module")
def store(scenes) -> str:
    """Vectors of the scenes, which a table names."""
    table = scenes / "images.csv"
    with table.open("w", newline="") as file:
        rows = [(path.name, path) for path in sorted((scenes / "images").iterdir())]
        csv.writer(file).writerows([("id", "uri"), *rows])
    source = {"uri": str(table), "form": "table", "id_column": "id", "allow": [str(scenes)]}
    values = {
        "input": source,
        "output": {"uri": str(scenes / "vectors")},
        "regions": {"kind": "clip", "clip": {"checkpoint": CLIP}, "device": "cpu"},
    }
    JobRunner.of("local").extract(values)
    return str(scenes / "vectors")


def test_figures_are_those_of_an_evaluation(scenes, store) -> None:
    lines = (scenes / "descriptions.jsonl").read_text().splitlines()
    captions = load_captions(str(scenes / "captions.json"))
    assert len(lines) == SCENES
    said = {name: texts[0] for name, texts in captions.items()}
    found = CaptionScorer(ClipConfig(checkpoint=CLIP), store, "cpu").figures(said)
    expected = ClipMetrics(ClipConfig(checkpoint=CLIP), str(scenes / "images"))(said).values
    assert found["CLIP-S"] == pytest.approx(expected["CLIP-S"], abs=0.1)  # vectors are stored as float16
    assert {name: found[name] for name in ("R@1", "R@5", "pool")} == {
        name: expected[name] for name in ("R@1", "R@5", "pool")
    }
    assert 0 < found["R@1"] < 100


def test_unknown_words_and_images_do_not_stop_the_scoring(scenes, store, caplog) -> None:
    (name, texts), *_ = load_captions(str(scenes / "captions.json")).items()
    scorer = CaptionScorer(ClipConfig(checkpoint=CLIP), store, "cpu")
    found = scorer.clip_s({name: [texts[0], f"{texts[0]} zyxwv"], "other.jpg": ["a dog"]})
    assert list(found) == [name]
    (_, plain), (text, with_unknown) = found[name]
    assert text.endswith("zyxwv")
    assert plain == pytest.approx(with_unknown, abs=1e-5)
    assert "does not know these words: zyxwv" in caplog.text
    assert scorer.figures({"other.jpg": "a dog"}) == {}
    assert json.dumps(found)
