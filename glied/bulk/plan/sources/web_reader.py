"""Image bytes from `http(s)://` URLs of tables that anyone may have written.

The threat is server-side request forgery: a URL, a DNS answer or a redirect that leads a worker to loopback,
into the network or to the metadata service of the cloud. So the addresses of a host are checked when aiohttp
resolves it, before each connection, and the address of a socket is checked when it is opened, which covers
URLs that hold an address. TLS and the Host header keep the name. Redirects are followed here and go the same
way.

Requests run in one event loop per process, in a thread of its own; the threads that read wait for it.
"""

import asyncio
import contextlib
import email.utils
import os
import re
import socket
import ssl
import time
import urllib.parse
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp
import yarl
from urllib3.util import Url, parse_url

from glied.bulk.plan.sources import content_codings, web_hosts
from glied.bulk.plan.sources.web_client import Client, NotAnswered, client_of
from glied.bulk.plan.sources.web_hosts import HostError
from glied.errors import ImageError, UsageError
from glied.redaction import shown

RETRIED = frozenset({408, 425, 429})
"""Statuses below 500 that may change when the host is asked again."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, kw_only=True)
class WebReader:
    """Reads images from the web; safe to share between threads and to pickle.

    Idle connections are kept per process and `allow_private`, not in the instance. Proxies of the environment
    are ignored: they would resolve the host themselves. Redirects may lead from https to http, as image hosts
    do; no cookies, credentials or referrers are ever sent.
    """

    max_bytes: int = 1 << 28
    """Larger bodies are refused; for compressed ones the decoded bytes count."""
    connect_timeout_s: float = 5.0
    """Seconds to connect to the host, the TLS handshake included."""
    read_timeout_s: float = 10.0
    """Seconds of silence after which a request is given up."""
    total_timeout_s: float = 60.0
    """Seconds for the name lookup, the request and its redirects together."""
    max_redirects: int = 5
    """Redirects that are followed."""
    allow_private: bool = False
    """Also connect to private, loopback and reserved addresses; link-local and metadata services never."""
    user_agent: str = "glied (bulk image captioning)"
    """How the requests introduce themselves; hosts ask for a way to reach the operator."""

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing and a user agent that is not a valid header."""
        for name in ("max_bytes", "connect_timeout_s", "read_timeout_s", "total_timeout_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: {getattr(self, name)} is not above 0")
        if self.max_redirects < 0:
            raise UsageError(f"max_redirects: {self.max_redirects} is negative")
        if not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise UsageError(f"user_agent: {self.user_agent!r} has other characters than printable ASCII")

    def read(self, url: str, max_bytes: int | None = None) -> bytes:
        """The body behind `url`, at most `max_bytes` of it, by default those of the reader.

        Messages name neither the query nor the credentials of a URL: they may be signed or secret.

        Raises:
            ImageError: a retry is pointless. Its kind is "bad_url" (no http(s) URL, or one with credentials),
                "forbidden", "not_found", "refused", "too_large" or "too_many_redirects".
            HostError: it may succeed later: timeouts, name lookups, connections, certificates, truncated or
                undecodable bodies, status 408, 425, 429, 5xx.
        """
        target = _parse(url)
        limit = self.max_bytes if max_bytes is None else max_bytes
        client = client_of(os.getpid())
        return _content(client.run(self._follow_redirects(client, target, limit)), limit)

    async def _follow_redirects(self, client: Client, url: Url, max_bytes: int) -> "_Answer":
        session = client.session(self.allow_private)
        deadline = time.monotonic() + self.total_timeout_s
        for _ in range(self.max_redirects + 1):
            try:
                result = await self._visit(session, url, max_bytes, deadline - time.monotonic())
            except (UnicodeError, aiohttp.InvalidURL) as error:
                raise ImageError("bad_url", f"{_shown(url)}: the host name is not valid") from error
            except NotAnswered as failure:
                raise self._failure(url, failure.error) from failure.error
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                raise self._failure(url, error) from error
            if isinstance(result, _Answer):
                return result
            url = result
        raise ImageError("too_many_redirects", f"{_shown(url)}: more than {self.max_redirects} redirects")

    async def _visit(
        self, session: aiohttp.ClientSession, url: Url, max_bytes: int, left_s: float
    ) -> "_Answer | Url":
        """The answer, or where it has moved."""
        if left_s <= 0:
            raise asyncio.TimeoutError
        timeout = aiohttp.ClientTimeout(
            total=left_s, sock_connect=self.connect_timeout_s, sock_read=self.read_timeout_s
        )
        response = await session.get(
            yarl.URL(url.url, encoded=True),
            # Images are compressed already; a server that compresses all the same is understood.
            headers={"User-Agent": self.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=timeout,
            allow_redirects=False,
        )
        try:
            location = response.headers.get("Location")
            if location and response.status in REDIRECTS:
                return _redirected(url, location)
            _check_status(url, response)
            body = await _body(url, response, max_bytes)
            return _Answer(url, response.headers.get("Content-Encoding", ""), body)
        finally:
            response.close()  # does nothing after a complete body; the rest of another one is not waited for

    def _failure(self, url: Url, error: Exception) -> HostError:
        """What has failed, in one line without anything that the server said: it may repeat the query."""
        kind, reached, reason = _diagnosis(error)
        if isinstance(error, aiohttp.SocketTimeoutError):
            reason = f"silent for {self.read_timeout_s:g} s"
        elif isinstance(error, aiohttp.ConnectionTimeoutError):
            reason = f"no connection within {self.connect_timeout_s:g} s"
        elif isinstance(error, asyncio.TimeoutError):
            reason = f"not complete within {self.total_timeout_s:g} s"
        return HostError(kind, f"{_shown(url)}: {reason}", host=_host(url), reached=reached)


class _Answer(NamedTuple):
    """A body as it was sent; `codings` is the Content-Encoding header."""

    url: Url
    codings: str
    body: bytes


async def _body(url: Url, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    if (response.content_length or 0) > max_bytes:
        raise _too_large(url, max_bytes)
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > max_bytes:
            raise _too_large(url, max_bytes)
    return bytes(body)


def _content(answer: _Answer, max_bytes: int) -> bytes:
    """The body, decompressed."""
    url = answer.url
    try:
        content = content_codings.decoded(answer.body, answer.codings, max_bytes)
    except content_codings.Truncated as error:
        message = f"{_shown(url)}: the compressed body ends too early"
        raise HostError(web_hosts.CONNECTION_LOST, message, host=_host(url)) from error
    except zlib.error as error:
        message = f"{_shown(url)}: the body is not compressed in the way that its header says"
        raise HostError(web_hosts.BAD_ANSWER, message, host=_host(url)) from error
    if len(content) > max_bytes:
        raise _too_large(url, max_bytes)
    return content


def _too_large(url: Url, max_bytes: int) -> ImageError:
    return ImageError("too_large", f"{_shown(url)}: more than the {max_bytes} bytes allowed")


def _diagnosis(error: Exception) -> tuple[str, bool, str]:
    """Kind of failure, whether the host took the connection, and the reason in words."""
    if isinstance(error, asyncio.TimeoutError):
        return web_hosts.TIMEOUT, not isinstance(error, aiohttp.ConnectionTimeoutError), "timeout"
    if isinstance(error, aiohttp.ClientSSLError):
        return web_hosts.TLS_FAILED, False, _in_words(error.__cause__)
    if isinstance(error, aiohttp.ClientConnectorError):
        return web_hosts.UNREACHABLE, False, _in_words(error.os_error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return web_hosts.CONNECTION_LOST, True, "the body is shorter than announced"
    if isinstance(error, aiohttp.ClientConnectionError):
        return web_hosts.CONNECTION_LOST, True, _in_words(error)
    return web_hosts.BAD_ANSWER, True, "the answer is not HTTP"


def _in_words(error: BaseException | None) -> str:
    if not isinstance(error, OSError):
        return "the host closed the connection"
    if isinstance(error, ssl.SSLError | socket.gaierror) or not error.errno:  # their numbers are their own
        return error.strerror or "no connection"
    return os.strerror(error.errno)


def _parse(url: str) -> Url:
    """A URL in normal form: quoted where necessary, without quoting again.

    Raises:
        ImageError: "bad_url".
    """
    text = url.strip()
    if not re.match("https?://", text, re.IGNORECASE):
        raise ImageError("bad_url", "does not begin with http:// or https://")
    try:
        parsed = parse_url(text)
    except ValueError as error:
        raise ImageError("bad_url", "has no valid host or port") from error
    if not re.fullmatch("[!-~]+", parsed.host or "") or parsed.port == 0:
        raise ImageError("bad_url", "has no valid host or port")
    if parsed.auth is not None:
        raise ImageError("bad_url", f"{_shown(parsed)}: holds credentials; they are not sent")
    return parsed._replace(host=_canonical(str(parsed.host)))


def _canonical(host: str) -> str:
    """An IPv4 address that is written as 127.1 or 0x7f000001 in its usual form; other hosts as they are."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def _redirected(url: Url, location: str) -> Url:
    """Where a redirect from `url` leads."""
    if not _is_unicode(location):  # bytes that are not UTF-8, as "surrogateescape" decodes them
        location = location.encode(errors="surrogateescape").decode("latin-1")
    try:
        return _parse(urllib.parse.urljoin(url.url, location))
    except ImageError as error:
        raise ImageError(error.kind, f"{_shown(url)}: redirect: {error.message}") from error
    except ValueError as error:
        raise ImageError("bad_url", f"{_shown(url)}: redirect to no valid URL") from error


def _is_unicode(text: str) -> bool:
    return not re.search("[\ud800-\udfff]", text)


def _check_status(url: Url, response: aiohttp.ClientResponse) -> None:
    status = response.status
    message = f"{_shown(url)}: status {status}"
    if status == 206 and not _is_whole(response.headers.get("Content-Range", "")):
        raise HostError(web_hosts.BAD_ANSWER, f"{message}, a part that was not asked for", host=_host(url))
    if 200 <= status < 300:
        return
    if status in (404, 410):
        raise ImageError("not_found", message)
    if status >= 500 or status in RETRIED:
        pause = _retry_after_s(response.headers.get("Retry-After", ""))
        raise HostError(f"{web_hosts.HTTP}{status}", message, host=_host(url), retry_after_s=pause)
    if status < 200:
        raise HostError(web_hosts.BAD_ANSWER, message, host=_host(url))
    raise ImageError("refused", message)


def _is_whole(content_range: str) -> bool:
    """Whether a range is all of the file, or unspecified."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range.strip())
    return match is None or (int(match[1]) == 0 and int(match[2]) + 1 == int(match[3]))


def _retry_after_s(value: str) -> float:
    """The seconds that a Retry-After header requests; 0 if it is not valid."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    return 0.0


def _host(url: Url) -> str:
    """Name and port, as in `HostError`."""
    return str(url.netloc).lower()


def _shown(url: Url) -> str:
    """The part of a URL that messages may show."""
    return shown(url.url)
