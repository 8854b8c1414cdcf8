"""The stream on Ray: files of unknown size, many shards, time-outs, full stores, and deadly images."""

import io
import logging
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.util
from ray.exceptions import OutOfDiskError, RayTaskError

from glied.bulk.arrow_tables import from_ipc, seconds_of, to_ipc
from glied.bulk.captioning import CaptionDatasetConfig, caption_job
from glied.bulk.config import ChunkConfig, InputConfig, RecoveryConfig, ResourcesConfig, WorkerConfig
from glied.bulk.items import ActorPoolSpec, Chunk, StreamBroken
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.ray.actors import FetchChunks
from glied.bulk.ray.shortage import Shortage
from glied.bulk.ray.stream import FEW_SHARDS, RayStream, watched
from glied.bulk.run import bulk_run
from glied.config import parse
from glied.errors import JobError, UsageError
from tests.bulk.deadly import Deadly, Mistaken
from tests.bulk.models import model_options

ROOT = Path(__file__).resolve().parents[3]
CHUNK = Chunk(0, 0, planned(id=["a"], uri=["a"], size=[1]))


def test_a_silent_stream_times_out():
    def batches():
        yield 1
        yield 2
        time.sleep(30)

    stream = watched(batches(), 1.0)
    assert [next(stream), next(stream)] == [1, 2]
    start = time.monotonic()
    with pytest.raises(StreamBroken, match=r"no chunk was done for 1 s"):
        next(stream)
    assert time.monotonic() - start < 10


def test_a_watched_stream_passes_on_its_end_and_its_errors():
    assert list(watched(iter(range(5)), 5.0)) == [0, 1, 2, 3, 4]

    def failing():
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(watched(failing(), 5.0))


def test_files_of_unknown_size_are_split_into_bounded_pieces(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(1000))
    names = [str(tmp_path / f"{number}.jpg") for number in range(10)]
    for sizes, pieces in (([1000] * 10, [(5, 10)]), ([None] * 10, [(5, 3), (8, 3), (11, 3), (14, 1)])):
        chunk = planned(id=names, uri=names, size=sizes)
        batch = pa.table({"units": [[7]], "starts": [[5]], "tables": [[to_ipc(chunk)]]})
        rows = [row for one in FetchChunks(Fetch(), 3000)(batch) for row in one.to_pylist()]
        tables = [from_ipc(row["table"]) for row in rows]
        found = [(row["start"], table.num_rows) for row, table in zip(rows, tables, strict=True)]
        assert found == pieces
        assert [one for table in tables for one in table["id"].to_pylist()] == names
        assert all("fetch" in seconds_of(table) for table in tables)


@pytest.fixture
def stream(ray_session):
    pool = ActorPoolSpec(factory=Deadly(kills="", hangs=""), workers=1, cpus=1.0, gpus=0.0, threads=1)
    return RayStream(Fetch(), [pool], ResourcesConfig())


def test_many_parquet_files_are_read_by_tasks(stream, tmp_path):
    for number in range(FEW_SHARDS + 4):
        ids = [f"{number}-{row}" for row in range(3)]
        table = pa.table({"image": [b"x"] * 3, "key": ids, f"c{number}": [1] * 3})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    for options in ({}, {"id_column": "key"}):
        config = InputConfig(uri=str(tmp_path), form="parquet", **options)
        sources = [open_source(config, "/nowhere", *index) for index in ((stream.in_order,), ())]
        by_tasks, here = (pa.concat_tables(inputs(source, config)) for source in sources)
        assert by_tasks.equals(here)
        assert by_tasks.num_rows == 3 * (FEW_SHARDS + 4)
        assert sources[0].columns == sources[1].columns
        assert len(sources[0].columns) == FEW_SHARDS + 4 + (not options)


def test_many_shards_are_read_by_tasks(stream, tmp_path):
    for number in range(FEW_SHARDS + 4):
        with tarfile.open(tmp_path / f"{number:02d}.tar", "w") as tar:
            for name in ("a.jpg", "b.jpg"):
                tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    config = InputConfig(uri=str(tmp_path), form="webdataset")
    by_tasks, here = (
        pa.concat_tables(inputs(open_source(config, "/nowhere", *index), config))
        for index in ((stream.in_order,), ())
    )
    assert by_tasks.equals(here)
    assert by_tasks.num_rows == 2 * (FEW_SHARDS + 4)
    assert os.getpid() not in stream.in_order(_process, range(FEW_SHARDS))
    assert set(stream.in_order(_process, range(FEW_SHARDS - 1))) == {os.getpid()}


def _process(_: int) -> int:
    return os.getpid()


def test_errors_of_tasks_are_reported_unchanged(stream, tmp_path):
    for number in range(FEW_SHARDS + 1):
        name = "image" if number < FEW_SHARDS else "picture"
        pq.write_table(pa.table({name: [b"x"]}), tmp_path / f"{number:02d}.parquet")
    config = InputConfig(uri=str(tmp_path), form="parquet")
    with pytest.raises(UsageError, match=r"^\S+16\.parquet: no input\.image_column 'image'"):
        list(inputs(open_source(config, "/nowhere", stream.in_order), config))


@pytest.mark.timeout(280)
def test_missing_gpus_are_reported(ray_session):
    resources = ResourcesConfig(
        worker=WorkerConfig(gpus=1.0, accelerator="L4"), recovery=RecoveryConfig(wait_s=2)
    )
    pool = ActorPoolSpec(factory=Deadly("", ""), workers=2, cpus=1.0, gpus=1.0, threads=1, accelerator="L4")
    with pytest.raises(JobError) as caught:
        list(RayStream(Fetch(), [pool], resources)([CHUNK]))
    assert re.fullmatch(
        r"the cluster has no room for \(1 CPU, 1 GPU, L4\) and \(0\.5 CPU, 0 GPU\) after \d+ s "
        r"\(resources\.recovery\.wait_s\): it has \(6 CPU, 0 GPU.*\); "
        r"nothing adds nodes: ask for less, or start such nodes",
        str(caught.value),
    )


@pytest.mark.timeout(280)
def test_a_mistake_that_a_worker_finds_ends_the_job_in_one_line(ray_session, capfd):
    pools = [
        ActorPoolSpec(factory=factory, workers=1, cpus=1.0, gpus=0.0, threads=1)
        for factory in (Mistaken(), Deadly("", ""))  # the second pool passes it on
    ]
    with pytest.raises(UsageError, match=r"^captioner\.device: cuda, but there is no GPU here$"):
        list(RayStream(Fetch(), pools, ResourcesConfig())([CHUNK]))
    shown = "".join(capfd.readouterr())
    assert "Traceback" not in shown
    assert "captioner.device" not in shown  # once, by the job itself


@pytest.mark.timeout(280)
def test_chunks_that_an_object_store_cannot_hold_are_refused(ray_session):
    resources = ResourcesConfig(chunk=ChunkConfig(bytes=100 << 20))
    pool = ActorPoolSpec(factory=Deadly("", ""), workers=1, cpus=1.0, gpus=0.0, threads=1)
    with pytest.raises(
        UsageError, match=r"chunk\.bytes: 104857600 .* object store, which has 536870912 bytes"
    ):
        list(RayStream(Fetch(), [pool], resources)([CHUNK]))


def test_only_a_lack_of_space_is_reported_as_one():
    log = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    with Shortage.watched() as shortage:
        log.error("An exception was raised", exc_info=ValueError("an image"))
        shortage.check()
        log.error("...", exc_info=RayTaskError("fetch", "a traceback", OutOfDiskError("Local disk is full")))
        with pytest.raises(JobError, match=r"\(Local disk is full\)"):
            shortage.check()
    assert shortage not in logging.getLogger("ray.data").handlers


@pytest.mark.timeout(280)
def test_a_full_object_store_stops_the_job_and_blames_no_image(tmp_path):
    command = [sys.executable, "-m", "tests.bulk.full_store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=270)
    assert done.returncode == 0, done.stderr[-3000:]
    filled, end = done.stdout.splitlines()[-2:]
    assert re.fullmatch(r"7\d MB are full", filled)
    assert end.startswith("error: the object store of a node is full (Local disk is full): free its disk")


@pytest.mark.timeout(280)
def test_images_that_end_every_worker_are_the_only_ones_to_fail(ray_session, models, photos, tmp_path):
    options = ["--config=configs/caption/demo.yaml", f"--input.uri={photos}", f"--output.uri={tmp_path}"]
    options += [*model_options(models), "--output.unit_size=30", "--resources.chunk.images=10"]
    options += [f"--resources.recovery.{one}" for one in ("restarts=1", "rounds=2", "chunk_s=2")]
    config = parse(CaptionDatasetConfig, options)
    deadly = Deadly(kills="cmyk.jpg", hangs="turned.jpg")
    pool = ActorPoolSpec(factory=deadly, workers=1, cpus=1.0, gpus=0.0, threads=1)
    summary = bulk_run.execute(caption_job(config), RayStream(Fetch(), [pool], config.resources))
    assert (summary.statuses, summary.errors) == ({"ok": 58, "failed": 2}, {"worker_lost": 2})
    assert summary.units_missing == 0
    left = [name for name in ray.util.list_named_actors() if name.startswith("glied-")]
    assert left == [], "no worker process is left after the stream"
