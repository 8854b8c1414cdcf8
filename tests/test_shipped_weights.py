"""The weights that ship: their sizes, precision and model card."""

import re
from pathlib import Path

import pytest
import safetensors.numpy

WEIGHTS = Path(__file__).resolve().parent.parent / "glied" / "weights"


@pytest.mark.parametrize(("world", "most"), [("demo", 30e6), ("photographs", 60e6)])
def test_weights_fit_their_budget_in_half_precision(world: str, most: float) -> None:
    files = list((WEIGHTS / world).rglob("*"))
    assert 20e6 < sum(file.stat().st_size for file in files if file.is_file()) < most
    stored = [safetensors.numpy.load_file(file) for file in files if file.name == "model.safetensors"]
    assert len(stored) >= 5
    for tensors in stored:
        assert {one.dtype.str for one in tensors.values() if one.dtype.kind == "f"} == {"<f2"}
    assert {file.suffix for file in files if file.is_file()} <= {".json", ".safetensors", ".md", ""}


def test_the_model_card_of_the_photographs_lists_what_ships() -> None:
    card = (WEIGHTS / "photographs" / "README.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) MB \|$", card, re.MULTILINE))
    sizes = {
        file.parent: file.stat().st_size for file in (WEIGHTS / "photographs").glob("*/model.safetensors")
    }
    assert {name: float(size) for name, size in listed.items()} == {
        folder.name: round(size / 1e6, 1) for folder, size in sizes.items()
    }
    whole = sum(file.stat().st_size for file in (WEIGHTS / "photographs").rglob("*") if file.is_file())
    assert f"{whole / 1e6:.0f} MB together" in card


def test_the_clip_of_the_photographs_reads_images_with_their_backbone() -> None:
    backbone, clip = (
        safetensors.numpy.load_file(WEIGHTS / "photographs" / name / "model.safetensors")
        for name in ("backbone", "clip")
    )
    for name, tensor in backbone.items():
        assert (clip[f"visual.trunk.{name}"] == tensor).all(), name
