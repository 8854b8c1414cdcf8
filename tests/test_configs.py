"""Every file under configs/ is parsed by its job, and its header contains its command."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from glied.bulk import captioning
from glied.config import given_value, parse

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
CONFIGS = {
    "regions": ("glied.training.tasks.regions", "TrainRegionsConfig"),
    "backbone": ("glied.training.tasks.backbone", "TrainBackboneConfig"),
    "attributes": ("glied.training.tasks.attributes", "TrainAttributesConfig"),
    "captioner": ("glied.training.tasks.captioner", "TrainCaptionerConfig"),
    "scst": ("glied.training.tasks.scst", "TrainScstConfig"),
    "clip": ("glied.training.tasks.clip", "TrainClipConfig"),
    "grammar": ("glied.training.tasks.grammar", "FinetuneGrammarConfig"),
    "extract": ("glied.bulk.extraction", "ExtractRegionsConfig"),
    "prepare": ("glied.data.prepare", "PrepareConfig"),
    "import": ("glied.bulk.importing", "ImportFeaturesConfig"),
    "caption": ("glied.bulk.captioning", "CaptionDatasetConfig"),
    "teach": ("glied.teach.config", "TeachConfig"),
}


def test_all_files_are_covered() -> None:
    assert len(FILES) == 97
    assert {file.parent.name for file in FILES} == set(CONFIGS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_config_loads_and_its_header_has_the_command(file: Path) -> None:
    module, name = CONFIGS[file.parent.name]
    config_class = getattr(importlib.import_module(module), name)
    if file.parent.name == "caption":
        config_class = captioning.config_class(given_value(["--config", str(file)], "captioner.kind"))
    assert isinstance(parse(config_class, ["--config", str(file)]), config_class)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config {file.relative_to(ROOT)}" in line for line in header)
    assert any("Expected" in line for line in header)
    assert not re.search(r"to be measured|Expected: [A-Z]+$", "\n".join(header), re.MULTILINE)


def test_photographs_are_captioned_with_the_regions_of_the_training() -> None:
    """All settings but the data type, which changes features little and depends on the user's processor."""
    files = [ROOT / "configs" / kind / "photographs.yaml" for kind in ("caption", "extract")]
    caption, extract = (yaml.safe_load(file.read_text())["regions"] for file in files)
    for regions in (caption, extract):
        del regions["compute"]["dtype"]
    assert caption == extract
