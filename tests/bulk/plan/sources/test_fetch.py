"""Prefetching: in order, in bounded memory, and stopped when the consumer stops."""

import http.server
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from glied.bulk.plan.manifest import INPUT, planned
from glied.bulk.plan.sources.fetch import ROOM, SIDECAR, TOO_LARGE, Fetch
from glied.bulk.plan.sources.retries import Unreadable, within
from glied.bulk.plan.sources.web_hosts import PatientReader
from glied.bulk.plan.sources.web_reader import WebReader

SIZE = 10_000
"""Bytes per piece."""


class Host(http.server.ThreadingHTTPServer):
    """Serves as many bytes as the path says; /wait only after `go_on` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def table(self, *paths: int | str) -> pa.Table:
        uris = [f"http://127.0.0.1:{self.server_port}/{path}?{number}" for number, path in enumerate(paths)]
        table = planned(id=list(map(str, range(len(paths)))), uri=uris)
        return table.append_column(f"{INPUT}n", pa.array(range(len(paths)), pa.int16()))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        path = self.path[1:].partition("?")[0]
        self.server.asked.append(self.path)
        if path == "wait":
            self.server.go_on.wait(20)
        data = bytes(10 if path == "wait" else int(path))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    threading.Thread(target=host.serve_forever, args=(0.01,), daemon=True).start()
    yield host
    host.go_on.set()
    host.shutdown()
    host.server_close()


def reader(threads: int = 4) -> Fetch:
    return Fetch(form="table", threads=threads, web=PatientReader(reader=WebReader(allow_private=True)))


def test_pieces_are_in_order_and_of_bounded_size(host):
    sizes = [[10, 4000, 5000, 9000, 50_000, 0, 3000], [100] * 5, [6000, 6000]]
    found: list[list[int]] = [[] for _ in sizes]
    numbers = []
    for number, piece in reader().pieces([host.table(*some) for some in sizes], SIZE):
        assert piece.num_rows == 1 or sum(map(len, piece["data"].to_pylist())) <= SIZE
        found[number] += map(len, piece["data"].to_pylist())
        numbers += piece["n"].to_pylist()
    assert found == sizes
    assert numbers == [*range(7), *range(5), *range(2)]
    assert piece.schema.field("n").type == pa.int16()


def test_little_is_read_ahead_of_a_slow_row(host):
    pieces = reader(threads=4).pieces([host.table("wait", *[4000] * 60)], SIZE)
    threading.Timer(1.0, host.go_on.set).start()
    threading.Timer(0.9, lambda: seen.append(len(host.asked))).start()
    seen: list[int] = []
    assert sum(piece.num_rows for _, piece in pieces) == 61
    assert seen[0] <= 1 + ROOM * SIZE / 4000 + 4, "the pieces in memory, and one request per thread"


def test_prefetching_stops_with_the_consumer(host):
    pieces = reader().pieces([host.table(*[4000] * 200)], SIZE)
    next(pieces)
    start = time.monotonic()
    pieces.close()
    del pieces
    assert time.monotonic() - start < 5
    asked = len(host.asked)
    assert asked < 100
    time.sleep(0.3)
    assert len(host.asked) == asked


def test_a_hanging_read_does_not_block_the_end():
    with pytest.raises(Unreadable, match="not read within"):
        within(0.1, lambda: time.sleep(5))
    assert within(5.0, lambda: 3) == 3
    with pytest.raises(KeyError):
        within(5.0, lambda: {}["x"])


def test_texts_beside_images_are_read_and_one_that_cannot_be_read_fails_its_row(tmp_path):
    names = ["a.jpg", "b.jpg", "sub.dir/c.png", "d.jpg"]
    (tmp_path / "sub.dir").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"image")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa dog\n")
    (tmp_path / "sub.dir" / "c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "d.txt").write_text("long" * 100)
    table = planned(id=names, uri=[str(tmp_path / name) for name in names])
    found = Fetch(sidecar=".txt", max_bytes=99)(table)
    assert found[SIDECAR].to_pylist() == ["a dog\n", None, "caf\ufffd", None]
    assert found["kind"].to_pylist() == [None, None, None, TOO_LARGE]
    assert found["data"].to_pylist() == [b"image"] * 3 + [None]
    assert SIDECAR not in Fetch()(table).column_names
