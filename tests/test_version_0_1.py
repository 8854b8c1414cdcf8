"""Files of version 0.1 still work: run folders, feature stores, checkpoints, training states, configs.

`tests/fixtures/v0_1/README.md` describes how the files were made.
"""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import torch

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, fetch_stage
from glied.bulk.chunks import run_here
from glied.bulk.exports.config import ExportConfig
from glied.bulk.exports.export import export
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import load_grammar
from glied.commands import gallery, status
from glied.config import parse
from glied.data import coco, features
from glied.regions import RegionBatch
from glied.reports.evaluate import EvaluateConfig, evaluate
from glied.text.references import load_frequencies
from glied.training.local_trainer import train_here
from glied.training.tasks.backbone import BackboneTask  # noqa: F401  # torchvision after fast_imports
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.training.tasks.scst import ScstTask, TrainScstConfig
from glied.vision import images
from glied.vision.attributes import load_attributes
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from tests.test_configs import CONFIGS

FIXTURES = Path(__file__).parent / "fixtures" / "v0_1"
FILES = sorted((FIXTURES / "configs").rglob("*.yaml"))
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
INPUT = "--input.uri=memory://scenes/val/images"
STORE = "runs/features_tiny/val"
CAPTION_OPTIONS = [
    "--config=configs/caption/demo.yaml",
    INPUT,
    "--output.uri=runs/captions",
    "--output.unit_size=2",
    "--regions.checkpoint=runs/regions_tiny/best",
    "--regions.max_regions=8",
    "--attributes.checkpoint=runs/attributes_tiny/best",
    "--captioner.checkpoint=runs/glied_tiny/best",
    "--decoding.max_length=8",
    "--resources.workers=1",
    "--resources.chunk_images=2",
]
CAPTIONERS = {name: f"runs/{name}_tiny/best" for name in ("glied", "up_down", "soft_att", "ct")} | {
    "scst": "runs/scst_tiny/cider/best"
}


@pytest.fixture
def old(tmp_path: Path, monkeypatch) -> Path:
    """A copy of the files; the images are in fsspec's memory file system, where the runs read them."""
    folder = shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(folder)
    filesystem = fsspec.filesystem("memory")
    for path in sorted((folder / "data" / "scenes_tiny" / "val" / "images").glob("*.jpg")):
        filesystem.pipe_file(f"/scenes/val/images/{path.name}", path.read_bytes())
    return folder


def caption(*options: str) -> int:
    config = parse(CaptionDatasetConfig, [*CAPTION_OPTIONS, *options])
    stages = fetch_stage(config.input, config.resources), caption_factory(config).build()
    return bulk_run.exit_code(bulk_run.execute(caption_job(config), run_here(*stages)))


def extract(*options: str) -> int:
    config = parse(ExtractRegionsConfig, options)
    stages = fetch_stage(config.input, config.resources), extract_factory(config).build()
    return bulk_run.exit_code(bulk_run.execute(extract_job(config), run_here(*stages)))


def kill_before_last_unit(run: Path, results: str) -> None:
    """Delete the files that a killed run would lack."""
    for path in (*run.glob("commits/unit-000001-*"), *run.glob(f"{results}/unit-000001-*")):
        path.unlink()
    (run / "summary.json").unlink()


def check_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]], *keys: str) -> None:
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    for row, one in zip(rows, expected, strict=True):
        for key in keys:
            assert row[key] == one[key], key
        found = [caption["log_probability"] for caption in row["captions"]]
        assert found == pytest.approx([caption["log_probability"] for caption in one["captions"]], abs=1e-3)


# ---- configs


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_config_files_with_all_keys_load(file: Path) -> None:
    module, name = CONFIGS[file.parent.name]
    config_class = getattr(importlib.import_module(module), name)
    assert isinstance(parse(config_class, ["--config", str(file)]), config_class)


def test_there_is_a_config_file_of_each_job() -> None:
    assert {file.parent.name for file in FILES} == set(CONFIGS) - {"teach"}  # jobs/teach.py came with 0.2


# ---- bulk runs


def test_a_caption_run_is_complete_and_readable(old: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["status.py", "runs/captions", "--verify"])
    assert status.main() == 0
    assert "verified 2 units, violations: 0" in capsys.readouterr().out
    captions = {row["id"]: row["caption"] for row in read_rows("runs/captions")}
    assert list(captions) == EXPECTED["ids"]
    report = export(ExportConfig(run="runs/captions", out="out/jsonl", form="jsonl"))
    assert (report.written, report.planned) == (4, 2)
    export(ExportConfig(run="runs/captions", out="out/coco.json", form="coco"))
    assert {one["caption"] for one in json.loads(Path("out/coco.json").read_text())} == {*captions.values()}
    references = "data/scenes_tiny/val/captions.json"
    scored = evaluate(EvaluateConfig(captions="runs/captions", references=references, metrics=["CIDEr"]))
    assert scored.systems[0].captions == captions


def test_a_caption_run_resumes_with_the_same_rows(old: Path) -> None:
    expected = list(read_rows("runs/captions"))
    kill_before_last_unit(old / "runs" / "captions", "captions")
    assert caption() == 0
    check_same(list(read_rows("runs/captions")), expected, "caption", "model", "familiarity", "width")


def test_a_gallery_explains_a_caption_run(old: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["gallery.py", "--run", "runs/captions", "--out", "gallery.html"])
    assert gallery.main() == 0
    assert capsys.readouterr().out.startswith("4 images, 4 of them explained: gallery.html")


def test_a_feature_store_is_read_and_its_extraction_resumes(old: Path) -> None:
    names = {path.name for path in Path(STORE, "features").iterdir()}
    fingerprint = features.fingerprint(STORE)
    assert features.feature_size(STORE) == 32
    kill_before_last_unit(Path(STORE), "features")
    options = [f"--output.uri={STORE}", "--output.unit_size=2", "--resources.chunk_images=2"]
    assert extract("--config=configs/extract/demo_tiny.yaml", INPUT, *options) == 0
    assert features.fingerprint(STORE) == fingerprint
    assert {path.name for path in Path(STORE, "features").iterdir()} == names
    assert features.image_ids(STORE) == EXPECTED["ids"]


@pytest.mark.parametrize("kind", ["clip", "clip_grid"])
def test_extractors_have_the_same_fingerprint(old: Path, kind: str) -> None:
    extractor = load_extractor(
        RegionsConfig(
            kind=kind,  # type: ignore[arg-type]
            short_side=64 if kind == "clip_grid" else 0,
            clip=ClipConfig(checkpoint="runs/grammar_tiny/best"),
        )
    )
    stored = json.loads(Path("runs", kind, "run.json").read_text())["fingerprint"]["regions"]
    assert json.loads(json.dumps(dict(extractor.fingerprint))) == stored


# ---- checkpoints


def stored_regions() -> list[Any]:
    rows = [row for path in features.paths(STORE) for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == EXPECTED["ids"]
    return [features.read(row) for row in rows]


@pytest.mark.parametrize("name", CAPTIONERS)
def test_a_captioner_gives_the_same_captions(old: Path, name: str) -> None:
    expected = EXPECTED["captioners"][name]
    captioner = Captioner.load(CAPTIONERS[name], DecodingConfig(beam_size=2, max_length=8))
    attributes = [[(word, share) for word, share in one] for one in EXPECTED["attributes"]]
    found = [captions[0] for captions in captioner.caption(stored_regions(), attributes)]
    assert captioner.digest == expected["digest"]
    assert [one.text for one in found] == [text for text, _ in expected["captions"]]
    assert [one.log_probability for one in found] == pytest.approx(
        [value for _, value in expected["captions"]], abs=1e-3
    )


def test_a_detector_and_an_attribute_predictor_find_the_same(old: Path) -> None:
    extractor = load_extractor(RegionsConfig(checkpoint="runs/regions_tiny/best", max_regions=8))
    assert json.loads(json.dumps(dict(extractor.fingerprint))) == features.fingerprint(STORE)
    first = stored_regions()[0]
    pixels = images.decode(Path("data/scenes_tiny/val/images", EXPECTED["ids"][0]).read_bytes())
    (found,) = extractor([pixels])
    assert found.labels == first.labels
    torch.testing.assert_close(torch.tensor(found.boxes), torch.tensor(first.boxes), rtol=1e-3, atol=0.1)
    top = load_attributes("runs/attributes_tiny/best").top(RegionBatch.collate(stored_regions()), 4)
    for found_words, expected in zip(top, EXPECTED["attributes"], strict=True):
        assert [word for word, _ in found_words] == [word for word, _ in expected]


def test_a_clip_and_its_grammar_head_score_the_same(old: Path) -> None:
    scorer = load_grammar(ClipConfig(checkpoint="runs/grammar_tiny/best"))
    assert scorer.clip.fingerprint["weights"] == EXPECTED["clip_fingerprint"]
    grammatical, vectors = scorer.score(EXPECTED["texts"])
    assert grammatical.tolist() == pytest.approx(EXPECTED["grammar"], abs=1e-4)
    folder = Path("data/scenes_tiny/val/images")
    pixels = [images.decode((folder / image_id).read_bytes()) for image_id in EXPECTED["ids"]]
    cosines = (scorer.clip.encode_images(pixels) * vectors).sum(dim=1)
    assert cosines.tolist() == pytest.approx(EXPECTED["clip"], abs=1e-4)


def test_a_table_of_document_frequencies_loads(old: Path) -> None:
    captioner = Captioner.load("runs/glied_tiny/best")
    captions = coco.load_captions("data/scenes_tiny/train/captions.json")
    assert len(load_frequencies("runs/cider_tiny", captions, captioner.vocabulary)) == 635


# ---- training runs


def train_losses(run: str) -> list[float]:
    lines = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize(
    ("config_class", "task_class", "file", "paused", "options"),
    [
        (
            TrainCaptionerConfig,
            CaptionerTask,
            "captioner/glied_tiny.yaml",
            "glied_paused",
            ["--words.attribute_count=4", "--model.width=16", "--model.heads=2"],
        ),
        (TrainScstConfig, ScstTask.of, "scst/cider_tiny.yaml", "scst_paused", ["--sampling.samples=2"]),
    ],
)
def test_a_resumed_training_run_equals_an_uninterrupted_one(
    old: Path, config_class: Any, task_class: Any, file: str, paused: str, options: list[str]
) -> None:
    whole = {"glied_paused": "runs/glied_tiny", "scst_paused": "runs/scst_tiny/cider"}[paused]
    common = ["--trainer.batch_size=2", "--trainer.checkpoint_every_steps=2", "--trainer.log_every_steps=1"]
    output = f"--trainer.output=runs/{paused}"
    config = parse(config_class, [f"--config=configs/{file}", *options, *common, output])
    result = train_here(task_class(config), config.trainer)
    assert (result["complete"], result["steps"]) == (True, 3)
    assert train_losses(f"runs/{paused}") == pytest.approx(train_losses(whole), rel=1e-4)
