"""Images of a run for the gallery: thumbnails, and explanations of their captions."""

import base64
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import torch
from PIL import Image

from glied import run_folder, storage
from glied.bulk.captioning import CaptionDatasetConfig, fetch_stage, region_factory
from glied.bulk.config import InputConfig, ResourcesConfig
from glied.bulk.plan import manifest
from glied.bulk.plan.manifest import Manifest
from glied.bulk.plan.sources.feature_stores import ReadStore
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.row_schemas import OK
from glied.bulk.stages.model_loading import caption_models, regions_fingerprint
from glied.captioner.captioner import Captioner
from glied.captioner.explain import Explanation
from glied.config import build
from glied.config_keys import with_new_keys
from glied.data import features
from glied.errors import UsageError
from glied.regions import Regions
from glied.reports.gallery_page import model_text
from glied.vision.decoder_pool import DecoderPool
from glied.vision.extractors.region_extractor import RegionExtractor
from glied.vision.images import Picture

Row = dict[str, Any]

THUMBNAIL_SIDE = 480
THUMBNAIL_QUALITY = 78
IMAGE_FORMS = ("files", "webdataset", "parquet", "table")
AT_ONCE = 16
"""Number of images in memory at a time."""


def _record(run_uri: str) -> dict[str, Any]:
    """Read the run.json of a run.

    Raises:
        UsageError: the folder is not a run.
    """
    record = run_folder.read_record(run_uri)
    if record is None or not {"input", "config"} <= record.keys():
        raise UsageError(f"{run_uri}/run.json is not that of a run: it is missing, or lacks input or config")
    return record


def read_pictures(
    run_uri: str,
    rows: Sequence[Row],
    resolution: tuple[int, int] | None = None,
    *,
    images: str | None = None,
) -> Iterator[Picture | None]:
    """Read a run's first images again, with the code that read them for captioning.

    Args:
        run_uri: the run folder.
        rows: the first rows of `glied.bulk.run.committed_rows.read_rows`.
        resolution: as in `glied.vision.images.read`; by default enough for thumbnails.
        images: folder or prefix of the images, named by id; by default the location from which the run, or
            the run that made its feature store, read them.

    Yields:
        The picture of each row; None if the row is not ok or the image can no longer be read.

    Raises:
        UsageError: the folder is not a run.
    """
    source, planned = _images(run_uri, rows, images)
    fetch = fetch_stage(source, ResourcesConfig())
    if isinstance(fetch, Fetch):  # the run has already checked these rows' URIs
        fetch = dataclasses.replace(fetch, uris=None)
    size = resolution or (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    with DecoderPool(1, resolution=size, missing_rows=source.max_missing_rows) as decoder:
        for start in range(0, len(rows), AT_ONCE):
            batch = rows[start : start + AT_ONCE]
            wanted = [row["id"] for row in batch if row["status"] == OK and row["id"] in planned]
            fetched = (
                fetch(pa.concat_tables([planned[name] for name in wanted])).to_pylist() if wanted else []
            )
            there = [one for one in fetched if one["data"] is not None]
            decoded = decoder.decode([one["data"] for one in there])
            found = {one["id"]: item for one, item in zip(there, decoded, strict=True)}
            for row in batch:
                item = found.get(row["id"])
                yield item if isinstance(item, Picture) else None


def sees_images(run_uri: str, images: str | None = None) -> bool:
    """Whether the location of a run's images is known; it is not for features imported from elsewhere."""
    return _images(run_uri, (), images)[0].form != "features"


def _images(run_uri: str, rows: Sequence[Row], images: str | None) -> tuple[InputConfig, dict[str, pa.Table]]:
    """Return how the images of a run are read, and the planned row of each image by id."""
    plan = _plan(run_uri)
    source = build(InputConfig, _record(run_uri)["input"])
    if images is not None:
        root = storage.absolute(images)
        uris = {row["id"]: storage.join(root, row["id"]) for row in rows}
        source = InputConfig(uri=root, max_bytes=source.max_bytes, max_missing_rows=source.max_missing_rows)
        return source, {name: manifest.planned(id=[name], uri=[uri]) for name, uri in uris.items()}
    if source.form != "features":
        return source, _by_id(_first(plan, len(rows)))
    folder = source.uri.rstrip("/").removesuffix("/features")
    store = manifest.load(folder)
    made_from = _record(folder)["input"] if store is not None else {}
    if store is None or made_from.get("form") not in IMAGE_FORMS:  # features from elsewhere
        return source, {}
    return build(InputConfig, made_from), _search(store, {row["id"] for row in rows})


def _plan(run_uri: str) -> Manifest:
    plan = manifest.load(run_uri)
    if plan is None:
        raise UsageError(f"{run_uri} is no run of jobs/caption_dataset.py: it has no manifest")
    return plan


def _by_id(table: pa.Table) -> dict[str, pa.Table]:
    return {str(name): table.slice(place, 1) for place, name in enumerate(table["id"].to_pylist())}


def _search(plan: Manifest, wanted: set[str]) -> dict[str, pa.Table]:
    """Find the planned rows of some ids anywhere in a plan."""
    found: dict[str, pa.Table] = {}
    for unit in plan.read_units(range(plan.units)):
        if len(found) == len(wanted):
            break
        found |= {name: row for name, row in _by_id(unit.table).items() if name in wanted}
    return found


def _first(plan: Manifest, count: int) -> pa.Table:
    """Return the first inputs of a plan."""
    units = range(min(plan.units, -(-count // plan.unit_size)))
    tables = [unit.table for unit in plan.read_units(units)]
    return pa.concat_tables(tables).slice(0, count) if tables else manifest.planned(id=[], uri=[])


def thumbnail(picture: Picture) -> str:
    """Encode an image as base64 WebP of at most `THUMBNAIL_SIDE` pixels per side."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
    return base64.b64encode(sink.getvalue()).decode()


def read_regions(run_uri: str, rows: Sequence[Row]) -> Iterator[Regions | None]:
    """Yield the stored regions of the first rows of a run over a feature store; None for missing ones."""
    planned, read = _by_id(_first(_plan(run_uri), len(rows))), ReadStore()
    for row in rows:
        there = row["status"] == OK and row["id"] in planned
        stored = read(planned[row["id"]]).to_pylist()[0] if there else None
        yield features.read(stored) if stored is not None and stored["status"] == OK else None


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; explaining consists of many small operations, which more threads slow down."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Explainer:
    """Explains the captions of a run with its models, loaded again."""

    def __init__(self, extractor: RegionExtractor | None, captioner: Captioner) -> None:
        """Both models must be on one device; `extractor` is None for runs over a feature store."""
        self.extractor = extractor
        self.captioner = captioner

    @classmethod
    def load(cls, run_uri: str) -> "Explainer":
        """Load the models that run.json names, on the CPU if the run's device is not available.

        Raises:
            UsageError: a checkpoint is missing or is not the one of the run.
        """
        record = _record(run_uri)
        kind = record["config"].get("captioner", {}).get("kind", "glied")
        if kind != "glied":
            raise UsageError(f"captioner.kind {kind} has no attention over regions")
        values = with_new_keys(CaptionDatasetConfig, record["config"], warn=False)
        factory = region_factory(_runnable(build(CaptionDatasetConfig, values)))
        extractor, captioner = caption_models(factory)
        mine = {"regions": regions_fingerprint(factory, extractor), "captioner": captioner.digest}
        for name, value in json.loads(json.dumps(mine)).items():
            if record["fingerprint"].get(name) != value:
                raise UsageError(f"{name}: the weights or settings differ from those of the run")
        return cls(extractor, captioner)

    def __call__(self, row: Row, picture: Picture, stored: Regions | None) -> tuple[Regions, Explanation]:
        """Explain a caption over the regions of its image, either `stored` or extracted again."""
        regions = stored
        if regions is None:
            assert self.extractor is not None, "a run over a feature store has stored regions"
            (found,) = self.extractor([picture.pixels])
            regions = found.scaled(picture.width, picture.height)
        attributes = [(one["word"], one["probability"]) for one in row["attributes"] or []]
        return regions, self.captioner.explain(regions, attributes, model_text(row))


def _runnable(config: CaptionDatasetConfig) -> CaptionDatasetConfig:
    """A run's config without what only pays for many images, and on the CPU where there is no GPU."""
    device = config.regions.device if torch.cuda.is_available() else "cpu"
    return dataclasses.replace(
        config,
        regions=dataclasses.replace(
            config.regions,
            device=device,
            compute=dataclasses.replace(config.regions.compute, compile=False),
        ),
        captioner=dataclasses.replace(config.captioner, cuda_graphs=False),
    )
