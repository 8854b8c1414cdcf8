"""The connections to web hosts: one event loop per process, and sockets to addresses that were checked."""

import asyncio
import atexit
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp
from aiohttp import ClientHandlerType
from aiohttp.abc import ResolveResult

from glied.bulk.plan.sources.web_addresses import is_allowed
from glied.errors import ImageError

T = TypeVar("T")

LOOKUPS = 64
"""Names that a process resolves at once."""
IDLE_S = 15.0
"""Seconds that an idle connection is kept."""
LONGEST_HEADER = 1 << 16


class Client:
    """The event loop of a process, which runs in its own thread, and the connections."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(LOOKUPS, "lookup"))
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        threading.Thread(target=self.loop.run_forever, name="web", daemon=True).start()
        atexit.register(self.close)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def session(self, allow_private: bool) -> aiohttp.ClientSession:
        """The session of a policy; policies share no connections. To be called in the loop."""
        if allow_private not in self._sessions:
            self._sessions[allow_private] = _session(allow_private)
        return self._sessions[allow_private]

    def close(self) -> None:
        """Close all connections and end the thread."""

        async def close() -> None:
            for session in self._sessions.values():
                await session.close()

        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(close(), self.loop).result(1.0)
        self.loop.call_soon_threadsafe(self.loop.stop)


_STARTING = threading.Lock()
_clients: dict[int, Client] = {}


def client_of(pid: int) -> Client:
    """The client of the process with this id; a forked process must not use that of its parent."""
    with _STARTING:
        if pid not in _clients:
            _clients[pid] = Client()
        return _clients[pid]


def _session(allow_private: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=_CheckingResolver(allow_private),
        socket_factory=lambda candidate: _open_socket(allow_private, candidate),
        use_dns_cache=False,
        ssl=ssl.create_default_context(),
        limit=0,  # callers limit the number of requests
        keepalive_timeout=IDLE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=[_send_once],
        auto_decompress=False,  # aiohttp does not notice a truncated gzip body
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )


class NotAnswered(Exception):
    """A request failed before its answer began."""

    def __init__(self, error: aiohttp.ClientConnectionError) -> None:
        super().__init__()
        self.error = error


async def _send_once(request: aiohttp.ClientRequest, send: ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request and keep aiohttp from repeating it: `PatientReader` counts the attempts."""
    try:
        return await send(request)
    except aiohttp.ClientConnectionError as error:
        raise NotAnswered(error) from error


class _CheckingResolver(aiohttp.ThreadedResolver):
    """Refuses a host if any of its addresses is not allowed: a name with both kinds is an attack."""

    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self.allow_private = allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results = await super().resolve(host, port, family)
        for result in results:
            _check_address(result["host"], self.allow_private, host)
        return results


def _open_socket(allow_private: bool, candidate: tuple[Any, ...]) -> socket.socket:
    """A socket for one address of a host, as `socket.getaddrinfo` gives it."""
    family, kind, protocol, _, address = candidate
    _check_address(address[0], allow_private, address[0])
    return socket.socket(family, kind, protocol)


def _check_address(address: str, allow_private: bool, host: str) -> None:
    if not is_allowed(address, allow_private):
        subject = address if host == address else f"{host} is at {address}, which"
        raise ImageError("forbidden", f"{subject} must not be read from")
