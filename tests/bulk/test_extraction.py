import dataclasses

import pytest

from glied.bulk.captioning import (
    CaptionDatasetConfig,
    caption_factory,
    caption_job,
    caption_pools,
    fetch_stage,
)
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.config import parse
from glied.errors import UsageError
from glied.vision.extractors.region_extractor import load_extractor
from tests.stores import StoredRegions


def test_a_feature_store_with_a_row_per_image(models, photos, tmp_path):
    options = ["--config=configs/extract/demo.yaml", f"--regions.checkpoint={models / 'regions'}"]
    options += [f"--input.uri={photos}", f"--output.uri={tmp_path}", "--output.unit_size=20"]
    config = parse(ExtractRegionsConfig, options)
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 58, "rejected": 2}
    store = StoredRegions(str(tmp_path / "features"))
    assert len(store) == 58  # rows with regions
    assert store.fingerprint == load_extractor(config.regions).fingerprint
    turned = store["turned.jpg"]
    assert (turned.width, turned.height) == (40, 60)
    assert turned.features.shape == (len(turned.labels), 16)


def test_captions_of_stored_regions_equal_those_of_the_images(models, photos, tmp_path):
    names = [
        f"--attributes.checkpoint={models / 'attributes'}",
        f"--captioner.checkpoint={models / 'captioner'}",
    ]
    detector = [
        "--regions.detector.min_regions=4",
        "--regions.max_regions=36",
        f"--regions.checkpoint={models / 'regions'}",
    ]
    images = parse(
        CaptionDatasetConfig, [*names, *detector, f"--input.uri={photos}", f"--output.uri={tmp_path / 'a'}"]
    )
    fetch, factory = fetch_stage(images.input, images.resources), caption_factory(images)
    bulk_run.execute(caption_job(images), run_here(fetch, factory.build()))
    wanted = {row["id"]: row for row in read_rows(str(tmp_path / "a"))}

    stage = dataclasses.replace(factory, part="regions").build()  # leaves features as the detector gave them
    extraction = parse(
        ExtractRegionsConfig, [*detector, f"--input.uri={photos}", f"--output.uri={tmp_path / 'store'}"]
    )
    bulk_run.execute(extract_job(extraction), run_here(fetch, stage))
    store = ["--input.form=features", f"--input.uri={tmp_path / 'store'}", "--regions.kind=precomputed"]
    config = parse(CaptionDatasetConfig, [*names, *store, f"--output.uri={tmp_path / 'b'}"])
    stored = caption_factory(config)
    assert caption_pools(config)[0].factory == stored
    summary = bulk_run.execute(
        caption_job(config), run_here(fetch_stage(config.input, config.resources), stored.build())
    )
    assert summary.statuses == {"ok": 58, "rejected": 2}
    assert summary.errors == {"no_regions": 2}
    for row in read_rows(str(tmp_path / "b")):
        if row["status"] == "ok":
            same = ("caption", "regions", "width", "height", "uri")
            assert [row[name] for name in same] == [wanted[row["id"]][name] for name in same]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input.form=features", "--regions.model=x"], "belong together"),
        (["--regions.kind=precomputed"], "belong together"),
        (["--regions.kind=precomputed", "--regions.model=x"], "takes no checkpoint"),
        (["--regions.kind=precomputed", "--input.form=features", "--resources.pools=split"], "one pool"),
    ],
)
def test_stored_regions_and_detectors_exclude_each_other(options, message):
    common = ["--input.uri=a", "--output.uri=b", "--attributes.checkpoint=c", "--captioner.checkpoint=d"]
    with pytest.raises(UsageError, match=message):
        parse(CaptionDatasetConfig, [*common, *options])
    with pytest.raises(UsageError):
        parse(ExtractRegionsConfig, [*common[:2], *options])
