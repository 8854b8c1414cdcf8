"""A proxy for an S3 server that breaks some of the requests, as networks and busy servers do.

    with fault_proxy.start("http://127.0.0.1:5000", share=0.1, seed=3) as proxy:
        ...  # clients use proxy.endpoint; proxy.counts() has the faults

It runs in its own process. Which request breaks, and how, depends on the seed, the request's method and
address, and the number of earlier requests for it, but not on the order in which requests arrive.
"""

import asyncio
import multiprocessing
import random
import re
import socket
import struct
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

FAULTS = (
    "slow_down",  # 503; the request does not reach the server
    "slow_down_after",  # 503, although the server has executed the request
    "reset",  # the connection is reset; the request does not reach the server
    "reset_after",  # the connection is reset, although the server has executed the request
    "slow",  # the answer arrives in pieces with pauses
    "truncated",  # the answer is truncated
    "hang",  # no answer for some time, then the connection is closed
)
LIES = (
    "short",  # GET of an object: the answer has fewer bytes than the object, with a matching length
    "same_page",  # continued listing: the last page is repeated
)
"""Faults that no client can detect; they occur only if requested."""
_OF_WRITES = ("slow_down_after", "reset_after")
"""Faults that differ from similar ones only for requests that change the server's state."""
_SIGNATURE = re.compile(rb"[?&](?:X-Amz-|x-id=)[^&]*")
"""Query parameters that signing adds, which differ from call to call."""
_PIECES = 5
_LIMIT = 1 << 20
_OF_CONNECTIONS = (b"connection", b"keep-alive", b"expect")
"""Headers that apply to one connection."""

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>0</RequestId></Error>"
)


@dataclass(frozen=True)
class Settings:
    """Arguments of `start`, which are sent to the process."""

    host: str
    port: int
    seed: int
    faults: tuple[str, ...]
    hang_seconds: float
    slow_seconds: float


@dataclass(frozen=True)
class Proxy:
    """Access to a running proxy from the process that started it."""

    endpoint: str
    _share: Any
    _counts: Any

    def set_share(self, share: float) -> None:
        """Set the proportion of requests to break from now on."""
        self._share.value = share

    def counts(self) -> dict[str, int]:
        """Return the number of requests, under "requests", and the number of each fault."""
        counts = dict(zip(("requests", *FAULTS, *LIES), self._counts, strict=True))
        return {name: count for name, count in counts.items() if count or name not in LIES}


@contextmanager
def start(
    target: str,
    *,
    share: float = 0.1,
    seed: int = 0,
    faults: Sequence[str] = FAULTS,
    hang_seconds: float = 1.0,
    slow_seconds: float = 0.3,
) -> Iterator[Proxy]:
    """Run a proxy for the HTTP server at `target`.

    Args:
        target: the server's endpoint, such as "http://127.0.0.1:5000".
        share: proportion of requests with a fault, in 0..1.
        seed: determines which requests break.
        faults: faults to choose from, of `FAULTS` and `LIES`.
        hang_seconds: how long the client waits for a "hang".
        slow_seconds: how long a "slow" answer takes.
    """
    if unknown := set(faults) - {*FAULTS, *LIES}:
        raise ValueError(f"unknown faults {sorted(unknown)}; known are {', '.join((*FAULTS, *LIES))}")
    address = urllib.parse.urlsplit(target)
    assert address.hostname
    assert address.port
    settings = Settings(address.hostname, address.port, seed, tuple(faults), hang_seconds, slow_seconds)
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked process would inherit locks of this process's threads
    receiver, sender = context.Pipe(duplex=False)
    proxy_share, counts = context.Value("d", share), context.Array("L", 1 + len(FAULTS) + len(LIES))
    process = context.Process(target=_run, args=(settings, sender, proxy_share, counts), daemon=True)
    process.start()
    try:
        if not receiver.poll(30):
            raise TimeoutError("the proxy does not start")
        yield Proxy(f"http://127.0.0.1:{receiver.recv()}", proxy_share, counts)
    finally:
        process.kill()
        process.join()


def _run(settings: Settings, sender: Connection, share: Any, counts: Any) -> None:
    asyncio.run(_Server(settings, share, counts).serve(sender))


class _Broken(Exception):
    """The connection must be closed."""


@dataclass
class _Message:
    """A request or an answer of HTTP.

    Attributes:
        lines: first line and headers.
        body: body as transferred, chunk sizes included.
    """

    lines: list[bytes]
    body: bytes = b""

    def header(self, name: bytes) -> bytes:
        """Return a header's value in lower case, or an empty string."""
        for line in self.lines[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip().lower()
        return b""

    def head(self, *extra: bytes) -> bytes:
        """Return the head for another connection."""
        kept = [line for line in self.lines[1:] if line.partition(b":")[0].lower() not in _OF_CONNECTIONS]
        return b"\r\n".join([self.lines[0], *kept, *extra, b"", b""])


@dataclass
class _Server:
    settings: Settings
    share: Any
    counts: Any
    asked: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    page: _Message | None = None

    async def serve(self, sender: Connection) -> None:
        """Serve until the parent kills this process or exits."""
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=_LIMIT, backlog=512)
        sender.send(server.sockets[0].getsockname()[1])
        parent, over = multiprocessing.parent_process(), asyncio.Event()
        assert parent is not None
        asyncio.get_running_loop().add_reader(parent.sentinel, over.set)
        await over.wait()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle the requests of one client."""
        with suppress(_Broken, ConnectionError, asyncio.IncompleteReadError):
            while await self.request(reader, writer):
                pass
        writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the client may send another."""
        request = _Message(await _read_lines(reader))
        method, path, _ = request.lines[0].split(b" ")
        fault = self.draw(method, path)
        if fault == "reset":
            _reset(writer)
        if fault == "hang":
            await asyncio.sleep(self.settings.hang_seconds)
            raise _Broken
        if request.header(b"expect") == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.body = await _read_body(reader, request)
        answer = _slow_down(method) if fault == "slow_down" else await self.forward(request, method)
        if fault == "reset_after":
            _reset(writer)
        if fault == "slow_down_after":
            answer = _slow_down(method)
        if fault == "short":
            _shorten(answer)
        if fault == "same_page" and self.page is not None:
            answer = self.page
        if b"list-type=2" in path:
            self.page = answer
        await self.send(writer, answer, fault)
        return request.header(b"connection") != b"close" and _states_length(answer, method)

    def draw(self, method: bytes, path: bytes) -> str:
        """Draw and count the fault of a request; empty for none."""
        self.counts[0] += 1
        path = _SIGNATURE.sub(b"", path)
        self.asked[method, path] += 1
        key = f"{self.settings.seed} {method!r} {path!r} {self.asked[method, path]}"
        chance = random.Random(key)
        reads = method in (b"GET", b"HEAD", b"OPTIONS")
        listing = b"list-type=2" in path
        unfit = {*(_OF_WRITES if reads else ())}
        unfit |= set() if method == b"GET" and not listing else {"short"}
        unfit |= set() if b"continuation-token=" in path else {"same_page"}
        faults = [name for name in self.settings.faults if name not in unfit]
        if not faults or chance.random() >= self.share.value:
            return ""
        fault = chance.choice(faults)
        self.counts[1 + (*FAULTS, *LIES).index(fault)] += 1
        return fault

    async def forward(self, request: _Message, method: bytes) -> _Message:
        """Return the server's answer, over a new connection."""
        settings = self.settings
        reader, writer = await asyncio.open_connection(settings.host, settings.port, limit=_LIMIT)
        try:
            writer.write(request.head(b"Connection: close") + request.body)
            await writer.drain()
            answer = _Message(await _read_lines(reader))
            while answer.lines[0].split(b" ")[1] == b"100":
                answer = _Message(await _read_lines(reader))
            if not _is_bodiless(answer, method):
                answer.body = await _read_body(reader, answer, until_closed=True)
            return answer
        finally:
            writer.close()

    async def send(self, writer: asyncio.StreamWriter, answer: _Message, fault: str) -> None:
        """Write an answer, possibly truncated."""
        head = answer.head()
        data = head + answer.body
        if fault == "truncated":
            # An answer without a body is truncated within its head.
            writer.write(data[: len(head) + len(answer.body) // 2 if answer.body else len(head) // 2])
            await writer.drain()
            raise _Broken
        pieces = _PIECES if fault == "slow" else 1
        step = -(-len(data) // pieces)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if fault == "slow":
                await asyncio.sleep(self.settings.slow_seconds / pieces)


def _shorten(answer: _Message) -> None:
    """Return half of the body with a matching length; Content-Range stays unchanged."""
    answer.body = answer.body[: len(answer.body) // 2]
    answer.lines = [
        b"Content-Length: %d" % len(answer.body) if line.lower().startswith(b"content-length:") else line
        for line in answer.lines
    ]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST packet, by a linger time of zero."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise _Broken


def _slow_down(method: bytes) -> _Message:
    lines = [
        b"HTTP/1.1 503 Slow Down",
        b"Content-Type: application/xml",
        b"Content-Length: %d" % len(SLOW_DOWN),
    ]
    return _Message(lines, b"" if method == b"HEAD" else SLOW_DOWN)


async def _read_lines(reader: asyncio.StreamReader) -> list[bytes]:
    return (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")


async def _read_body(reader: asyncio.StreamReader, message: _Message, *, until_closed: bool = False) -> bytes:
    if message.header(b"transfer-encoding") == b"chunked":
        return await _read_chunks(reader)
    if length := message.header(b"content-length"):
        return await reader.readexactly(int(length))
    return await reader.read() if until_closed else b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        parts.append(await reader.readuntil(b"\r\n"))
        size = int(parts[-1].split(b";")[0], 16)
        if size == 0:
            break
        parts.append(await reader.readexactly(size + 2))
    while parts[-1] != b"\r\n":  # trailers
        parts.append(await reader.readuntil(b"\r\n"))
    return b"".join(parts)


def _is_bodiless(answer: _Message, method: bytes) -> bool:
    return method == b"HEAD" or answer.lines[0].split(b" ")[1] in (b"204", b"304")


def _states_length(answer: _Message, method: bytes) -> bool:
    """Return whether the client can recognize the end of the answer on an open connection."""
    stated = answer.header(b"content-length") or answer.header(b"transfer-encoding") == b"chunked"
    return bool(stated) or _is_bodiless(answer, method)
