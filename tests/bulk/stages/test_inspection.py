"""A run records the same about its models from their metadata as from the loaded models."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glied import checkpoint
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory
from glied.bulk.stages import inspection, model_loading
from glied.config import parse
from glied.errors import UsageError
from tests.bulk.models import model_options

WHERE = ["--input.uri=in", "--output.uri=out"]


def captions(recipe: str, *options: str):
    given = [f"--config=configs/caption/{recipe}.yaml", *WHERE, *options]
    return caption_factory(parse(CaptionDatasetConfig, given))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("demo", []),
        ("demo", ["--clip.checkpoint=glied/weights/demo/clip"]),
        ("photographs", []),  # with a CLIP
    ],
)
def test_metadata_equal_the_loaded_models(recipe: str, options: list[str]) -> None:
    spec = captions(recipe, *options)
    found = inspection.inspect_captions(spec)
    assert found is not None
    assert found == model_loading.inspect_captions(spec)


def test_metadata_of_a_detector_have_everything_that_an_extraction_depends_on() -> None:
    checkpoint_option = "--regions.checkpoint=glied/weights/demo/regions"
    spec = extract_factory(
        parse(ExtractRegionsConfig, ["--config=configs/extract/demo.yaml", *WHERE, checkpoint_option])
    )
    found = inspection.inspect_regions(spec)
    assert found is not None
    assert found == model_loading.inspect_regions(spec)


@pytest.mark.parametrize(
    "option",
    [
        "--clip={model: RN50, allow_random: true}",
        "--clip.checkpoint=glied/weights/demo/regions",
        '--decoding.suppress=["zyzzyva"]',
        "--regions.max_regions=30",
        "--attributes.checkpoint=glied/weights/demo/regions",
        "--captioner.checkpoint=glied/weights/demo/regions",
    ],
)
def test_models_are_loaded_if_metadata_do_not_show_that_they_match(option: str) -> None:
    assert inspection.inspect_captions(captions("demo", option)) is None


def test_a_prompt_that_the_clip_does_not_know_is_refused_before_the_run() -> None:
    spec = captions("photographs", "--clip.prompt=Ein Bild zeigt")
    with pytest.raises(UsageError, match=r"^clip\.prompt: .* these words: Ein, Bild; use other words"):
        spec.inspect()


def test_older_checkpoints_lack_the_extractor_they_were_trained_on(models: Path) -> None:
    options = ["--config=configs/caption/demo.yaml", *WHERE, *model_options(models)]
    spec = caption_factory(parse(CaptionDatasetConfig, options))
    assert inspection.inspect_captions(spec) is None
    assert spec.inspect() == model_loading.inspect_captions(spec)


def test_a_broken_checkpoint_is_refused_without_torch(tmp_path: Path) -> None:
    broken = shutil.copytree("glied/weights/demo/glied", tmp_path / "broken")
    tensors = broken / checkpoint.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(UsageError, match="is broken"):
        inspection.inspect_captions(dataclasses.replace(captions("demo"), captioner=str(broken)))


def test_a_driver_inspects_shipped_models_without_torch() -> None:
    code = """
import sys
from glied.bulk.captioning import CaptionDatasetConfig, caption_job
from glied.bulk.ray.stream import RayStream
from glied.config import parse
for name in ("demo", "photographs"):
    where = [f"--config=configs/caption/{name}.yaml", "--input.uri=in", "--output.uri=out"]
    assert caption_job(parse(CaptionDatasetConfig, where)).model.startswith("glied-")
print("torch" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout == "False\n"
