"""Caption image files, without a cluster; the code and the captions are those of the bulk job.

.venv/bin/python jobs/caption_image.py photo.jpg another.png
.venv/bin/python jobs/caption_image.py scene.jpg --config configs/caption/demo.yaml --decoding.beam_size 5

Prints one line per image, "file: caption". Where images look unlike anything the captioner was trained on, so
that their captions mean little, a line on stderr says how many and which. The config is
configs/caption/photographs.yaml of the repository unless --config names another, such as
configs/caption/demo.yaml for the scenes of the demo world; its input and output are not used.

Exit code 0: every image has its caption. 1: an image has none; the reason is on stderr. 2: bad usage or
config, or a file is missing.
"""

import sys
from pathlib import Path

import pyarrow as pa

from glied import storage
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, fetch_stage
from glied.bulk.chunks import Stage
from glied.bulk.plan.manifest import planned
from glied.bulk.row_schemas import OK
from glied.bulk.run.summary import unfamiliar_line
from glied.captioner.familiarity import UNFAMILIAR
from glied.config import parse, split_arguments
from glied.errors import UsageError

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "caption" / "photographs.yaml"

NAMED = 5
"""Unfamiliar images that are named; their number always is."""


def check(files: list[str]) -> None:
    """Refuse a command without files, or with one that is missing."""
    if not files:
        raise UsageError("no image given: python jobs/caption_image.py FILE...")
    for file in files:
        if not Path(file).is_file():
            raise UsageError(f"{file}: no such file")


def chunk(files: list[str]) -> pa.Table:
    """The files as a chunk of the bulk job."""
    sizes = [Path(file).stat().st_size for file in files]
    return planned(id=files, uri=[storage.absolute(file) for file in files], size=sizes)


def stage(config: CaptionDatasetConfig) -> Stage:
    """The captioning stage, on as many threads as a worker of the bulk job has.

    More threads only wait for each other: a batch of one image is many small operations.

    Raises:
        UsageError: the config finds no regions in files, or its weights are not there.
    """
    if config.regions.kind == "precomputed":
        raise UsageError("regions.kind precomputed finds no regions in files: name a detector in regions")
    import torch  # it takes seconds, and mistakes on the command line are found before

    torch.set_num_threads(config.resources.worker_threads)
    return caption_factory(config).build()


def main() -> int:
    """Caption the files in their order."""
    files, options = split_arguments(sys.argv[1:], CaptionDatasetConfig)
    if not any(option.split("=")[0] == "--config" for option in options):
        options = ["--config", str(DEFAULT_CONFIG), *options]
    config = parse(CaptionDatasetConfig, options, description=__doc__, arguments="FILE...")
    check(files)
    rows = stage(config)(fetch_stage(config.input, config.resources)(chunk(files))).to_pylist()
    for row in rows:
        if row["status"] == OK:
            print(f"{row['id']}: {row['caption']}")
        else:
            print(f"{row['id']}: {row['status']}, {row['error_kind']}: {row['error']}", file=sys.stderr)
    known = [row for row in rows if row["familiarity"] is not None]
    if strange := [row["id"] for row in known if row["familiarity"] < UNFAMILIAR]:
        print(f"{unfamiliar_line(len(strange), len(known))}: {', '.join(strange[:NAMED])}", file=sys.stderr)
    return 0 if all(row["status"] == OK for row in rows) else 1
