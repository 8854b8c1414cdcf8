"""Runs over tables of web links, many of them dead, on hosts of this machine."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import web_hosts
from benchmarks.web_hosts import Hosts
from glied.bulk import row_schemas
from glied.bulk.captioning import CaptionDatasetConfig, caption_job, caption_pools, fetch_stage
from glied.bulk.chunks import run_here
from glied.bulk.run import bulk_run, committed_rows
from glied.bulk.run.summary import Summary
from glied.bulk.stages.describe import Row
from glied.bulk.stages.stage import DecodeImages, DescribeStage
from glied.clock import Clock
from glied.config import parse
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import Picture
from tests.bulk.models import model_options

LINKS = 1000


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    sink = io.BytesIO()
    Image.effect_noise((32, 24), 50).save(sink, "PNG")
    with web_hosts.start([sink.getvalue()], latency_s=0.002) as running:
        yield running


@pytest.fixture
def configure(models: Path, tmp_path: Path) -> Callable[..., CaptionDatasetConfig]:
    def make(links: list[str], *options: str) -> CaptionDatasetConfig:
        (tmp_path / "links.csv").write_text("\n".join(["uri", *links]) + "\n")
        where = [f"--input.uri={tmp_path / 'links.csv'}", f"--output.uri={tmp_path / 'out'}"]
        size = [
            "--output.unit_size=250",
            "--resources.chunk.images=250",
            "--resources.fetch.web.silence_s=0.5",
        ]
        fixed = ["--config=configs/caption/demo.yaml", "--input.form=table", "--input.allow_private=true"]
        return parse(CaptionDatasetConfig, [*fixed, *where, *size, *model_options(models), *options])

    return make


class Sizes:
    """Describes an image by its size, which is faster than any model."""

    schema = row_schemas.CAPTIONS
    model = "sizes"

    def __call__(self, batch: Sequence[Picture], clock: Clock) -> list[Row]:
        return [
            {"caption": f"{one.width} x {one.height}", "width": one.width, "height": one.height}
            for one in batch
        ]


def execute(config: CaptionDatasetConfig) -> Summary:
    fetch = fetch_stage(config.input, config.resources)
    with DecoderPool(1) as decoder:
        return bulk_run.execute(
            caption_job(config), run_here(fetch, DescribeStage(DecodeImages(decoder), Sizes()))
        )


def kinds(folder: Path) -> dict[str, str | None]:
    return {row["uri"]: row["error_kind"] for row in committed_rows.read_rows(str(folder / "out"))}


def test_dead_links_affect_only_their_rows(hosts, configure, tmp_path):
    expected = hosts.urls(LINKS, dead=0.4)
    config = configure(list(expected))
    summary = execute(config)
    assert kinds(tmp_path) == expected
    assert summary.statuses == {"ok": 600, "failed": 360, "rejected": 40}
    assert summary.failed_hosts == 360
    assert (bulk_run.exit_code(summary), summary.units_missing, summary.problems) == (0, 0, [])
    text = (tmp_path / "out" / "summary.json").read_text()
    assert "s3cr3t" not in text
    assert "s3cr3t" not in "\n".join(summary.lines())
    assert all("s3cr3t" not in str(row["error"]) for row in committed_rows.read_rows(str(tmp_path / "out")))

    sent = hosts.requests()
    assert max(sent.values()) <= 3
    live = Counter(count for path, count in sent.items() if "/good/" in path)
    assert live[1] >= 570, "busy hosts answered the second request"
    assert not execute(config).images_this_time
    assert hosts.requests() == sent, "a finished run sends no request"


def test_failed_links_are_retried_on_request(hosts, configure, tmp_path):
    expected = hosts.urls(40, dead=0.5)
    execute(configure(list(expected)))
    sent = hosts.requests()
    again = execute(configure(list(expected), "--output.mode=retry_failed"))
    assert again.images_this_time == 18, "neither images nor rejected links are requested again"
    ways = {path.split("/")[1] for path in hosts.requests() - sent}
    assert ways == {"overloaded", "broken", "cut_short", "reset", "false_gzip", "silent"}
    assert kinds(tmp_path) == expected
    assert bulk_run.exit_code(again) == 0


def test_a_dead_host_with_many_images_is_cheap(hosts, configure, tmp_path):
    place = hosts.urls(20, dead=1.0)
    silent = next(url for url, kind in place.items() if kind == "timeout").partition("/silent/")[0]
    links = [f"{silent}/silent/{number}.png" for number in range(400)]
    summary = execute(configure(links, "--resources.fetch.threads=4"))
    assert summary.errors == {"timeout": 400}
    assert summary.seconds < 40, "less than 400 time-outs of a second, four at a time"
    assert sum(hosts.requests().values()) <= 4 * 8
    assert bulk_run.exit_code(summary) == 1, "no image"


def test_through_ray(ray_session, hosts, configure, tmp_path):
    from glied.bulk.ray.stream import RayStream

    expected = hosts.urls(200, dead=0.4)
    few = "--resources.fetch.cpus=2"  # two processes, which take seconds to start
    config = configure(list(expected), "--resources.chunk.images=10", "--output.unit_size=40", few)
    stream = RayStream(fetch_stage(config.input, config.resources), caption_pools(config), config.resources)
    summary = bulk_run.execute(caption_job(config), stream)
    assert kinds(tmp_path) == expected
    assert bulk_run.exit_code(summary) == 0
