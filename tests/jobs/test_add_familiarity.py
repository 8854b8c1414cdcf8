"""Adding familiarity to captioners that lack it, and the familiarity of the demo world's captioners."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glied.captioner.captioner import Captioner
from glied.captioner.familiarity import FILE, UNFAMILIAR
from glied.commands.add_familiarity import Config, add
from glied.errors import UsageError
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from tests.jobs.conftest import ROOT
from tests.training.tasks import rewarded

DEMO = ROOT / "glied" / "weights" / "demo"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    rewarded.write_world(tmp_path)
    return tmp_path


def config(world: Path, **options: object) -> Config:
    stores = {"train": str(world / "features"), "validation": str(world / "features")}
    return Config(**{"captioner": str(world / "start"), **stores, **options})


def test_the_file_is_written_once_and_changes_neither_weights_nor_digest(world):
    (world / "start" / FILE).unlink(missing_ok=True)
    before = Captioner.load(str(world / "start")).digest
    report = json.loads(json.dumps(add(config(world))))
    captioner = Captioner.load(str(world / "start"))
    assert captioner.digest == before
    assert report["digest"] == captioner.familiarity.digest
    assert report["validation_images"] == rewarded.IMAGES
    with pytest.raises(UsageError, match=rf"has {FILE} already: --replace true"):
        add(config(world))
    assert add(config(world, replace=True)) == report


def test_stores_of_another_extractor_are_refused(world):
    rewarded.write_store(world / "other", np.eye(rewarded.IMAGES, 8), {"weights": "other"})
    with pytest.raises(UsageError, match="was trained on other regions"):
        add(config(world, validation=str(world / "other"), replace=True))


def test_demo_captioners_distinguish_scenes_from_photographs():
    extractor = load_extractor(RegionsConfig(checkpoint=str(DEMO / "regions"), short_side=256))
    names = ["test-000130.jpg", "test-000410.jpg", *(f"photographs/{name}.jpg" for name in ("cat", "wren"))]
    pictures = [np.array(Image.open(ROOT / "docs" / "images" / name).convert("RGB")) for name in names]
    features = [regions.features for regions in extractor(pictures)]
    for name in ("base", "glied", "glied_cider", "glied_clip_s_grammar"):
        familiarity = Captioner.load(str(DEMO / name)).familiarity
        assert [familiarity(one) < UNFAMILIAR for one in features] == [False, False, True, True]
