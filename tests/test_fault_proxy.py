"""The fault proxy before an echo server, and the storage through the proxy before an S3 server."""

import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, TypeVar

import numpy as np
import pyarrow.fs
import pytest
import s3fs

from glied import storage
from glied.errors import StorageError
from tests import fault_proxy, s3_server
from tests.fault_proxy import FAULTS

Result = TypeVar("Result")
LARGE = np.random.default_rng(0).bytes(20_000_000)
OBJECTS = 300
TRIES = 4


class Echo(BaseHTTPRequestHandler):
    """Answers with the received request, chunked if the path says so."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.seen[self.path] += 1
        request = {
            "method": self.command,
            "path": self.path,
            "headers": dict(self.headers),
            "body": self.body(),
        }
        data = json.dumps(request).encode()
        self.send_response(200)
        if self.path.startswith("/chunks"):
            self.send_header("Transfer-Encoding", "chunked")
            data = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (data[:9], data[9:])) + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_PUT = do_POST = do_GET

    def body(self) -> str:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content.decode()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def connect(endpoint: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)


def test_requests_arrive_unchanged(echo):
    with fault_proxy.start(echo, share=0) as proxy:
        client = connect(proxy.endpoint)
        headers = {"Host": "photos.example", "X-Amz-Date": "today", "Range": "bytes=1-5"}
        for method, path, body, chunked in (
            ("GET", "/a%20b?list-type=2&prefix=%2F", None, False),
            ("PUT", "/key", b"content", False),
            ("PUT", "/key", [b"con", b"tent"], True),
            ("POST", "/chunks?uploads=", b"", False),
        ):
            client.request(method, path, body, headers, encode_chunked=chunked)
            socket_of_client = client.sock
            answer = json.loads(client.getresponse().read())
            assert (answer["method"], answer["path"]) == (method, path)
            assert answer["body"] == ("content" if path == "/key" else "")
            assert headers.items() <= answer["headers"].items()
            assert client.sock is socket_of_client, "the connection must stay open"
        client.request("HEAD", "/key")
        head = client.getresponse()
        assert (head.status, head.read()) == (200, b"")
        assert int(head.headers["Content-Length"]) > 0
        client.request("GET", "/after-head")
        assert client.getresponse().status == 200
        assert proxy.counts() == {"requests": 6} | dict.fromkeys(FAULTS, 0)


def test_expect_100_continue(echo):
    with fault_proxy.start(echo, share=0) as proxy:
        address = urllib.parse.urlsplit(proxy.endpoint)
        with socket.create_connection((address.hostname, address.port), timeout=10) as client:
            client.sendall(b"PUT /k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 100")
            client.sendall(b"abc")
            assert b'"body": "abc"' in client.recv(10_000)


@pytest.mark.parametrize(
    ("fault", "arrived", "outcome"),
    [
        ("slow_down", 0, 503),
        ("slow_down_after", 1, 503),
        ("reset", 0, ConnectionResetError),
        ("reset_after", 1, ConnectionResetError),
        ("slow", 1, 200),
        ("truncated", 1, http.client.IncompleteRead),
        ("hang", 0, (http.client.RemoteDisconnected, ConnectionResetError)),
    ],
)
def test_each_fault(echo, fault, arrived, outcome):
    with fault_proxy.start(echo, share=1, faults=[fault], hang_seconds=0.5, slow_seconds=0.5) as proxy:
        client, path = connect(proxy.endpoint), f"/{fault}"
        started = time.monotonic()
        if isinstance(outcome, int):
            status, body = put(client, path)
            assert (status, b"<Code>SlowDown</Code>" in body) == (outcome, outcome == 503)
        else:
            with pytest.raises(outcome):
                put(client, path)
        assert (time.monotonic() - started > 0.3) == (fault in ("slow", "hang"))
        assert proxy.counts() == {"requests": 1} | dict.fromkeys(FAULTS, 0) | {fault: 1}
        proxy.set_share(0)
        assert Echo.seen[path] == arrived
        client.close()
        client.request("GET", path)
        assert client.getresponse().status == 200


def put(client: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    client.request("PUT", path, b"content")
    answer = client.getresponse()
    return answer.status, answer.read()


def test_faults_depend_on_the_seed_and_not_on_the_order(echo):
    def broken(seed: int, paths: list[str]) -> set[str]:
        with fault_proxy.start(echo, share=0.3, seed=seed, faults=["slow_down"]) as proxy:
            found = set()
            for path in paths:
                client = connect(proxy.endpoint)
                client.request("GET", path)
                if client.getresponse().status == 503:
                    found.add(path)
            return found

    paths = [f"/{index}" for index in range(100)]
    first = broken(1, paths)
    assert first == broken(1, paths[::-1])
    assert first != broken(2, paths)
    assert 15 < len(first) < 50


def test_unknown_faults_are_refused():
    with (
        pytest.raises(ValueError, match="known are slow_down"),
        fault_proxy.start("http://h:1", faults=["fire"]),
    ):
        pass


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start an S3 server with the bucket photos, set credentials in the environment, return the endpoint."""
    server, endpoint = s3_server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem(endpoint_url=endpoint, skip_instance_cache=True).mkdir("photos")
        yield endpoint
    server.kill()
    server.wait()


@pytest.fixture
def through(monkeypatch) -> Iterator[Callable[[fault_proxy.Proxy], s3fs.S3FileSystem]]:
    """Direct the storage to a proxy; its clients are closed after the test."""

    def lead(proxy: fault_proxy.Proxy) -> s3fs.S3FileSystem:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        return s3fs.S3FileSystem()

    yield lead
    s3fs.S3FileSystem.clear_instance_cache()


def test_without_faults_s3_works_unchanged(s3, through):
    with fault_proxy.start(s3, share=0) as proxy:
        client = through(proxy)
        arrow = pyarrow.fs.S3FileSystem(
            endpoint_override=proxy.endpoint.removeprefix("http://"), scheme="http"
        )
        check_pages(client, arrow)
        check_large(client, arrow)
        counts = proxy.counts()
    assert counts["requests"] > 1_000
    assert sum(counts.values()) == counts["requests"]


def check_pages(client: s3fs.S3FileSystem, arrow: pyarrow.fs.FileSystem) -> None:
    names = [f"{index:04d} ü+&.jpg" for index in range(1_005)]
    client.pipe({f"photos/many/{name}": name.encode() for name in names})
    assert [file.name for file in storage.list_files("s3://photos/many")] == names
    assert len(client.ls("photos/many", refresh=True)) == len(names)
    assert len(arrow.get_file_info(pyarrow.fs.FileSelector("photos/many"))) == len(names)
    assert storage.read_bytes(f"s3://photos/many/{names[7]}") == names[7].encode()
    client.rm([f"photos/many/{name}" for name in names[1:]])
    assert [file.name for file in storage.list_files("s3://photos/many")] == names[:1]
    storage.delete(f"s3://photos/many/{names[0]}")
    assert not storage.exists(f"s3://photos/many/{names[0]}")


def check_large(client: s3fs.S3FileSystem, arrow: pyarrow.fs.FileSystem) -> None:
    """Write an object at once and another in parts, and read both back whole and in ranges."""
    client.pipe_file("photos/large", LARGE)
    with arrow.open_output_stream("photos/parts") as stream:
        stream.write(LARGE)
    for path in ("photos/large", "photos/parts"):
        assert client.info(path, refresh=True)["size"] == len(LARGE)
        assert client.cat_file(path) == LARGE
        assert client.cat_file(path, start=1_000_000, end=1_000_100) == LARGE[1_000_000:1_000_100]
        with arrow.open_input_file(path) as file:
            assert file.read_at(50, 19_999_950) == LARGE[-50:]
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://photos/nothing")


def persistently(call: Callable[[], Result]) -> Result:
    """Retry a few times, as the pipeline does, and only failures that may be temporary."""
    for _ in range(TRIES - 1):
        try:
            return call()
        except FileNotFoundError:
            raise
        except (StorageError, OSError):
            continue
    return call()


def read_in_ranges(uri: str) -> bytes:
    """Read in ranges, like Parquet and tars."""
    with storage.open_input(uri) as file:
        return file.read_at(3, 0) + file.read_at(file.size() - 3, 3)


def test_the_storage_survives_faults(s3, through):
    with fault_proxy.start(s3, share=0.1, hang_seconds=0.5) as proxy:
        through(proxy)
        contents = {f"s3://photos/run 1/{index}": b"content %d" % index for index in range(OBJECTS)}

        def write_and_read(uri: str) -> None:
            assert persistently(lambda: storage.put_if_absent(uri, contents[uri])), (
                "a put that is retried counts as successful"
            )
            assert persistently(lambda: storage.read_bytes(uri)) == contents[uri]
            assert persistently(lambda: read_in_ranges(uri)) == contents[uri]
            assert not persistently(lambda: storage.put_if_absent(uri, b"theirs"))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write_and_read, contents))
        listed = persistently(lambda: list(storage.list_files("s3://photos/run 1")))
        counts = proxy.counts()
    assert {file.uri for file in listed} == contents.keys()
    assert {name for name in FAULTS if counts[name] == 0} == set()
    assert 0.05 < sum(counts[name] for name in FAULTS) / counts["requests"] < 0.2
