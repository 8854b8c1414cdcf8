"""Bulk runs in this process, without Ray."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_job, caption_pools
from glied.bulk.chunks import run_here
from glied.bulk.items import StreamBroken
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run, committed_rows
from glied.bulk.run.summary import Summary
from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score
from glied.config import parse
from glied.errors import JobError, UsageError
from glied.vision import images
from tests.bulk.models import BAD, model_options

CONFIG = "configs/caption/demo.yaml"


@pytest.fixture
def configure(models: Path, photos: Path, tmp_path: Path) -> Callable[..., CaptionDatasetConfig]:
    def make(*options: str) -> CaptionDatasetConfig:
        where = [f"--input.uri={photos}", f"--output.uri={tmp_path / 'out'}", "--output.unit_size=16"]
        return parse(CaptionDatasetConfig, [f"--config={CONFIG}", *where, *model_options(models), *options])

    return make


def execute(config: CaptionDatasetConfig, **fetch) -> Summary:
    return bulk_run.execute(
        caption_job(config), run_here(Fetch(pause=0.0, **fetch), caption_factory(config).build())
    )


def read_rows(folder: Path) -> list[dict]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("captions/*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


def test_every_file_gets_a_row(configure, tmp_path, photos):
    summary = execute(configure())
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert rows.keys() == {str(path.relative_to(photos)) for path in photos.rglob("*.*")} - {"notes.txt"}
    assert len(rows) == 60
    assert {id: row["error_kind"] for id, row in rows.items() if row["status"] != "ok"} == BAD
    turned = rows["turned.jpg"]
    assert (turned["width"], turned["height"]) == (40, 60)
    assert all(0 <= x <= 40 for region in turned["regions"] for x in region["box"][::2])
    assert turned["caption"] == turned["captions"][0]["text"]
    assert len(turned["captions"]) == 3
    assert turned["attributes"][0].keys() == {"word", "probability"}
    assert summary.statuses == {"ok": 58, "rejected": 2}
    assert (summary.units_done, summary.skipped_files) == (4, 1)
    assert bulk_run.exit_code(summary) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["statuses"] == summary.statuses


def test_captions_do_not_depend_on_chunks_batches_and_units(configure, tmp_path):
    execute(configure())
    other = ["--output.unit_size=7", "--resources.chunk.images=3", "--resources.worker.batch_size=2"]
    execute(configure(f"--output.uri={tmp_path / 'other'}", *other))
    pairs = [{row["id"]: row["caption"] for row in read_rows(tmp_path / name)} for name in ("out", "other")]
    assert pairs[0] == pairs[1]


@pytest.mark.slow
def test_regions_of_a_large_image_are_in_original_pixels(configure, tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (17, 25, 3), dtype=np.uint8))
    for scale in (20, 160):
        photo.resize((25 * scale, 17 * scale)).save(tmp_path / f"{scale}.png")
    summary = execute(configure(f"--input.uri={tmp_path}", "--output.uri", str(tmp_path / "out")))
    assert summary.statuses == {"ok": 2}
    large, small = sorted(read_rows(tmp_path / "out"), key=lambda row: -row["width"])
    assert (large["width"], large["height"]) == (4000, 2720)
    boxes = [np.array([one["box"] for one in row["regions"]]) for row in (large, small)]
    assert boxes[0].max() > 1000
    assert boxes[0].shape == boxes[1].shape
    np.testing.assert_allclose(boxes[0] / 8, boxes[1], atol=8)


def test_two_pools_give_the_same_captions_as_one(configure, tmp_path):
    execute(configure())
    config = configure(f"--output.uri={tmp_path / 'other'}", "--resources.pools=split")
    stages = [pool.factory.build() for pool in caption_pools(config)]
    assert len(stages) == 2
    summary = bulk_run.execute(caption_job(config), run_here(Fetch(), *stages))
    assert {"decode", "regions", "attributes", "captions"} <= summary.stage_seconds.keys()
    rows = [read_rows(tmp_path / name) for name in ("out", "other")]
    for name in ("id", "caption", "captions", "status", "error_kind", "width", "regions", "model"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]


@pytest.mark.slow
def test_clip_scores_on_request(configure, tmp_path):
    clip = ["--clip.model=RN50", "--clip.allow_random=true"]
    assert execute(configure(*clip, "--input.limit=3")).statuses == {"ok": 2, "rejected": 1}
    rows = [row for row in read_rows(tmp_path / "out") if row["status"] == "ok"]
    scorer = load_clip(ClipConfig(model="RN50", allow_random=True))
    for row in rows:
        image = images.decode(Path(row["uri"]).read_bytes())
        expected = clip_score(scorer.encode_images([image]), scorer.encode_texts([row["caption"]])).item()
        assert row["clip_score"] == pytest.approx(expected, abs=1e-5)
    fingerprint = json.loads((tmp_path / "out" / "run.json").read_text())["fingerprint"]["clip"]
    assert fingerprint == scorer.fingerprint


def test_cuda_graphs_without_a_gpu_are_refused(configure):
    with pytest.raises(UsageError, match=r"captioner\.cuda_graphs needs a GPU in regions\.device"):
        configure("--captioner.cuda_graphs")


def test_a_finished_run_is_not_changed(configure, tmp_path):
    execute(configure())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/c*/*")}
    assert len(before) == 8
    for path in tmp_path.glob("out/commits/*"):
        path.chmod(0)  # root can still read them; a finished run is recognized by its file names
    again = execute(configure())
    assert (again.images_this_time, again.units_done_earlier) == (0, 4)
    assert again.statuses == {"ok": 58, "rejected": 2}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/c*/*")} == before


def test_an_output_without_commit_record_is_adopted(configure, tmp_path):
    execute(configure())
    (record,) = tmp_path.glob("out/commits/unit-000001-*.g0.json")
    (output,) = tmp_path.glob("out/captions/unit-000001-*.g0.parquet")
    rows = output.read_bytes()
    digest = json.loads(record.read_text())["sha256"]
    record.unlink()
    summary = execute(configure())
    assert (summary.images_this_time, summary.units_done) == (0, 4)
    again = json.loads(record.read_text())
    assert (again["adopted"], again["sha256"], again["rows"]) == (True, digest, 16)
    assert output.read_bytes() == rows


def test_a_foreign_file_with_the_name_of_a_unit_is_not_adopted(configure, tmp_path):
    execute(configure())
    next(tmp_path.glob("out/commits/unit-000001-*")).unlink()
    next(tmp_path.glob("out/captions/unit-000001-*")).write_bytes(b"something else")
    with pytest.raises(JobError, match="is in the way"):
        execute(configure())


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--decoding.beam_size=4", "decoding.beam_size was 3 and is now 4"),
        ("--caption_version=2", 'caption_version was "1" and is now "2"'),
        ("--input.limit=5", "input.limit was null and is now 5"),
    ],
)
def test_a_mismatched_fingerprint_is_refused_with_the_difference(configure, option, named):
    execute(configure("--resources.chunk.images=60"))
    with pytest.raises(UsageError, match=named):
        execute(configure(option))


def test_overwrite_starts_a_new_run(configure, tmp_path):
    execute(configure())
    summary = execute(configure("--output.mode=overwrite", "--input.limit=20", "--decoding.beam_size=4"))
    assert (summary.images, summary.images_this_time) == (20, 20)
    assert len(read_rows(tmp_path / "out")) == 20


def test_a_driver_whose_run_is_overwritten_does_not_change_the_new_run(configure, tmp_path):
    config = configure("--resources.chunk.images=5")
    here = run_here(Fetch(), caption_factory(config).build())

    def stream(chunks, *, isolated=False):
        yield from here(chunks[:5])
        execute(configure("--output.mode=overwrite", "--input.limit=20"))
        yield from here(chunks[5:])

    with pytest.raises(JobError, match="was overwritten by another job"):
        bulk_run.execute(caption_job(config), stream)
    assert len(list(committed_rows.read_rows(str(tmp_path / "out")))) == 20
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 20


def test_storage_failures_are_not_image_failures(configure, tmp_path, photos):
    config = configure("--resources.recovery.rounds=1")

    def stream(chunks, *, isolated=False):
        for chunk in chunks:
            if chunk.unit == 1:  # deleted after the listing
                gone = [f"{uri}.gone" for uri in chunk.table["uri"].to_pylist()]
                chunk = replace(chunk, table=chunk.table.set_column(1, "uri", [gone]))
            yield from run_here(Fetch(pause=0.0), stage)([chunk])

    stage = caption_factory(config).build()
    summary = bulk_run.execute(caption_job(config), stream)
    assert bulk_run.exit_code(summary) == 1
    assert "unit 1 is not committed: storage failed for 16 of 16 images" in summary.problems[0]
    assert (summary.units_done, len(read_rows(tmp_path / "out"))) == (3, 44)
    assert execute(config).units_done == 4


def test_the_limits_of_the_storage_alarm_are_configurable(configure, tmp_path, photos):
    stage = caption_factory(configure()).build()

    def stream(chunks, *, isolated=False):
        for chunk in chunks:  # deleted after the listing
            gone = [f"{uri}.gone" for uri in chunk.table["uri"].to_pylist()]
            yield from run_here(Fetch(pause=0.0), stage)(
                [replace(chunk, table=chunk.table.set_column(1, "uri", [gone]))]
            )

    with pytest.raises(JobError, match="storage failed in 1 units"):
        bulk_run.execute(caption_job(configure("--resources.fetch.broken_units=1")), stream)
    summary = bulk_run.execute(caption_job(configure("--resources.fetch.storage_budget=1.0")), stream)
    assert summary.errors["storage"] == 60
    assert bulk_run.exit_code(summary) == 1
    with pytest.raises(UsageError, match=r"resources\.fetch\.storage_budget: 2\.0 is not between 0 and 1"):
        configure("--resources.fetch.storage_budget=2.0")


def test_lost_chunks_are_repeated_in_the_next_round(configure, tmp_path):
    config = configure("--resources.chunk.images=5")
    here = run_here(Fetch(), caption_factory(config).build())
    rounds, isolations = [], []

    def stream(chunks, *, isolated=False):
        isolations.append(isolated)
        rounds.append([(chunk.unit, chunk.start, chunk.table.num_rows) for chunk in chunks])
        yield from here(chunks[3 - len(rounds) :])  # two are lost, then one, then none

    summary = bulk_run.execute(caption_job(config), stream)
    assert (summary.units_done, summary.images_this_time) == (4, 60)
    singles = [(0, image, 1) for image in range(10)]
    assert (len(rounds[0]), rounds[1:]) == (15, [singles, singles[:1]])
    assert isolations == [False, True, True]
    assert len({row["id"] for row in read_rows(tmp_path / "out")}) == 60


def lose(config: CaptionDatasetConfig, wanted: set[str]) -> Summary:
    """Run a job whose workers die on some images."""
    here = run_here(Fetch(), caption_factory(config).build())

    def stream(chunks, *, isolated=False):
        yield from here([chunk for chunk in chunks if wanted.isdisjoint(chunk.table["id"].to_pylist())])

    return bulk_run.execute(caption_job(config), stream)


def test_images_that_are_lost_every_time_fail_and_are_retried_on_request(configure, tmp_path):
    config = configure("--output.mode=retry_failed", "--error_budget=0.1")
    summary = lose(config, {"turned.jpg", "cmyk.jpg"})
    assert (summary.statuses, summary.errors["worker_lost"]) == ({"ok": 56, "rejected": 2, "failed": 2}, 2)
    assert bulk_run.exit_code(summary) == 0
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/captions/*")}

    lost_again = lose(config, {"turned.jpg"})
    assert lost_again.statuses == {"ok": 57, "rejected": 2, "failed": 1}
    summary = execute(config)
    assert (summary.statuses, summary.images_this_time) == ({"ok": 58, "rejected": 2}, 1)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/captions/*")}
    assert sum(name in before and before[name] == time for name, time in after.items()) == 2
    assert sorted(name.split(".")[1] for name in after) == ["g0", "g0", "g1", "g2"]
    assert len(list(tmp_path.glob("out/commits/*"))) == 4
    rows = read_rows(tmp_path / "out")
    assert len({row["id"] for row in rows}) == len(rows) == 60
    execute(configure(f"--output.uri={tmp_path / 'plain'}"))
    assert [row["caption"] for row in rows] == [row["caption"] for row in read_rows(tmp_path / "plain")]
    assert execute(config).images_this_time == 0


def test_a_broken_stream_does_not_blame_the_images(configure):
    config = configure("--resources.chunk.images=5")
    here = run_here(Fetch(), caption_factory(config).build())

    isolations = []

    def stream(chunks, *, isolated=False):
        isolations.append(isolated)
        yield from here(chunks[:2])
        raise StreamBroken("the cluster went away")

    summary = bulk_run.execute(caption_job(config), stream)
    assert (summary.units_done, summary.units_missing, bulk_run.exit_code(summary)) == (1, 3, 1)
    assert isolations == [False] * 3, "chunks stay whole"
    assert execute(config).statuses == {"ok": 58, "rejected": 2}


def test_two_jobs_share_a_run(configure, tmp_path):
    summary = execute(configure("--output.shard=1/3"))
    assert (summary.units_done, summary.units_missing, bulk_run.exit_code(summary)) == (1, 0, 0)
    for shard in ("2/3", "0/3"):
        summary = execute(configure(f"--output.shard={shard}"))
    assert (summary.units_done, summary.images_this_time) == (4, 28)
    assert len({row["id"] for row in read_rows(tmp_path / "out")}) == 60


def test_an_existing_run_is_an_error_on_request(configure):
    execute(configure("--output.mode=error"))
    with pytest.raises(UsageError, match="holds a run"):
        execute(configure("--output.mode=error"))


def test_input_columns_pass_through(configure, tmp_path, photos):
    rows = [
        {"uri": str(photos / name), "caption": f"alt {name}", "n": 1} for name in ("cmyk.jpg", "text.jpg")
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"uri": "gone.jpg", "n": [2]}])))
    options = [f"--input.uri={tmp_path / 't.jsonl'}", "--input.form=table", f'--input.allow=["{photos}"]']
    summary = execute(configure(*options), form="table")
    assert summary.statuses == {"ok": 1, "rejected": 2}
    found = read_rows(tmp_path / "out")
    assert [(row["status"], row["input_caption"], row["n"]) for row in found] == [
        ("ok", "alt cmyk.jpg", "1"), ("rejected", "alt text.jpg", "1"), ("rejected", None, "[2]"),
    ]  # fmt: skip
    assert found[0]["caption"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input.uri=nowhere"], "input.uri nowhere: no such folder"),
        (["--input.uri=README.md"], "not a folder"),
        (['--input.extensions=["xyz"]'], "no images there; 61 files have other extensions"),
        (["--output.uri=pyproject.toml/out"], "output.uri pyproject.toml/out is not usable"),
        (["--captioner.checkpoint=nowhere"], "no checkpoint in nowhere"),
        (
            ["--captioner.checkpoint=glied/weights/none"],
            "weights that ship with this installation: .*glied/weights/demo/glied,",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(configure, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        execute(configure(*options))
    assert not (tmp_path / "out").exists()


def test_the_output_may_be_inside_the_input(configure, tmp_path, photos):
    folder = tmp_path / "all"
    folder.mkdir()
    os.link(photos / "turned.jpg", folder / "turned.jpg")
    options = [f"--input.uri={folder}", f"--output.uri={folder / 'out'}", '--input.extensions=["*"]']
    (folder / "out").mkdir()
    (folder / "out" / "old.txt").write_text("not an input")
    assert execute(configure(*options)).images == 1
