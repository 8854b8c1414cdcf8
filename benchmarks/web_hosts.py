"""Serve hundreds of web hosts on this machine, many of them dead, like those of a published list of links.

    with web_hosts.start(pictures) as hosts:
        urls = hosts.urls(1000, dead=0.4)  # each with the error kind that its row must have, or None
        ...
        hosts.requests()  # number of requests per host and path

Each host has its own address of 127.0.0.0/8, so that clients treat the hosts as different ones. The server
runs in its own process.
"""

import asyncio
import json
import multiprocessing
import random
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

DEAD = {
    "unknown_name": "unreachable",
    "nobody_listens": "unreachable",
    "self_signed": "tls_failed",
    "overloaded": "http_503",
    "broken": "http_500",
    "cut_short": "connection_lost",
    "reset": "connection_lost",
    "false_gzip": "bad_answer",
    "silent": "timeout",
    "gone": "not_found",
}
"""Error kind of the row by the way in which a host is dead."""
GOOD_HOSTS = 60
DEAD_HOSTS = 10
"""Number of hosts that are dead in the same way."""
RETRY_AFTER_S = 1
GOOD_NET, DEAD_NET, CLOSED_NET = "127.0.1", "127.0.2", "127.0.3"


@dataclass(frozen=True)
class Hosts:
    """Access to the running hosts from the process that started them."""

    port: int
    tls_port: int

    def urls(self, count: int, *, dead: float) -> dict[str, str | None]:
        """Return `count` URLs in random order with their expected error kinds (None for a live host).

        Args:
            count: number of URLs.
            dead: proportion of URLs on dead hosts.
        """
        bad = round(count * dead)
        every: list[tuple[str, str | None]] = [self._good(number) for number in range(count - bad)]
        ways = list(DEAD)
        every += [self._dead(ways[number % len(ways)], number // len(ways)) for number in range(bad)]
        return dict(random.Random(0).sample(every, count))

    def requests(self) -> Counter[str]:
        """Return the number of requests per host and path."""
        with urllib.request.urlopen(f"http://{GOOD_NET}.1:{self.port}/requests", timeout=10) as answer:
            return Counter(json.load(answer))

    def _good(self, number: int) -> tuple[str, None]:
        return f"http://{GOOD_NET}.{1 + number % GOOD_HOSTS}:{self.port}/good/{number}.png?sig=s3cr3t", None

    def _dead(self, way: str, number: int) -> tuple[str, str]:
        host = f"{DEAD_NET}.{1 + number % DEAD_HOSTS}"
        place = f"http://{host}:{self.port}"
        if way == "unknown_name":
            place = f"http://host-{number % DEAD_HOSTS}.invalid"
        elif way == "nobody_listens":
            place = f"http://{CLOSED_NET}.{1 + number % DEAD_HOSTS}:{self.port}"
        elif way == "self_signed":
            place = f"https://{host}:{self.tls_port}"
        else:  # each way has its own hosts
            place = f"http://{DEAD_NET}.{100 + 10 * list(DEAD).index(way) + number % DEAD_HOSTS}:{self.port}"
        return f"{place}/{way}/{number}.png?sig=s3cr3t", DEAD[way]


@contextmanager
def start(pictures: Sequence[bytes], *, busy: float = 1 / 3, latency_s: float = 0.02) -> Iterator[Hosts]:
    """Start the hosts in a new process, and stop them at the end of the block.

    Args:
        pictures: encoded images that the good hosts serve in turn.
        busy: proportion of the good hosts that answer their first request with 429.
        latency_s: response time of a good host in seconds.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    settings = _Settings(list(pictures), round(GOOD_HOSTS * busy), latency_s)
    process = context.Process(target=_run, args=(settings, sender), daemon=True)
    process.start()
    try:
        if not receiver.poll(30):
            raise TimeoutError("the hosts do not start")
        yield Hosts(*receiver.recv())
    finally:
        process.kill()
        process.join()


@dataclass(frozen=True)
class _Settings:
    pictures: list[bytes]
    busy: int
    latency_s: float


def _run(settings: _Settings, sender: Connection) -> None:
    asyncio.run(_Server(settings).serve(sender))


@dataclass
class _Server:
    settings: _Settings
    requests: Counter[str] = field(default_factory=Counter)
    was_busy: set[str] = field(default_factory=set)

    async def serve(self, sender: Connection) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        places = [f"{GOOD_NET}.{1 + number}" for number in range(GOOD_HOSTS)]
        places += [f"{DEAD_NET}.{100 + number}" for number in range(10 * len(DEAD))]
        await asyncio.start_server(self.connection, places, port, backlog=256)
        tls_places = [f"{DEAD_NET}.{1 + number}" for number in range(DEAD_HOSTS)]
        await asyncio.start_server(self.connection, tls_places, port + 1, ssl=_self_signed())
        sender.send((port, port + 1))
        await asyncio.Event().wait()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.request(reader, writer):
                await writer.drain()
        writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1].partition("?")[0]
        host = next(line.partition(": ")[2] for line in head if line.lower().startswith("host:"))
        if path == "/requests":
            writer.write(_answer(200, json.dumps(self.requests).encode()))
            return False
        self.requests[host + path] += 1
        _, way, name = path.split("/")
        if way == "good":
            await asyncio.sleep(self.settings.latency_s)
            if host not in self.was_busy and int(host.split(":")[0].split(".")[3]) <= self.settings.busy:
                self.was_busy.add(host)
                writer.write(_answer(429, b"later", f"Retry-After: {RETRY_AFTER_S}"))
                return True
            pictures = self.settings.pictures
            writer.write(_answer(200, pictures[int(name.partition(".")[0]) % len(pictures)]))
            return True
        return await self.fail(way, writer)

    async def fail(self, way: str, writer: asyncio.StreamWriter) -> bool:
        picture = self.settings.pictures[0]
        if way in ("overloaded", "broken", "gone"):
            writer.write(_answer({"overloaded": 503, "broken": 500, "gone": 404}[way], b"<html>no</html>"))
            return True
        if way == "false_gzip":
            writer.write(_answer(200, picture, "Content-Encoding: gzip"))
            return True
        if way == "cut_short":
            whole = _answer(200, picture)
            writer.write(whole[: -len(picture) // 2])
        elif way == "silent":
            await asyncio.sleep(60)
        elif way == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return False


def _answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _self_signed() -> ssl.SSLContext | None:
    """Return a context with a self-signed certificate, or None without openssl: no TLS fails as well."""
    if shutil.which("openssl") is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = str(Path(folder) / "key.pem"), str(Path(folder) / "certificate.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=hosts", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        context.load_cert_chain(certificate, key)
    return context
