"""A storage that is down, silent or refuses requests is distinguished from one that lacks the file."""

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from glied import storage
from glied.bulk.captioning import fetch_stage
from glied.bulk.config import FetchConfig, InputConfig, ResourcesConfig
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import StorageError

SECRET = "s3cr3t"


class Hdfs(http.server.BaseHTTPRequestHandler):
    """The part of WebHDFS that reads files; the first folder of a path determines how it answers."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        state = url.path.removeprefix("/webhdfs/v1/").partition("/")[0]
        operation = parse_qs(url.query)["op"][0]
        if state == "down":
            self.send_error(503)
        elif state == "standby":
            self.refuse(403, "StandbyException")
        elif state == "denied":
            self.refuse(403, "AccessControlException")
        elif url.path.endswith("gone.png"):
            self.refuse(404, "FileNotFoundException")
        elif operation == "GETFILESTATUS":
            self.reply(200, {"FileStatus": {"length": 4, "type": "FILE", "pathSuffix": ""}})
        else:
            self.reply(200, b"data")

    def refuse(self, status: int, kind: str) -> None:
        self.reply(status, {"RemoteException": {"message": f"no, token={SECRET}", "exception": kind}})

    def reply(self, status: int, body: bytes | dict) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hdfs() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hdfs)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"webhdfs://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def kinds(folder: Path, uris: list[str], allow: str, **resources) -> list[str | bytes | None]:
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"uri": uri}) for uri in uris))
    config = InputConfig(uri=str(folder / "t.jsonl"), form="table", allow=[allow])
    fetch = fetch_stage(config, ResourcesConfig(fetch=FetchConfig(**resources)))
    tables = inputs(open_source(config, "/nowhere"), config)
    rows = [row for table in tables for row in fetch(table).to_pylist()]
    return [row["kind"] or row["data"] for row in rows]


def listed(uri: str) -> list[storage.FileInfo]:
    return list(storage.list_files(uri))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["down", "standby", "denied"])
def test_rows_of_a_storage_that_is_down_fail(hdfs, tmp_path, state):
    assert kinds(tmp_path, [f"{hdfs}/{state}/a.png", f"{hdfs}/{state}/gone.png"], hdfs) == ["storage"] * 2


def test_rows_of_a_storage_that_is_up(hdfs, tmp_path):
    assert kinds(tmp_path, [f"{hdfs}/up/a.png", f"{hdfs}/up/gone.png"], hdfs) == [b"data", "not_found"]


def test_an_outage_is_distinguished_from_a_missing_file(hdfs, closed):
    assert storage.exists(f"{hdfs}/up/a.png")
    assert not storage.exists(f"{hdfs}/up/gone.png")
    for uri in (f"{hdfs}/down/a.png", f"{hdfs}/standby/a.png", f"http://127.0.0.1:{closed}/a?sig={SECRET}"):
        for look in (storage.exists, storage.read_bytes, storage.file_size, listed):
            with pytest.raises(StorageError) as caught:
                look(uri)
            assert SECRET not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ftp", "webhdfs"])
def test_a_silent_storage_costs_bounded_time(silent, tmp_path, scheme):
    place = f"{scheme}://127.0.0.1:{silent}/"
    start = time.monotonic()
    uris = [f"{place}{number}.png" for number in range(60)]
    found = kinds(tmp_path, uris, place, file_s=0.5, threads=4)
    assert found == ["storage"] * 60
    assert time.monotonic() - start < 10, "not half a second for each of 60 images"


@pytest.mark.slow
def test_a_refused_storage_costs_bounded_time(closed, tmp_path):
    place = f"ftp://127.0.0.1:{closed}/"
    assert kinds(tmp_path, [f"{place}{number}.png" for number in range(60)], place) == ["storage"] * 60
