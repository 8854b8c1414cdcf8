"""A small captioned run with real images and tiny models, and a parser of its gallery page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glied.bulk.captioning import (
    CaptionDatasetConfig,
    caption_factory,
    caption_fetch,
    caption_job,
    parse_captioning,
)
from glied.bulk.chunks import run_here
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.commands import gallery
from glied.config import lists_as_json, parse
from tests.bulk.models import model_options

NAMES = [f"{number}.png" for number in range(5)] + ['it\'s a "quote" & <b>.png']
BROKEN = ["empty.png", "text.png"]


def make_run(folder: Path, models: Path) -> Path:
    """Caption six images and two broken files; later images have better references in captions.json."""
    source = folder / "in"
    source.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in NAMES:
        pixels = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(source / name)
    (source / "empty.png").write_bytes(b"")
    (source / "text.png").write_text("no image")
    options = ["--config=configs/caption/demo.yaml", *model_options(models), "--output.unit_size=3"]
    options += [f"--input.uri={source}", f"--output.uri={folder / 'run'}"]
    options += ["--regions.detector.min_regions=16", "--regions.max_regions=16"]  # more than a word lights
    config = parse(CaptionDatasetConfig, options)
    bulk_run.execute(caption_job(config), run_here(Fetch(pause=0.0), caption_factory(config).build()))
    captions = {row["id"]: row["caption"] for row in read_rows(str(folder / "run"))}
    images = [{"id": number, "file_name": name} for number, name in enumerate(NAMES)]
    annotations = [
        {"id": 0, "image_id": number, "caption": text}
        for number, name in enumerate(NAMES)
        for text in (" ".join([*captions[name].split()[: number + 1], "zebra"]), f"the cat number {number}")
    ]
    content = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    return folder


def caption_photographs(folder: Path) -> Path:
    """Caption the photographs of the demo with the shipped weights; return the run folder."""
    out = folder / "photographs"
    options = ["--config=configs/caption/photographs.yaml", "--input.uri=docs/images/photographs"]
    config = parse(CaptionDatasetConfig, [*options, f"--output.uri={out}"])
    bulk_run.execute(caption_job(config), run_here(Fetch(pause=0.0), caption_factory(config).build()))
    return out


def demo_options(places: dict[str, Path]) -> list[str]:
    """Return the options of jobs/gallery.py in `make demo`, with other paths in place of demo/."""
    (line,) = re.findall(r"^\t.*jobs/gallery\.py (.*)", Path("Makefile").read_text(), re.MULTILINE)
    return lists_as_json([str(places.get(option, option)) for option in line.split()], gallery.LISTS)


class Page(HTMLParser):
    """A parsed page: its tags, and the data that its script reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.policy = ""
        self._in_data = False
        self._data = ""
        self.feed(text)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self._data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_data = ("id", "data") in attrs
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self._data += data

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False


def caption_with_endpoint(folder: Path, url: str) -> Path:
    """Caption four images by two prompts with text rules, but keep the caption beside the first of them."""
    source = folder / "in"
    source.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (160, 120), (number * 8, 0, 0)).save(source / f"{number}.png")
    (source / "0.txt").write_text("an old caption")
    options = [f"--input.uri={source}", f"--output.uri={folder / 'run'}", f"--captioner.url={url}"]
    options += ["--captioner.model=tiny", '--captioner.prompts={"short": "Say.", "long": "Describe."}']
    options += ["--text.existing.sidecar=txt", "--text.lower_case=true", "--text.trigger=sks"]
    config = parse_captioning(["--config=configs/caption/endpoint.yaml", *options])
    bulk_run.execute(caption_job(config), run_here(caption_fetch(config), caption_factory(config).build()))
    return folder / "run"
