"""Downloads from a web server that breaks transfers off."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest

from glied.data import download
from glied.data.download import Asset, AssetConfig, Downloads
from glied.errors import JobError, UsageError
from tests.file_server import FileServer, serve

DATA = random.Random(0).randbytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "file.zip").write_bytes(DATA)
    with serve(tmp_path / "web") as running:
        yield running


def get(server: FileServer, folder: Path, digest: str = SHA256, **options: bool) -> Asset:
    downloads = Downloads(folder, pause_s=0.0, **options)
    return downloads.get(AssetConfig(url=f"{server.url}/file.zip", digest=digest))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_broken_transfer_resumes(server, tmp_path) -> None:
    server.breaks = [100_000, 0, 70_000]
    found = get(server, tmp_path / "in")
    assert found.path.read_bytes() == DATA
    assert (found.bytes, found.trusted) == (len(DATA), True)
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=170000-"]
    assert names(tmp_path / "in") == ["downloads.json", "file.zip"]


def test_another_process_resumes_the_download_of_a_killed_one(server, tmp_path) -> None:
    server.breaks = [120_000] + [0] * 6
    with pytest.raises(JobError, match=r"broke off at 120000 bytes.*the same command resumes"):
        get(server, tmp_path / "in")
    assert names(tmp_path / "in") == ["file.zip.part", "file.zip.part.json"]
    server.requests.clear()
    assert get(server, tmp_path / "in").path.read_bytes() == DATA
    assert server.requests == [("/file.zip", "bytes=120000-")]


def test_a_second_run_sends_no_request(server, tmp_path) -> None:
    first = get(server, tmp_path / "in")
    server.requests.clear()
    assert get(server, tmp_path / "in") == first
    assert get(server, tmp_path / "in", verify=True) == first
    assert server.requests == []


def test_a_file_that_changed_on_the_server_is_downloaded_again(server, tmp_path) -> None:
    server.breaks = [120_000] + [0] * 6
    with pytest.raises(JobError):
        get(server, tmp_path / "in")
    (tmp_path / "web" / "file.zip").write_bytes(DATA[::-1])
    assert get(server, tmp_path / "in", digest="").path.read_bytes() == DATA[::-1]


@pytest.mark.parametrize("lacking", ["versioned", "ranges"])
def test_without_versions_or_ranges_a_broken_transfer_restarts(server, tmp_path, lacking: str) -> None:
    setattr(server, lacking, False)
    server.breaks = [200_000]
    assert get(server, tmp_path / "in").path.read_bytes() == DATA
    assert server.requests[-1][1] == (None if lacking == "versioned" else "bytes=200000-")


def test_a_complete_part_is_only_checked(server, tmp_path) -> None:
    get(server, tmp_path / "in").path.rename(tmp_path / "in" / "file.zip.part")
    tag = f'"{hashlib.md5(DATA).hexdigest()}"'
    state = {"url": f"{server.url}/file.zip", "version": tag}
    (tmp_path / "in" / "file.zip.part.json").write_text(json.dumps(state))
    assert get(server, tmp_path / "in").path.read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=300000-"


def test_a_wrong_digest_is_refused_and_the_file_is_deleted(server, tmp_path) -> None:
    with pytest.raises(
        JobError, match=r"has sha256 \w+, but its digest in the config is 0+; .*deleted"
    ) as raised:
        get(server, tmp_path / "in", digest=f"sha256:{'0' * 64}")
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)
    assert names(tmp_path / "in") == []
    with pytest.raises(JobError, match="has md5"):
        get(server, tmp_path / "in", digest=f"md5:{'0' * 32}")


def test_without_a_digest_later_downloads_must_equal_the_first(server, tmp_path) -> None:
    found = get(server, tmp_path / "in", digest="")
    assert (f"sha256:{found.sha256}", found.trusted) == (SHA256, False)
    found.path.unlink()
    assert get(server, tmp_path / "in", digest="").sha256 == found.sha256
    found.path.unlink()
    (tmp_path / "web" / "file.zip").write_bytes(b"other")
    with pytest.raises(JobError, match=r"that of the first download in downloads\.json is"):
        get(server, tmp_path / "in", digest="")


def test_verification_finds_a_damaged_file(server, tmp_path) -> None:
    found = get(server, tmp_path / "in")
    stamp = found.path.stat()
    found.path.write_bytes(DATA[:-1] + b"x")
    os.utime(found.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert get(server, tmp_path / "in") == found
    with pytest.raises(JobError, match="but its digest in the config is"):
        get(server, tmp_path / "in", verify=True)


def test_files_missing_on_the_server_are_named_at_once(server, tmp_path) -> None:
    asset = AssetConfig(url=f"{server.url}/none.zip")
    with pytest.raises(JobError, match=r"none\.zip: the server answers 404"):
        Downloads(tmp_path / "in").get(asset)
    assert len(server.requests) == 1


def test_a_local_file_is_used_in_place(tmp_path) -> None:
    (tmp_path / "file.zip").write_bytes(DATA)
    asset = AssetConfig(url=str(tmp_path / "file.zip"), digest=SHA256)
    assert Downloads(tmp_path / "in").get(asset).path == tmp_path / "file.zip"
    with pytest.raises(UsageError, match=r"other\.zip: no such file"):
        Downloads(tmp_path / "in").get(AssetConfig(url=str(tmp_path / "other.zip")))


def test_a_disk_that_is_too_small_is_reported_before_the_download(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("", (), {"free": 1000})())
    with pytest.raises(JobError, match=r"0\.0 GB free, file\.zip\.part needs"):
        get(server, tmp_path / "in")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "ftp://host/file.zip"}, "only http"),
        ({"url": ""}, "url is empty"),
        ({"url": "http://host/x", "digest": "abc"}, "expected sha256: or md5:"),
    ],
)
def test_invalid_assets_are_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AssetConfig(**values)
