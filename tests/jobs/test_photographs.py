"""The recipe for photographs at a small size: from the user's own data to evaluated captions.

The images are photographs with real captions if ../shared has them, else scenes with real captions.
"""

import json
from pathlib import Path

import pytest

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, fetch_stage
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.run import bulk_run
from glied.captioner.captioner import Captioner
from glied.commands import evaluate, prepare_coco
from glied.config import parse
from glied.data import coco, features
from glied.demo_world.dataset import write_split
from glied.errors import UsageError
from glied.text.vocabulary import Vocabulary, load_words
from glied.vision.attributes import load_attributes
from tests.jobs.conftest import ROOT
from tests.jobs.local_training import load_task, train_here

SHARED = ROOT.parent / "shared" / "data"
IMAGES = 40


def write_photographs(folder: Path) -> None:
    """Write captions.json in COCO's format, and images/."""
    if not (SHARED / "photos").is_dir():
        write_split(folder, "train", IMAGES, 0, 1)
        return
    lines = map(json.loads, (SHARED / "flickr8k_captions.jsonl").read_text().splitlines())
    found = [line for line in lines if (SHARED / "photos" / line["image"]).is_file()][:IMAGES]
    (folder / "images").mkdir(parents=True)
    for line in found:
        data = (SHARED / "photos" / line["image"]).read_bytes()
        (folder / "images" / line["image"]).write_bytes(data)
    every = [coco.CaptionedImage(i, line["image"], line["captions"]) for i, line in enumerate(found)]
    (folder / "captions.json").write_bytes(coco.write_captions(every))


def config_of(kind: str) -> str:
    return f"--config={ROOT / 'configs' / kind / 'coco_tiny.yaml'}"


def extract_here(split: str) -> dict[str, int]:
    table = [f"--input.uri=data/coco_tiny/{split}/images.csv", "--input.form=table", "--input.id_column=id"]
    table.append("--input.allow=[data/own_tiny/images]")
    output = f"--output.uri=runs/coco_tiny/features/{split}"
    config = parse(ExtractRegionsConfig, [config_of("extract"), *table, output])
    fetch = fetch_stage(config.input, config.resources)
    return bulk_run.execute(extract_job(config), run_here(fetch, extract_factory(config).build())).statuses


def caption_here() -> dict[str, int]:
    config = parse(CaptionDatasetConfig, [config_of("caption")])
    fetch = fetch_stage(config.input, config.resources)
    return bulk_run.execute(caption_job(config), run_here(fetch, caption_factory(config).build())).statuses


@pytest.mark.timeout(400)
def test_a_captioner_is_trained_with_a_reward_on_photographs_with_captions(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photographs(tmp_path / "data" / "own_tiny")
    monkeypatch.setattr(
        "sys.argv", ["prepare_coco.py", f"--config={ROOT / 'configs' / 'prepare' / 'own_tiny.yaml'}"]
    )
    assert prepare_coco.main() == 0
    found = {split: extract_here(split) for split in coco.SPLITS}
    assert found == {"train": {"ok": IMAGES - 16}, "val": {"ok": 8}, "test": {"ok": 8}}

    assert 0 <= train_here("attributes/coco_tiny.yaml")["map"] <= 1
    words = load_words("data/coco_tiny/attributes.json")
    assert load_attributes("runs/coco_tiny/attributes/best").words == words
    assert train_here("captioner/glied_coco_tiny.yaml")["cider"] >= 0
    captioner = Captioner.load("runs/coco_tiny/glied/best")
    assert captioner.vocabulary.digest == Vocabulary(load_words("data/coco_tiny/vocabulary.json")).digest

    load_task("scst/cider_coco_tiny.yaml").check()
    assert train_here("scst/cider_coco_tiny.yaml")["reward"] >= 0
    assert caption_here() == {"ok": 8}
    scored = ["--captions=runs/coco_tiny/captions", "--references=data/coco_tiny/test/captions.json"]
    monkeypatch.setattr(
        "sys.argv", ["evaluate.py", *scored, "--metrics", "CIDEr", "BLEU", "--out=results.json"]
    )
    assert evaluate.main() == 0
    assert "CIDEr" in Path("results.json").read_text()


def test_training_refuses_stores_of_different_extractors(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        folder = tmp_path / "runs" / "coco_tiny" / "features" / split
        folder.mkdir(parents=True)
        table = features.write([], [], fingerprint={"extractor": split})
        (folder / "unit.parquet").write_bytes(features.parquet_bytes(table))
    for name in ("attributes/coco_tiny.yaml", "captioner/glied_coco_tiny.yaml"):
        with pytest.raises(UsageError, match=r"were extracted differently: extractor is 'val' and 'train'"):
            load_task(name).data("train")
