"""`resources`: the keys of version 0.1 still work, and values that Ray cannot schedule are refused."""

import dataclasses
import logging
from pathlib import Path

import pytest
import yaml

from glied.bulk.captioning import CaptionDatasetConfig, caption_pools
from glied.bulk.config import ResourcesConfig
from glied.config import parse
from glied.errors import UsageError

OLD = {
    "workers": 2,
    "worker_cpus": 3.0,
    "worker_gpus": 1.0,
    "worker_accelerator": "L4",
    "worker_memory": 4,
    "worker_threads": 5,
    "decoders": 6,
    "pools": "split",
    "caption_workers": 7,
    "caption_cpus": 8.0,
    "caption_gpus": 0.5,
    "caption_accelerator": "H100",
    "caption_memory": 9,
    "fetch_cpus": 0.25,
    "fetch_threads": 10,
    "file_s": 11.0,
    "web": {"attempts": 12},
    "storage_budget": 0.13,
    "broken_units": 14,
    "chunk_images": 15,
    "chunk_bytes": 16,
    "batch_size": 17,
    "restarts": 18,
    "rounds": 19,
    "wait_s": 20.0,
    "chunk_s": 21.0,
    "stall_s": 22.0,
}
"""Every key of version 0.1 with a different value."""
NEW = {
    "worker": {
        "count": 2,
        "cpus": 3.0,
        "gpus": 1.0,
        "accelerator": "L4",
        "memory": 4,
        "threads": 5,
        "decoders": 6,
        "batch_size": 17,
    },
    "pools": "split",
    "caption": {"count": 7, "cpus": 8.0, "gpus": 0.5, "accelerator": "H100", "memory": 9},
    "fetch": {"cpus": 0.25, "threads": 10, "file_s": 11.0, "storage_budget": 0.13, "broken_units": 14},
    "chunk": {"images": 15, "bytes": 16},
    "recovery": {"restarts": 18, "rounds": 19, "wait_s": 20.0, "chunk_s": 21.0, "stall_s": 22.0},
}


def configure(*options: str) -> CaptionDatasetConfig:
    where = ["--input.uri=in", "--output.uri=out"]
    return parse(CaptionDatasetConfig, ["--config=configs/caption/demo.yaml", *where, *options])


def check(resources: ResourcesConfig) -> None:
    found = dataclasses.asdict(resources)
    assert found["fetch"].pop("web")["attempts"] == 12
    assert found == NEW


def test_keys_of_version_0_1_work_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = yaml.safe_load(Path("configs/caption/demo.yaml").read_text()) | {"resources": OLD}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(values))
    with caplog.at_level(logging.WARNING):
        check(parse(CaptionDatasetConfig, [f"--config={tmp_path / 'old.yaml'}"]).resources)
    (record,) = caplog.records
    assert "resources.chunk_images is now resources.chunk.images" in record.message


def test_keys_of_version_0_1_work_as_options(caplog: pytest.LogCaptureFixture) -> None:
    flat = OLD | {"web.attempts": 12}
    del flat["web"]
    with caplog.at_level(logging.WARNING):
        check(configure(*(f"--resources.{key}={value}" for key, value in flat.items())).resources)
    assert "resources.workers is now resources.worker.count" in caplog.records[0].message


def test_every_part_has_at_most_twelve_keys() -> None:
    parts = [ResourcesConfig(), *vars(ResourcesConfig()).values()]
    assert max(len(dataclasses.fields(part)) for part in parts if dataclasses.is_dataclass(part)) <= 12


def test_both_pools_have_the_threads_of_the_workers() -> None:
    options = ["--resources.pools=split", "--resources.worker.threads=3", "--resources.caption.count=2"]
    regions, captions = caption_pools(configure(*options))
    assert (regions.workers, regions.threads) == (2, 3)
    assert (captions.workers, captions.threads) == (2, 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("worker.count=0", r"resources\.worker\.count: 0 is not at least 1"),
        ("worker.decoders=0", r"resources\.worker\.decoders: 0 is not at least 1"),
        ("caption.cpus=0", r"resources\.caption\.cpus: 0\.0 is not above 0"),
        ("worker.gpus=-1", r"resources\.worker\.gpus: -1\.0 must not be negative"),
        ("caption.accelerator=L4", r"resources\.caption\.accelerator needs resources\.caption\.gpus above 0"),
        ("fetch.cpus=1", r"resources\.fetch\.cpus and resources\.worker\.cpus must differ"),
        ("fetch.web.attempts=0", r"resources\.fetch\.web\.attempts: 0 is not at least 1"),
        ("fetch.web.total_s=0", r"resources\.fetch\.web\.total_s: 0\.0 is not above 0"),
        ("chunk.bytes=0", r"resources\.chunk\.bytes: 0 is not at least 1"),
        ("recovery.wait_s=-1", r"resources\.recovery\.wait_s: -1\.0 must not be negative"),
        ("recovery.restarts=-1", r"resources\.recovery\.restarts: -1 must not be negative"),
        ("worker.cores=1", r"resources\.worker\.cores.*Valid keys.*resources\.worker\.cpus"),
    ],
)
def test_invalid_values_are_refused_by_name(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configure(f"--resources.{option}")
