"""Image bytes from `http(s)://` URLs of tables that anyone may have written.

The threat is server-side request forgery: a URL, a DNS answer or a redirect that leads a worker to loopback,
to the inside of the network or to the metadata service of the cloud. So each host is resolved here, once per
connection; every answer is judged; and the socket is opened to the very address that was judged, while TLS
and the Host header keep the name. Redirects are followed here and pass the same way.

urllib3 speaks HTTP. Of its internals only `HTTPConnection._new_conn` is replaced; should an update stop
calling it, requests fail instead of going out unchecked. Its decoders are asked whether they saw the end.
"""

import contextlib
import email.utils
import functools
import http.client
import ipaddress
import logging
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection, port_by_scheme
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.response import GzipDecoderState
from urllib3.util import Url, parse_url

from glied.bulk.plan.sources import web_hosts
from glied.bulk.plan.sources.web_hosts import HostError
from glied.errors import ImageError, UsageError
from glied.redaction import shown

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Candidate = tuple[Any, ...]
"""One answer of `socket.getaddrinfo`: family, type, protocol, canonical name, socket address."""

RETRIED = frozenset({408, 425, 429})
"""Answers below 500 that another time may be different."""
HOSTS = 32
"""Hosts per process whose idle connections are kept."""
IDLE = 64
"""Idle connections kept per host; above the number of threads, so that none is thrown away."""
STEP = 1 << 16
"""Bytes per read."""

_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    # What `is_global` lets through on some Python versions: protocol assignments, relays, documentation.
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")
)
_METADATA = tuple(
    # Link-local, and the services that hand out credentials elsewhere: AWS, Google, Alibaba, Azure, Oracle.
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "192.0.0.192/32",
    )
)


@dataclass(frozen=True, kw_only=True)
class WebReader:
    """Reads images from the web; safe to share between threads and to pickle.

    Idle connections are kept per process, host and `allow_private`, not in the instance. Proxies of the
    environment are ignored: they would resolve the host themselves. Redirects may lead from https to http,
    as image hosts do; no cookies, credentials or referrers are ever sent.
    """

    max_bytes: int = 1 << 28
    """Larger bodies are refused; for compressed ones the decoded bytes count."""
    connect_timeout_s: float = 5.0
    """Seconds to reach one address of the host, and again for the TLS handshake."""
    read_timeout_s: float = 10.0
    """Seconds of silence after which an answer is given up."""
    total_timeout_s: float = 60.0
    """Seconds for all of it with its redirects; only a name lookup, bounded by the resolver, may run over."""
    max_redirects: int = 5
    """Redirects that are followed."""
    allow_private: bool = False
    """Also connect to private, loopback and reserved addresses; link-local and metadata services never."""
    user_agent: str = "glied (bulk image captioning)"
    """How the requests introduce themselves; hosts ask for a way to reach the operator."""

    def __post_init__(self) -> None:
        """Refuse bounds that leave nothing and a user agent that is no header."""
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
            HostError: it may succeed later: time-outs, name lookups, connections, certificates, truncated or
                undecodable bodies, status 408, 425, 429, 5xx.
        """
        _clock.start(self.total_timeout_s, self.read_timeout_s)
        target = _parse(url)
        limit = self.max_bytes if max_bytes is None else max_bytes
        for _ in range(self.max_redirects + 1):
            result = self._visit(target, limit)
            if isinstance(result, bytes):
                return result
            target = result
        raise ImageError("too_many_redirects", f"{_shown(target)}: more than {self.max_redirects} redirects")

    def _visit(self, url: Url, max_bytes: int) -> bytes | Url:
        """The body, or where it has moved."""
        try:
            response = self._request(url)
            try:
                location = response.get_redirect_location()
                if location:
                    return _follow(url, location)
                _check_status(url, response)
                return _body(url, response, max_bytes)
            finally:
                # After a complete body this does nothing; a rest is never waited for.
                response.close()
                response.release_conn()
        except HTTPError as error:
            raise self._failure(url, error) from error

    def _request(self, url: Url) -> urllib3.BaseHTTPResponse:
        scheme = str(url.scheme)
        # Always with a port: without one, http.client takes the last group of an IPv6 address for it.
        port = url.port or port_by_scheme[scheme]
        pool = _pool(os.getpid(), scheme, str(url.host), port, self.allow_private)
        return pool.urlopen(
            "GET",
            url.request_uri,
            # Images are compressed already; a server that compresses all the same is understood.
            headers={"User-Agent": self.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"},
            timeout=urllib3.Timeout(connect=self.connect_timeout_s, read=self.read_timeout_s),
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _failure(self, url: Url, error: HTTPError) -> HostError:
        kind, reached, reason = _diagnosis(error)
        if kind == web_hosts.TIMEOUT and _clock.left() <= 0:
            reason = f"not complete within {self.total_timeout_s:g} s"
        elif kind == web_hosts.TIMEOUT and not reached:
            reason = f"no connection within {self.connect_timeout_s:g} s"
        elif kind == web_hosts.TIMEOUT:
            reason = f"silent for {self.read_timeout_s:g} s"
        return HostError(kind, f"{_shown(url)}: {reason}", host=_host(url), reached=reached)


def _body(url: Url, response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    body = bytearray()
    fits = (response.length_remaining or 0) <= max_bytes
    while fits:
        # urllib3 inflates no more than what is asked for.
        data = response.read(min(STEP, max_bytes + 1 - len(body)), decode_content=True)
        if not data:
            _check_decoded(url, response)
            return bytes(body)
        body += data
        fits = len(body) <= max_bytes
    raise ImageError("too_large", f"{_shown(url)}: more than the {max_bytes} bytes allowed")


def _check_decoded(url: Url, response: urllib3.BaseHTTPResponse) -> None:
    """Refuse compressed data that end too early: urllib3 returns what it could inflate."""
    decoder = getattr(response, "_decoder", None)
    decoders = getattr(decoder, "_decoders", [decoder] if decoder else [])
    if not all(_at_end(one) for one in decoders):
        reason = "the compressed body ends too early"
        raise HostError(web_hosts.CONNECTION_LOST, f"{_shown(url)}: {reason}", host=_host(url))


def _at_end(decoder: Any) -> bool:
    """Whether a decoder of urllib3 has seen the end of its data; bytes after a gzip member may be none."""
    if getattr(decoder, "_state", None) is GzipDecoderState.SWALLOW_DATA:
        return True
    stream = decoder._obj
    return bool(stream.is_finished() if hasattr(stream, "is_finished") else stream.eof)


def _diagnosis(error: HTTPError) -> tuple[str, bool, str]:
    """Kind of failure, whether the host took the connection, and the reason in words."""
    reason = _reason(error)
    if isinstance(error, NewConnectionError):  # to urllib3 a refused connection is a time-out as well
        return web_hosts.UNREACHABLE, False, reason
    if isinstance(error, urllib3.exceptions.SSLError):
        return web_hosts.TLS_FAILED, False, reason
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return web_hosts.TIMEOUT, not isinstance(error, ConnectTimeoutError), reason
    cause = _cause(error)
    # http.client says BadStatusLine of a closed connection too.
    lost = isinstance(cause, (http.client.IncompleteRead, ConnectionError, http.client.RemoteDisconnected))
    return web_hosts.CONNECTION_LOST if lost else web_hosts.BAD_ANSWER, True, reason


def is_allowed(address: str, allow_private: bool) -> bool:
    """Whether a connection may go to a numeric IPv4 or IPv6 address.

    IPv6 forms that carry IPv4 addresses are judged by these. Without `allow_private` only global unicast
    addresses pass; link-local ones and the metadata services of clouds pass in no case.
    """
    judged = _meant(ipaddress.ip_address(address))
    if any(ip in network for ip in judged for network in _METADATA):
        return False
    return allow_private or all(_is_public(ip) for ip in judged)


def _meant(ip: IPAddress) -> Sequence[IPAddress]:
    """Where packets to `ip` may end: there, or at the IPv4 addresses that it carries."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip in _NAT64:
        return [ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    carried = ip.ipv4_mapped or ip.sixtofour
    return [carried] if carried else ip.teredo or [ip]


def _is_public(ip: IPAddress) -> bool:
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in net for net in _NOT_PUBLIC):
        return False
    return ip.version == 4 or ip in _GLOBAL_IPV6


class _Clock(threading.local):
    """How long the request of this thread may still wait.

    urllib3 bounds each receive and not their sum. The sockets ask here instead, so that a server which sends
    a byte now and then, in headers or body, ends too.
    """

    deadline = 0.0
    silence = 0.0

    def start(self, total_s: float, silence_s: float) -> None:
        """Begin a request."""
        self.deadline = time.monotonic() + total_s
        self.silence = silence_s

    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def wait(self, most_s: float) -> float:
        """The seconds to wait next, at most `most_s`.

        Raises:
            TimeoutError: the time is up.
        """
        left = self.left()
        if left <= 0:
            raise TimeoutError("the time is up")
        return min(most_s, left)


_clock = _Clock()


class _Timed(socket.socket):
    """A socket that waits as long as its thread's clock allows."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_clock.wait(_clock.silence))
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_clock.wait(_clock.silence))
        super().sendall(*args, **kwargs)


class _TimedTls(_Timed, ssl.SSLSocket):
    """The same under TLS."""


class _Http(HTTPConnection):
    """A connection to an address that was judged."""

    def __init__(self, *args: Any, allow_private: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_private = allow_private

    def connect(self) -> None:
        super().connect()
        if not isinstance(self.sock, _Timed):
            self.close()
            raise RuntimeError("this version of urllib3 does not connect through HTTPConnection._new_conn")

    def _new_conn(self) -> socket.socket:
        # urllib3's own exceptions: it takes some OSErrors here for a server that answers early.
        try:
            candidates = _resolve(self.host, self.port, self.allow_private)
            return _connect_first(candidates, float(self.timeout or 0), self.socket_options or ())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "time-out") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error


class _Https(_Http, HTTPSConnection):
    """The same under TLS, which checks the certificate against the host's name."""


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


@functools.lru_cache(maxsize=HOSTS)
def _pool(pid: int, scheme: str, host: str, port: int, allow_private: bool) -> urllib3.HTTPConnectionPool:
    """The idle connections to a host; `pid` keeps a forked process from using its parent's."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # in workers too: its warnings quote whole URLs
    if scheme == "http":
        return _HttpPool(host, port, maxsize=IDLE, allow_private=allow_private)
    return _HttpsPool(host, port, maxsize=IDLE, allow_private=allow_private, ssl_context=_tls())


@functools.cache
def _tls() -> ssl.SSLContext:
    """The system's trust (or SSL_CERT_FILE's); to load it for every host would take longer than an image."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TimedTls
    return context


def _resolve(host: str, port: int, allow_private: bool) -> list[Candidate]:
    """The addresses of a host, all of them judged: a name that mixes good and bad ones is no accident."""
    try:
        candidates: list[Candidate] = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError as error:
        raise ImageError("bad_url", "the host name has an empty or too long part") from error
    except socket.gaierror:
        with contextlib.suppress(ValueError):  # a name
            # An address is judged also where this machine does not have the interface that it names.
            _judge(host, str(ipaddress.ip_address(host)), allow_private)
        raise
    for *_, address in candidates:
        _judge(host, address[0], allow_private)
    return candidates


def _judge(host: str, address: str, allow_private: bool) -> None:
    if not is_allowed(address, allow_private):
        raise ImageError("forbidden", f"{host} is at {address}, which must not be read from")


def _connect_first(
    candidates: list[Candidate], timeout_s: float, options: Sequence[tuple[Any, ...]]
) -> socket.socket:
    """A connection to the first candidate that takes one; raises the last one's OSError if none does."""
    failure = OSError("no address")
    for candidate in candidates:
        try:
            return _connect(candidate, timeout_s, options)
        except OSError as error:
            failure = error
    raise failure


def _connect(candidate: Candidate, timeout_s: float, options: Sequence[tuple[Any, ...]]) -> socket.socket:
    family, kind, protocol, _, address = candidate
    sock = _Timed(family, kind, protocol)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(_clock.wait(timeout_s))
        sock.connect(address)  # numeric: nothing is looked up again
        sock.settimeout(_clock.wait(timeout_s))  # bounds the TLS handshake as a whole
    except BaseException:
        sock.close()
        raise
    return sock


def _parse(url: str) -> Url:
    """A URL in normal form: characters that must be quoted are, what is quoted stays.

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
    return parsed


def _follow(url: Url, location: str) -> Url:
    """Where a redirect from `url` leads."""
    with contextlib.suppress(UnicodeError):
        # Header bytes come as Latin-1; hosts that do not quote send UTF-8.
        location = location.encode("latin-1").decode("utf-8")
    try:
        return _parse(urllib.parse.urljoin(url.url, location))
    except ImageError as error:
        raise ImageError(error.kind, f"{_shown(url)}: redirect: {error.message}") from error
    except ValueError as error:
        raise ImageError("bad_url", f"{_shown(url)}: redirect to no valid URL") from error


def _check_status(url: Url, response: urllib3.BaseHTTPResponse) -> None:
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
    """Whether a range is all of the file, or does not say what part it is."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range.strip())
    return match is None or (int(match[1]) == 0 and int(match[2]) + 1 == int(match[3]))


def _retry_after_s(value: str) -> float:
    """The seconds that a Retry-After header asks for; 0 if it is none."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    return 0.0


def _host(url: Url) -> str:
    """Name and port, as `HostError` has them."""
    return str(url.netloc).lower()


def _shown(url: Url) -> str:
    """What a message may say of a URL."""
    return shown(url.url)


def _cause(error: HTTPError) -> BaseException | None:
    return next((arg for arg in error.args if isinstance(arg, Exception)), error.__cause__)


def _reason(error: HTTPError) -> str:
    """One line without anything that the server said: it may repeat the query."""
    cause = _cause(error)
    if isinstance(cause, http.client.IncompleteRead):
        return "the body is shorter than announced"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return ": ".join(type(part).__name__ for part in (error, cause) if part is not None)
