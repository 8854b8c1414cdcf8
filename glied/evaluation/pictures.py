"""The images of a run seen once more: pictures of them, and what the words of their captions looked at."""

import base64
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from glied import storage
from glied.bulk import manifest
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, fetch_stage
from glied.bulk.config import InputConfig, ResourcesConfig
from glied.bulk.loading import caption_models
from glied.bulk.manifest import Manifest
from glied.bulk.sinks import OK
from glied.captioner.captioner import Captioner
from glied.captioner.explain import Explanation
from glied.config import build
from glied.errors import UsageError
from glied.vision.decoding import DecoderPool
from glied.vision.images import Picture
from glied.vision.regions import RegionExtractor, Regions

Row = dict[str, Any]

THUMBNAIL_SIDE = 480
THUMBNAIL_QUALITY = 78
AT_ONCE = 16
"""Images whose bytes and pixels are in memory together."""


def read_record(run_uri: str) -> dict[str, Any]:
    """The run.json of a run.

    Raises:
        UsageError: the folder holds no run.
    """
    uri = storage.join(run_uri, "run.json")
    try:
        record = json.loads(storage.read_bytes(uri))
        if not {"input", "config", "fingerprint"} <= record.keys():
            raise ValueError("it lacks input, config or fingerprint")
    except (FileNotFoundError, ValueError, AttributeError) as error:
        raise UsageError(f"{uri} is not the record of a run: {error}") from error
    return record


def read_pictures(
    run_uri: str, rows: Sequence[Row], resolution: tuple[int, int] | None = None
) -> Iterator[Picture | None]:
    """A run's first images once more, through the code that captioned them.

    Args:
        run_uri: the run folder.
        rows: the first rows of `glied.bulk.results.read_rows`.
        resolution: as in `glied.vision.images.read`; by default what thumbnails need.

    Yields:
        Per row its picture; None where the row is not ok or the image cannot be read any more.

    Raises:
        UsageError: the folder holds no run.
    """
    plan = manifest.load(run_uri)
    if plan is None:
        raise UsageError(f"{run_uri} is no run of jobs/caption_dataset.py: it has no manifest")
    source = build(InputConfig, read_record(run_uri)["input"])
    if source.form == "features":  # a run over stored regions has not seen the images
        yield from (None for _ in rows)
        return
    fetch = fetch_stage(source, ResourcesConfig())
    planned = _first(plan, len(rows))
    size = resolution or (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    with DecoderPool(1, resolution=size, missing_rows=source.max_missing_rows) as decoder:
        for start in range(0, len(rows), AT_ONCE):
            batch = rows[start : start + AT_ONCE]
            ok = pa.array([row["status"] == OK for row in batch])
            fetched = fetch(planned.slice(start, AT_ONCE).filter(ok)).to_pylist()
            good = [one["data"] is not None for one in fetched]
            decoded = iter(decoder.decode([one["data"] for one in fetched if one["data"] is not None]))
            found = iter([next(decoded) if there else None for there in good])
            for row in batch:
                item = next(found) if row["status"] == OK else None
                yield item if isinstance(item, Picture) else None


def _first(plan: Manifest, count: int) -> pa.Table:
    """The first inputs of a plan."""
    units = range(min(plan.units, -(-count // plan.unit_size)))
    tables = [unit.table for unit in plan.read_units(units)]
    return pa.concat_tables(tables).slice(0, count) if tables else manifest.planned(id=[], uri=[])


def thumbnail(picture: Picture) -> str:
    """The image as base64 WebP, at most `THUMBNAIL_SIDE` pixels a side."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return base64.b64encode(sink.getvalue()).decode()


class Explainer:
    """The models of a run, loaded again to say what each word of its captions looked at."""

    def __init__(self, extractor: RegionExtractor, captioner: Captioner) -> None:
        """Both on one device."""
        self.extractor = extractor
        self.captioner = captioner

    @classmethod
    def load(cls, run_uri: str) -> "Explainer":
        """Load what run.json names; on the CPU where the run's device is not here.

        Raises:
            UsageError: a checkpoint is missing or is not the one that captioned the run.
        """
        record = read_record(run_uri)
        config = build(CaptionDatasetConfig, record["config"])
        if not torch.cuda.is_available():
            config = dataclasses.replace(config, regions=dataclasses.replace(config.regions, device="cpu"))
        extractor, captioner = caption_models(caption_factory(config))
        mine = {"regions": dict(extractor.fingerprint), "captioner": captioner.digest}
        for name, value in json.loads(json.dumps(mine)).items():
            if record["fingerprint"].get(name) != value:
                raise UsageError(f"{name}: the weights or settings are no longer those of the run")
        return cls(extractor, captioner)

    def __call__(self, row: Row, picture: Picture) -> tuple[Regions, Explanation]:
        """The regions of an image, found once more, and the explanation of its caption over them."""
        (found,) = self.extractor([picture.pixels])
        regions = found.scaled(picture.width, picture.height)
        attributes = [(one["word"], one["probability"]) for one in row["attributes"] or []]
        return regions, self.captioner.explain(regions, attributes, row["caption"])
