"""Models record the extractor they were trained on, and refuse regions of a different one."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from glied import checkpoint
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory
from glied.bulk.stages.factories import CaptionFactory
from glied.bulk.stages.model_loading import caption_models
from glied.captioner.captioner import Captioner
from glied.config import parse
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.vision.attributes import load_attributes
from tests.bulk.models import model_options
from tests.training.settings import trainer
from tests.training.tasks import rewarded
from tests.training.test_loop import make_task

TOY = {"weights": "toy", "max_regions": 36, "dtype": "float32"}


def test_only_relevant_differences_are_refused() -> None:
    check_trained_on("a model", None, TOY, "a store")
    check_trained_on(
        "a model", TOY, TOY | {"dtype": "bfloat16", "jpeg": "gpu", "canvas_step": 128}, "a store"
    )
    message = r"^a model was trained on other regions than those of a store: max_regions was 36, is 8\. Use"
    with pytest.raises(UsageError, match=message):
        check_trained_on("a model", TOY, TOY | {"max_regions": 8}, "a store")
    with pytest.raises(UsageError, match="weights was 'toy', is None"):
        check_trained_on("a model", {"weights": "toy"}, {}, "a store")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    rewarded.write_world(tmp_path)
    return tmp_path


def change_store(world: Path) -> None:
    """Write the same regions with the fingerprint of another extractor."""
    shutil.rmtree(world / "features")
    vectors = 4 * np.eye(8)[[i % 4 for i in range(rewarded.IMAGES)]]
    rewarded.write_store(world / "features", vectors, {"weights": "other"})


def test_training_records_the_extractor_and_refuses_another(world: Path) -> None:
    assert Captioner.load(str(world / "start")).extractor == {"weights": "toy"}
    scst, captioner = make_task(world, "scst"), make_task(world, "xe")
    scst.check()
    scst.export(scst.build(), str(world / "rewarded"))
    assert Captioner.load(str(world / "rewarded")).extractor == {"weights": "toy"}
    attributes = AttributesTask(
        config=TrainAttributesConfig(
            train=captioner.config.train, validation=captioner.config.train, trainer=trainer()
        )
    )
    attributes.export(attributes.build(), str(world / "attributes"))
    assert load_attributes(str(world / "attributes")).extractor == {"weights": "toy"}
    assert make_task(world, "xe").data("train")

    change_store(world)
    with pytest.raises(
        UsageError, match=r"start: .*/start was trained on other regions .* weights was 'toy', is"
    ):
        make_task(world, "scst").check()
    with pytest.raises(UsageError, match=r"words\.attributes: .*/attributes was trained on other regions"):
        make_task(world, "xe").data("train")
    (world / "attributes" / checkpoint.EXTRACTOR).unlink()
    (world / "start" / checkpoint.EXTRACTOR).unlink()
    make_task(world, "scst").check()  # checkpoints of earlier versions lack it


def factory(models: Path, *options: str) -> CaptionFactory:
    given = [
        "--config=configs/caption/demo.yaml",
        "--input.uri=in",
        "--output.uri=out",
        *model_options(models),
    ]
    return caption_factory(parse(CaptionDatasetConfig, [*given, *options]))


@pytest.mark.parametrize("part", ["attributes", "captioner"])
def test_captioning_refuses_other_regions_by_name(models: Path, tmp_path: Path, part: str) -> None:
    copied = shutil.copytree(models, tmp_path / "models")
    before = factory(copied).inspect()
    (copied / part / checkpoint.EXTRACTOR).write_text(json.dumps(before.fingerprint["regions"]))
    assert factory(copied).inspect() == before, "the checkpoint's digest is unchanged"
    factory(copied).build()

    other = factory(copied, "--regions.max_regions=5")
    message = rf"{part}\.checkpoint: .*/{part} was trained on other regions .*: max_regions was 6, is 5\. .*"
    for use in (other.inspect, other.build, lambda: caption_models(other)):
        with pytest.raises(UsageError, match=message + "--captioner.other_regions true"):
            use()
    factory(copied, "--regions.max_regions=5", "--captioner.other_regions=true").inspect()
    dataclasses.replace(other, other_regions=True).build()


def test_the_shipped_weights_record_their_extractor(models: Path) -> None:
    config = parse(
        CaptionDatasetConfig, ["--config=configs/caption/demo.yaml", "--input.uri=in", "--output.uri=out"]
    )
    factory = caption_factory(config)
    fingerprint = factory.inspect().fingerprint
    for name in ("attributes", "base", "glied", "glied_cider", "glied_clip_s_grammar"):
        assert checkpoint.load(f"glied/weights/demo/{name}").extractor == fingerprint["regions"]
