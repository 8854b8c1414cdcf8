"""Caption image files without a cluster, with the same code and captions as the bulk job.

.venv/bin/python jobs/caption_image.py photo.jpg another.png
.venv/bin/python jobs/caption_image.py scene.jpg --config configs/caption/demo.yaml --decoding.beam_size 5
.venv/bin/python jobs/caption_image.py photo.jpg --config configs/caption/endpoint.yaml \\
    --captioner.url http://localhost:8000/v1 --captioner.model NAME

Prints one line per image, "file: caption". If images look unlike the captioner's training images, so that
their captions mean little, a line on stderr names them. The default config is the shipped
configs/caption/photographs.yaml; for scenes of the demo world, use --config configs/caption/demo.yaml. The
input and output of the config are ignored.

Exit code 0: all images have captions. 1: an image has none; the reason is on stderr. 2: bad usage or config,
or a file is missing.
"""

import sys
from pathlib import Path

import pyarrow as pa

from glied import storage
from glied.bulk.captioning import (
    CaptionConfig,
    CaptionDatasetConfig,
    caption_factory,
    caption_fetch,
    config_class,
    parse_captioning,
    without_scores,
)
from glied.bulk.items import Stage
from glied.bulk.plan.manifest import planned
from glied.bulk.row_schemas import OK
from glied.bulk.run.totals import unfamiliar_line
from glied.captioner.familiarity import UNFAMILIAR
from glied.config import given_value, split_arguments
from glied.errors import UsageError
from glied.terminal_text import printable

DEFAULT_CONFIGS = {None: "photographs", "glied": "photographs"}
"""Names of the configs by captioner.kind, where they are not the kind's own."""

NAMED = 5
"""Maximum number of unfamiliar images that are named; the line always states their total."""


def check(files: list[str]) -> None:
    """Check that there are files, and that they exist."""
    if not files:
        raise UsageError("no image given: python jobs/caption_image.py FILE...")
    for file in files:
        if Path(file).is_dir():
            raise UsageError(f"{file} is a folder: name its files, or use jobs/caption_dataset.py")
        if not Path(file).is_file():
            raise UsageError(f"{file}: no such file")


def chunk(files: list[str]) -> pa.Table:
    """Return the files as a chunk of the bulk job."""
    sizes = [Path(file).stat().st_size for file in files]
    return planned(id=files, uri=[storage.absolute(file) for file in files], size=sizes)


def stage(config: CaptionConfig) -> Stage:
    """Build the captioning stage, with as many threads as a worker of the bulk job.

    A batch of one image consists of many small operations, which more threads slow down.

    Raises:
        UsageError: the config cannot extract regions from files, or its weights are missing.
    """
    if isinstance(config, CaptionDatasetConfig) and config.regions.kind == "precomputed":
        raise UsageError("regions.kind precomputed cannot extract regions from files: name an extractor")
    import torch  # takes seconds; mistakes on the command line should be reported before

    torch.set_num_threads(config.resources.worker.threads)
    return caption_factory(without_scores(config)).build()


def main() -> int:
    """Caption the files in order."""
    files, options = split_arguments(sys.argv[1:], CaptionDatasetConfig)
    if not any(option.split("=")[0] == "--config" for option in options):
        kind = given_value(options, "captioner.kind")
        config_class(kind)  # refuses others
        options = ["--config", f"caption/{DEFAULT_CONFIGS.get(kind, kind)}.yaml", *options]
    config = parse_captioning(options, description=__doc__, arguments="FILE...")
    check(files)
    rows = stage(config)(caption_fetch(config)(chunk(files))).to_pylist()
    for row in rows:
        if row["status"] == OK:
            print(printable(f"{row['id']}: {row['caption']}"))
        else:
            line = f"{row['id']}: {row['status']}, {row['error_kind']}: {row['error']}"
            print(printable(line), file=sys.stderr)
    known = [row for row in rows if row["familiarity"] is not None]
    if strange := [row["id"] for row in known if row["familiarity"] < UNFAMILIAR]:
        line = f"{unfamiliar_line(len(strange), len(known))}: {', '.join(strange[:NAMED])}"
        print(printable(line), file=sys.stderr)
    return 0 if all(row["status"] == OK for row in rows) else 1
