import dataclasses
import email.utils
import gzip
import http.server
import ipaddress
import pickle
import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from glied.bulk.plan.sources import web_addresses, web_client
from glied.bulk.plan.sources.web_hosts import HostError, is_host_failure
from glied.bulk.plan.sources.web_reader import WebReader
from glied.errors import ImageError, UsageError

IMAGE = bytes(range(256)) * 400
BOMB = gzip.compress(bytes(64 << 20))
SECRET = "s3cr3t"
REDIRECTS = {"/moved": "/image", "/loop": f"/loop?sig={SECRET}", "/file": "file:///etc/passwd"}
READER = WebReader(
    max_bytes=1 << 20, connect_timeout_s=2, read_timeout_s=2, total_timeout_s=5, allow_private=True
)


class Handler(http.server.BaseHTTPRequestHandler):
    """A host of images that answers in the way that the path names, usually a wrong one."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.requests.append((self.requestline.split(" ")[1], self.headers))
        path = self.path.partition("?")[0]
        if path in self.server.redirects:
            self.close_connection = True
            self.reply(302, b"gone", Location=self.server.redirects[path], Connection="close")
        elif path.startswith("/status/"):
            status = int(path.removeprefix("/status/"))
            self.reply(status, b"" if status == 304 else b"an answer")
        else:
            getattr(self, "get_" + path.strip("/"), self.get_image)()

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_image(self) -> None:
        self.reply(200, IMAGE)

    def get_empty(self) -> None:
        self.reply(200, b"")

    def get_at_cap(self) -> None:
        self.reply(200, bytes(READER.max_bytes))

    def get_above_cap(self) -> None:
        self.reply(200, bytes(READER.max_bytes + 1))

    def get_endless(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.repeat(bytes(1 << 16), pause=0)

    def get_chunked(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(IMAGE), 1000):
            part = IMAGE[start : start + 1000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def get_truncated(self) -> None:
        self.close_connection = True
        self.reply(200, IMAGE, Content_Length=str(len(IMAGE) + 1))

    def get_truncated_chunked(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\nhel")

    def get_busy(self) -> None:
        self.reply(429, b"later", Retry_After=self.path.partition("?")[2].replace("_", " "))

    def get_part(self) -> None:
        self.reply(206, IMAGE[:100], Content_Range=f"bytes 0-99/{len(IMAGE)}")

    def get_whole_as_part(self) -> None:
        self.reply(206, IMAGE, Content_Range=f"bytes 0-{len(IMAGE) - 1}/{len(IMAGE)}")

    def get_gzip(self) -> None:
        self.reply(200, gzip.compress(IMAGE), Content_Encoding="gzip")

    def get_encoded(self) -> None:
        name = self.path.partition("?")[2]
        coding, body = self.server.bodies[name]
        self.reply(200, body, Content_Encoding=coding)

    def get_bomb(self) -> None:
        self.reply(200, BOMB, Content_Encoding="gzip")

    def get_bomb_in_bomb(self) -> None:
        self.reply(200, gzip.compress(BOMB), Content_Encoding="gzip, gzip")

    def get_no_gzip(self) -> None:
        self.reply(200, IMAGE, Content_Encoding="gzip")

    def get_garbage(self) -> None:
        self.close_connection = True
        self.wfile.write(b"no such thing as " + self.path.encode() + b"\r\n\r\n")

    def get_nothing(self) -> None:
        self.close_connection = True

    def get_reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def get_silent(self) -> None:
        self.close_connection = True
        self.server.stopped.wait(5)

    def get_late(self) -> None:
        self.server.stopped.wait(1.2)
        self.get_image()

    def get_slow_body(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        self.repeat(b"x", pause=0.05)

    def get_slow_headers(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.repeat(b"x", pause=0.05)

    def repeat(self, data: bytes, pause: float) -> None:
        try:
            while not self.server.stopped.wait(pause):
                self.wfile.write(data)
        except OSError:
            pass  # the reader has closed the connection

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """A server that records its requests."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int]) -> None:
        self.requests: list = []
        self.connections = 0
        self.redirects = dict(REDIRECTS)
        self.bodies: dict[str, tuple[str, bytes]] = {}
        self.stopped = threading.Event()
        super().__init__(address, Handler)

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.server_port}{path}"

    def handle_error(self, *args: object) -> None:
        pass  # many tests make the reader close the connection


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(("127.0.0.1", 0))) as server:
        yield server


@pytest.fixture
def resolver(monkeypatch) -> Callable:
    """Resolve names to one list of addresses per lookup, in turn; return the names that are looked up."""

    def install(**answers: list[list[str]]) -> list[str]:
        lookups: list[str] = []
        original = socket.getaddrinfo

        def getaddrinfo(host, port, *args, **kwargs):
            lookups.append(host)
            name = host.removesuffix(".test")
            addresses = answers[name].pop(0) if name in answers else [host]
            return [info for address in addresses for info in original(address, port, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return lookups

    return install


def kind_of(url: str, reader: WebReader = READER) -> str:
    with pytest.raises(ImageError) as caught:
        reader.read(url)
    check_message(str(caught.value))
    return caught.value.kind


def failure_of(url: str, **changes: float) -> str:
    """Return the kind and message of a failure that is not an image failure."""
    with pytest.raises(HostError) as caught:
        dataclasses.replace(READER, **changes).read(url)
    check_message(str(caught.value))
    assert is_host_failure(caught.value.kind)
    assert caught.value.host in url
    return str(caught.value)


def check_message(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 500
    assert SECRET not in message


@pytest.mark.parametrize(
    "path", ["/image", "/chunked", "/gzip", "/moved", "/image?sig=1&b=%2F", "/whole_as_part"]
)
def test_bodies(server, path):
    assert READER.read(server.url(path)) == IMAGE


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


CODINGS = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:5_000]) + gzip.compress(data[5_000:])),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
]
PIXELS = random.Random(0).randbytes(150_000)


@pytest.mark.parametrize(("coding", "encode"), CODINGS)
@pytest.mark.parametrize("size", [0, 1, 1 << 16, len(PIXELS)])
def test_whole_compressed_bodies(server, coding, encode, size):
    data = PIXELS[:size]
    server.bodies = {"x": (coding, encode(data))}
    assert READER.read(server.url("/encoded?x")) == data


@pytest.mark.parametrize(("coding", "encode"), CODINGS)
@pytest.mark.parametrize("part", [0.0, 0.3, 0.67, "end", "last"])
def test_a_compressed_body_that_ends_too_early_is_no_image(server, coding, encode, part):
    """The length is the announced one, so that only decompression shows the end."""
    whole = encode(PIXELS)
    kept = {"end": len(whole) - 8, "last": len(whole) - 1}.get(part) if isinstance(part, str) else None
    server.bodies = {"x": (coding, whole[: int(len(whole) * part) if kept is None else kept])}
    message = failure_of(server.url("/encoded?x"))
    assert message.startswith("connection_lost: ")
    assert message.endswith("the compressed body ends too early")


def test_the_inner_of_two_compressions_may_also_end_too_early(server):
    server.bodies = {"x": ("deflate, gzip", gzip.compress(zlib.compress(PIXELS)[:-1000]))}
    assert "the compressed body ends too early" in failure_of(server.url("/encoded?x"))


def test_bytes_after_a_compressed_body_are_ignored(server):
    server.bodies = {
        "x": ("gzip", gzip.compress(PIXELS) + bytes(100)),
        "y": ("deflate", zlib.compress(b"a") + b"b"),
    }
    assert READER.read(server.url("/encoded?x")) == PIXELS
    assert READER.read(server.url("/encoded?y")) == b"a"


def test_sizes(server):
    assert READER.read(server.url("/empty")) == b""
    assert READER.read(server.url("/at_cap")) == bytes(READER.max_bytes)
    assert kind_of(server.url("/above_cap")) == "too_large"
    assert kind_of(server.url("/endless")) == "too_large"


@pytest.mark.parametrize("path", ["/bomb", "/bomb_in_bomb"])
def test_a_bomb_is_not_inflated(server, path):
    assert len(BOMB) < READER.max_bytes
    tracemalloc.start()
    try:
        assert kind_of(server.url(path)) == "too_large"
        assert tracemalloc.get_traced_memory()[1] < 8 * READER.max_bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "not_found"), (410, "not_found"), (401, "refused"), (403, "refused"), (451, "refused"),
     (300, "refused"), (302, "refused"), (304, "refused")],
)  # fmt: skip
def test_final_status_codes(server, status, kind):
    assert kind_of(server.url(f"/status/{status}?sig={SECRET}")) == kind


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_temporary_status_codes(server, status):
    message = failure_of(server.url(f"/status/{status}?sig={SECRET}"))
    assert message == f"http_{status}: {server.url('/status/')}{status}: status {status}"


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("/truncated", "connection_lost", "the body is shorter than announced"),
        ("/truncated_chunked", "connection_lost", "the body is shorter than announced"),
        ("/nothing", "connection_lost", "the host closed the connection"),
        ("/reset", "connection_lost", "Connection reset by peer"),
        ("/no_gzip", "bad_answer", "not compressed in the way that its header says"),
        ("/garbage", "bad_answer", "the answer is not HTTP"),
        ("/part", "bad_answer", "status 206, a part that was not asked for"),
    ],
)
def test_broken_answers_are_temporary(server, path, kind, reason):
    message = failure_of(f"{server.url(path)}?sig={SECRET}")
    assert message.startswith(f"{kind}: http://127.0.0.1:")
    assert reason in message


@pytest.mark.parametrize("path", ["/nothing", "/reset"])
def test_a_lost_connection_is_not_repeated_here(server, path):
    READER.read(server.url("/image"))
    assert failure_of(server.url(path)).startswith("connection_lost: ")
    assert [asked for asked, _ in server.requests] == ["/image", path], "the attempts are counted elsewhere"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2),
        ("0", 0),
        ("Fri,_31_Dec_1999_23:59:59_GMT", 0),
        ("-5", 0),
        ("soon", 0),
        ("1e9", 0),
        ("9" * 50, 0),
    ],
)
def test_retry_after_in_seconds(server, header, seconds):
    with pytest.raises(HostError) as caught:
        READER.read(server.url(f"/busy?{header}"))
    assert (caught.value.kind, caught.value.retry_after_s) == ("http_429", seconds)


def test_retry_after_as_a_date(server):
    date = email.utils.formatdate(time.time() + 100, usegmt=True).replace(" ", "_")
    with pytest.raises(HostError) as caught:
        READER.read(server.url(f"/busy?{date}"))
    assert 90 < caught.value.retry_after_s <= 100


@pytest.mark.parametrize("path", ["/slow_body", "/slow_headers"])
def test_a_slow_body_times_out(server, path):
    start = time.monotonic()
    message = failure_of(server.url(path), read_timeout_s=0.3, total_timeout_s=0.5)
    assert message.endswith("not complete within 0.5 s")
    assert message.startswith("timeout: ")
    assert 0.4 < time.monotonic() - start < 1.5


def test_a_silent_host_times_out(server):
    assert failure_of(server.url("/silent"), read_timeout_s=0.2).endswith("silent for 0.2 s")


def test_a_handshake_without_an_answer_times_out():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start = time.monotonic()
        message = failure_of(f"https://127.0.0.1:{listener.getsockname()[1]}/", connect_timeout_s=0.2)
    assert message.startswith("timeout: ")
    assert time.monotonic() - start < 1.5


def test_the_time_limit_includes_redirects(server):
    server.redirects["/moved"] = "/slow_body"
    assert failure_of(server.url("/moved"), total_timeout_s=0.4).endswith("not complete within 0.4 s")


def test_refused_connections_and_unknown_names(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = failure_of(f"http://127.0.0.1:{port}/{'a' * 9000}?sig={SECRET}")
    assert message.startswith("unreachable: ")
    assert message.endswith("Connection refused")

    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert (
        failure_of("http://nowhere.test/a") == "unreachable: http://nowhere.test/a: Name or service not known"
    )


def test_redirects(server):
    assert kind_of(server.url("/loop")) == "too_many_redirects"
    assert len(server.requests) == 1 + READER.max_redirects
    assert kind_of(server.url("/file")) == "bad_url"
    server.redirects["/moved"] = f"http://user:{SECRET}@127.0.0.1/"
    assert kind_of(server.url("/moved")) == "bad_url"
    server.redirects["/moved"] = "http://[::1"
    assert kind_of(server.url("/moved")) == "bad_url"


def test_a_redirect_into_the_network_is_refused(server, resolver, monkeypatch):
    """The first hop is allowed; only the check of its address is replaced."""
    allowed = web_addresses.is_allowed
    monkeypatch.setattr(web_client, "is_allowed", lambda *args: args[0] == "127.0.0.1" or allowed(*args))
    lookups = resolver()
    for target in ("http://10.0.0.1/", "http://169.254.169.254/latest/", server.url("/image", "2130706434")):
        server.redirects["/moved"] = target
        assert kind_of(server.url("/moved"), WebReader()) == "forbidden"
    assert lookups == []
    assert [path for path, _ in server.requests] == ["/moved"] * 3


def test_the_checked_address_is_the_one_connected_to(server, resolver):
    """A name whose address changes between check and connection is looked up only once."""
    lookups = resolver(rebind=[["127.0.0.1"], ["169.254.169.254"]])
    assert READER.read(server.url("/image", "rebind.test")) == IMAGE
    assert lookups == ["rebind.test"]
    assert server.requests[0][1]["Host"] == f"rebind.test:{server.server_port}"


def test_every_hop_is_looked_up_once_and_checked(server, resolver):
    server.redirects["/moved"] = server.url("/image", "second.test")
    lookups = resolver(first=[["127.0.0.1"]], second=[["127.0.0.1"]])
    assert READER.read(server.url("/moved", "first.test")) == IMAGE
    assert lookups == ["first.test", "second.test"]
    server.redirects["/moved"] = server.url("/image", "turned.test")
    lookups = resolver(turned=[["127.0.0.1"], ["169.254.169.254"]])
    assert kind_of(server.url("/moved", "turned.test")) == "forbidden"
    assert lookups == ["turned.test", "turned.test"]


def test_one_forbidden_address_among_allowed_ones_is_refused(server, resolver):
    resolver(mixed=[["127.0.0.1", "169.254.169.254"]])
    assert kind_of(server.url("/image", "mixed.test")) == "forbidden"
    assert server.connections == 0


def test_the_next_address_is_tried(server, resolver):
    resolver(several=[["127.0.0.2", "127.0.0.1"]])
    assert READER.read(server.url("/image", "several.test")) == IMAGE


def test_ipv6(server):
    class Server6(Server):
        address_family = socket.AF_INET6

    try:
        server6 = Server6(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(server6):
        assert READER.read(server6.url("/image", "[::1]")) == IMAGE
        assert server6.requests[0][1]["Host"] == f"[::1]:{server6.server_port}"
        assert READER.read(server.url("/image", "[::ffff:127.0.0.1]")) == IMAGE


@pytest.mark.parametrize(
    ("literal", "address"),
    [("[::1]", "::1"), ("[::ffff:127.0.0.1]", "::ffff:7f00:1"), ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
     ("[::127.0.0.1]", "::7f00:1"), ("[fd00::1:2]", "fd00::1:2"), ("10.0.0.1", "10.0.0.1")],
)  # fmt: skip
@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
@pytest.mark.parametrize("with_port", [False, True])
def test_an_address_is_connected_to_as_written(literal, address, scheme, port, with_port, monkeypatch):
    """Also without a port: the last group of an IPv6 address is not a port."""
    connected: list[tuple] = []

    def connect(allow_private, candidate):
        connected.append((ipaddress.ip_address(candidate[-1][0]), candidate[-1][1]))
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(web_client, "_open_socket", connect)
    url = f"{scheme}://{literal}{f':{port}' if with_port else ''}/x"
    assert failure_of(url).startswith(f"unreachable: {url}")
    assert connected == [(ipaddress.ip_address(address), port)]


@pytest.mark.parametrize("port", ["", ":80", ":8080"])
@pytest.mark.parametrize(
    "host", ["[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%25nosuch]", "[fd00:ec2::254]",
             "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "169.254.169.254"],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_metadata_services_are_forbidden_in_any_notation(server, scheme, host, port):
    assert kind_of(f"{scheme}://{host}{port}/x") == "forbidden"
    server.redirects["/moved"] = f"{scheme}://{host}{port}/x"
    assert kind_of(server.url("/moved")) == "forbidden"


def test_an_address_is_checked_again_where_the_socket_is_opened(server, monkeypatch):
    """Should a version of aiohttp resolve names without the resolver that it was given."""
    monkeypatch.setattr(web_client._CheckingResolver, "resolve", aiohttp.ThreadedResolver.resolve)
    assert kind_of(server.url("/image", "localhost"), WebReader()) == "forbidden"
    assert server.connections == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f000001", "0x7f.1", "127.1", "0177.0.0.1",
     "017700000001", "0", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "100.64.0.1",
     "169.254.169.254", "0xa9fea9fe", "224.0.0.1", "255.255.255.255", "[::]", "[::1]", "[::ffff:127.0.0.1]",
     "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fd00::1]", "[ff02::1]"],
)  # fmt: skip
def test_hosts_refused(server, host):
    assert kind_of(server.url(f"/image?sig={SECRET}", host), WebReader()) == "forbidden"
    assert server.connections == 0


def test_localhost_with_its_dot_is_refused(server):
    """Resolvers without a network may not know it."""
    with pytest.raises((ImageError, HostError), match=r"^(forbidden|unreachable): "):
        WebReader().read(server.url("/image", "localhost."))
    assert server.connections == 0


@pytest.mark.parametrize(
    ("address", "public", "private"),
    [
        ("8.8.8.8", True, True),
        ("2606:4700::1111", True, True),
        ("::ffff:8.8.8.8", True, True),
        ("64:ff9b::808:808", True, True),
        ("2002:808:808::1", True, True),
        ("2001:0:808:808::f7f7:f7f7", True, True),  # Teredo: server and client 8.8.8.8
        ("127.0.0.1", False, True),
        ("10.0.0.1", False, True),
        ("172.31.255.255", False, True),
        ("192.168.1.1", False, True),
        ("100.64.0.1", False, True),
        ("100.127.255.255", False, True),
        ("198.18.0.1", False, True),
        ("192.0.0.1", False, True),
        ("192.88.99.1", False, True),
        ("192.0.2.1", False, True),
        ("0.0.0.0", False, True),
        ("224.0.1.1", False, True),
        ("240.0.0.1", False, True),
        ("255.255.255.255", False, True),
        ("::", False, True),
        ("::1", False, True),
        ("::8.8.8.8", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("::ffff:100.64.0.1", False, True),
        ("64:ff9b::a00:1", False, True),
        ("64:ff9b:1::808:808", False, True),
        ("2002:a00:1::1", False, True),
        ("2001:0:808:808::f5ff:fffe", False, True),  # Teredo: client 10.0.0.1
        ("2001:0:a00:1::f7f7:f7f7", False, True),  # Teredo: server 10.0.0.1
        ("2001:db8::1", False, True),
        ("3fff::1", False, True),
        ("fc00::1", False, True),
        ("fec0::1", False, True),
        ("ff0e::1", False, True),
        ("4000::1", False, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a9fe:a9fe::1", False, False),
        ("fe80::1", False, False),
        ("fe80::1%lo", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
    ],
)
def test_addresses(address, public, private):
    assert web_addresses.is_allowed(address, allow_private=False) is public
    assert web_addresses.is_allowed(address, allow_private=True) is private


@pytest.mark.parametrize(
    "url",
    ["", "image.jpg", "//127.0.0.1/a", "file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AA",
     "s3://bucket/key", "http:127.0.0.1", "http://", "http:///a", "http://:80/", "http:\\\\127.0.0.1\\a",
     "http://127.0.0.1:0/", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://[::1/", "http://a b/",
     "http://a\x00b/", "http://a\r\nb/", "http://a..test/", f"http://{'a' * 64}.test/", "http://a\ud800.test/",
     f"http://user:{SECRET}@127.0.0.1/", f"http://{SECRET}@127.0.0.1/", f"http://a@b:{SECRET}@127.0.0.1/"],
)  # fmt: skip
def test_bad_urls(url, monkeypatch):
    def connect(*args):
        raise AssertionError("nothing may be connected to")

    monkeypatch.setattr(web_client, "_open_socket", connect)
    assert kind_of(url) == "bad_url"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b/ä.jpg?q=ü x", "/a%20b/%C3%A4.jpg?q=%C3%BC%20x"),
        ("/a%20b%2Fc.jpg?d=%26", "/a%20b%2Fc.jpg?d=%26"),
        ("/100%.jpg", "/100%25.jpg"),
        ("/a\r\nX: y", "/a%0D%0AX:%20y"),
        ("/a#fragment", "/a"),
        ("?q", "/?q"),
        ("", "/"),
        ("//double/../x ", "//x"),
        ("/@host:80/x", "/@host:80/x"),
        ("\\@host/x", "/%5C@host/x"),
    ],
)
def test_quoting(server, path, sent):
    READER.read(server.url(path))
    assert server.requests[0][0] == sent


def test_a_redirect_that_is_not_quoted(server):
    server.redirects["/moved"] = "/ä b.jpg".encode().decode("latin-1")
    READER.read(server.url("/moved"))
    assert server.requests[1][0] == "/%C3%A4%20b.jpg"


def test_only_these_headers_are_sent(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server.redirects["/moved"] = server.url("/image", "localhost")
    WebReader(allow_private=True, user_agent="tests/1").read(server.url("/moved"))
    assert [dict(headers) for _, headers in server.requests] == [
        {"Host": f"{host}:{server.server_port}", "User-Agent": "tests/1", "Accept": "*/*",
         "Accept-Encoding": "identity"}
        for host in ("127.0.0.1", "localhost")
    ]  # fmt: skip


def test_connections_are_reused_but_never_across_policies(server):
    for path in ("/image", "/chunked", "/gzip"):
        READER.read(server.url(path))
    assert server.connections == 1
    assert kind_of(server.url("/image"), WebReader()) == "forbidden"
    READER.read(server.url("/image"))
    assert server.connections == 1


def test_a_reused_connection_has_the_time_of_the_new_request(server):
    dataclasses.replace(READER, total_timeout_s=1.0, read_timeout_s=1.0).read(server.url("/image"))
    assert READER.read(server.url("/late")) == IMAGE
    assert server.connections == 1


def test_threads_share_a_reader(server):
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(READER.read, [server.url("/image")] * 40)) == {IMAGE}


def test_pickle(server):
    READER.read(server.url("/image"))
    copy = pickle.loads(pickle.dumps(READER))
    assert copy == READER
    assert copy.read(server.url("/image")) == IMAGE


@pytest.mark.parametrize(
    "field",
    [{"max_bytes": 0}, {"connect_timeout_s": 0}, {"read_timeout_s": -1}, {"total_timeout_s": float("nan")},
     {"max_redirects": -1}, {"user_agent": "a\r\nX: y"}, {"user_agent": "gliéd"}],
)  # fmt: skip
def test_settings_are_checked(field):
    with pytest.raises(UsageError, match=next(iter(field))):
        WebReader(**field)


@pytest.fixture
def tls_server(tmp_path) -> Iterator[tuple[Server, Path, list[str]]]:
    """A server with a self-signed certificate for image.test, the certificate, and the requested names."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=tests", "-addext", "subjectAltName=DNS:image.test",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str] = []
    context.sni_callback = lambda sock, name, context: names.append(name)
    server = Server(("127.0.0.1", 0))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    web_client._clients.clear()
    with serving(server):
        yield server, certificate, names
    web_client._clients.clear()


def test_untrusted_certificates_are_refused(tls_server, resolver):
    server, _, _ = tls_server
    resolver(image=[["127.0.0.1"]])
    message = failure_of(server.url(f"/image?sig={SECRET}", "image.test", "https"))
    assert message.startswith("tls_failed: ")
    assert "certificate verify failed" in message
    assert server.requests == []


def test_tls_uses_the_name_and_connects_to_the_checked_address(tls_server, resolver, monkeypatch):
    server, certificate, names = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    lookups = resolver(image=[["127.0.0.1"]], other=[["127.0.0.1"]])
    for _ in range(2):
        assert READER.read(server.url("/image", "image.test", "https")) == IMAGE
    assert (lookups, names, server.connections) == (["image.test"], ["image.test"], 1)
    assert server.requests[0][1]["Host"] == f"image.test:{server.server_port}"
    assert "certificate verify failed" in failure_of(server.url("/image", "other.test", "https"))
    assert "certificate verify failed" in failure_of(server.url("/image", "127.0.0.1", "https"))
    message = failure_of(
        server.url("/slow_body", "image.test", "https"), read_timeout_s=0.3, total_timeout_s=0.5
    )
    assert message.endswith("not complete within 0.5 s")


def test_https_may_redirect_to_http(tls_server, server, resolver, monkeypatch):
    secure, certificate, _ = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    resolver(image=[["127.0.0.1"]])
    secure.redirects["/moved"] = server.url("/image")
    assert READER.read(secure.url("/moved", "image.test", "https")) == IMAGE
