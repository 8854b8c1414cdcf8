"""The column `familiarity` of caption runs, with tiny models."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glied import storage
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, caption_pools
from glied.bulk.chunks import run_here
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run, status
from glied.captioner.familiarity import Familiarity
from glied.config import parse
from glied.reports import gallery_page
from glied.vision import images
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from tests.bulk.models import BAD, FEATURES, model_options

CONFIG = "configs/caption/demo.yaml"


@pytest.fixture(scope="module")
def features(models: Path, photos: Path) -> dict[str, np.ndarray]:
    """Region features of each good photo, extracted one by one."""
    extractor = load_extractor(RegionsConfig(checkpoint=str(models / "regions"), max_regions=6))
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.*") if path.suffix != ".txt")
    good = [name for name in names if name not in BAD]
    return {name: extractor([images.read((photos / name).read_bytes()).pixels])[0].features for name in good}


@pytest.fixture(scope="module")
def familiarity(features) -> Familiarity:
    """Fitted to half of the photos; all 200 validation images have the distance of the median photo."""
    fitted = Familiarity.fit(list(features.values())[::2], [np.zeros((1, FEATURES), np.float32)])
    distances = [fitted.distance(one) for one in features.values()]
    return dataclasses.replace(fitted, distances=np.full(200, np.median(distances), np.float32))


@pytest.fixture(scope="module")
def knowing(models, familiarity, tmp_path_factory) -> Path:
    """The tiny models, with a captioner that has familiarity."""
    folder = shutil.copytree(models, tmp_path_factory.mktemp("knowing") / "models")
    familiarity.save(str(folder / "captioner"))
    return folder


@pytest.fixture
def configure(knowing, photos, tmp_path) -> Callable[..., CaptionDatasetConfig]:
    def make(*options: str) -> CaptionDatasetConfig:
        where = [f"--input.uri={photos}", f"--output.uri={tmp_path / 'out'}", "--output.unit_size=16"]
        return parse(CaptionDatasetConfig, [f"--config={CONFIG}", *where, *model_options(knowing), *options])

    return make


def execute(config: CaptionDatasetConfig):
    return bulk_run.execute(caption_job(config), run_here(Fetch(pause=0.0), caption_factory(config).build()))


def rows_of(folder: Path) -> dict[str, dict]:
    files = sorted(folder.glob("captions/*.parquet"))
    return {row["id"]: row for file in files for row in pq.read_table(file).to_pylist()}


def test_every_captioned_row_has_familiarity_and_the_run_counts_unfamiliar_images(
    configure, tmp_path, features, familiarity
):
    summary = execute(configure())
    rows = rows_of(tmp_path / "out")
    expected = {name: familiarity(one) for name, one in features.items()}
    assert {name: row["familiarity"] for name, row in rows.items()} == expected | dict.fromkeys(BAD)
    assert set(expected.values()) == {1 / 201, 1.0}
    strange = [name for name, value in expected.items() if value < 0.01]
    assert all(rows[name]["status"] == "ok" and rows[name]["caption"] for name in strange)
    assert (summary.images_rated, summary.images_unfamiliar) == (58, len(strange))
    assert summary.images_unfamiliar == 29
    line = "29 of 58 images look unlike anything the captioner was trained on (familiarity below 0.01)"
    assert line in summary.lines()
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (stored["images_rated"], stored["images_unfamiliar"]) == (58, 29)
    state = status.status(status.open_run(str(tmp_path / "out")))
    assert (state.images_rated, state.images_unfamiliar) == (58, 29)
    again = execute(configure())  # totals come from the commit records
    assert (again.images_this_time, again.images_unfamiliar) == (0, 29)
    shown = gallery_page.entry(rows[strange[0]])
    assert shown["scores"]["familiarity"] == 0.005


def test_familiarity_depends_neither_on_the_batch_nor_on_the_pools(configure, photos, features, familiarity):
    config = configure("--resources.worker.batch_size=7")
    split = configure("--resources.pools=split", "--resources.worker.batch_size=3")
    names = list(features)
    table = planned(id=names, uri=[storage.absolute(str(photos / name)) for name in names])
    fetched = Fetch(pause=0.0)(table)
    whole = caption_factory(config).build()(fetched)
    first, second = (pool.factory.build() for pool in caption_pools(split))
    for found in (whole, second(first(fetched))):
        assert found.schema.field("familiarity").type == pa.float64()
        assert found["familiarity"].to_pylist() == [familiarity(features[name]) for name in names]


def test_a_captioner_without_familiarity_gives_null_and_no_summary_line(models, configure, tmp_path):
    summary = execute(configure(f"--captioner.checkpoint={models / 'captioner'}"))
    assert {row["familiarity"] for row in rows_of(tmp_path / "out").values()} == {None}
    assert (summary.images_rated, summary.images_unfamiliar) == (0, 0)
    assert "look unlike" not in "\n".join(summary.lines())
    assert (
        "familiarity"
        not in caption_job(configure(f"--captioner.checkpoint={models / 'captioner'}")).fingerprint
    )
    assert "familiarity" in caption_job(configure()).fingerprint
