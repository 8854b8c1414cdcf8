"""Downloading files: interrupted transfers resume, digests are checked, and files appear only when complete.

`<file>.part` holds the bytes received so far and `<file>.part.json` their version (ETag or date): the server
is asked for the rest of that version, and sends a changed file from its beginning.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import tenacity
import urllib3
from tqdm import tqdm

from glied.errors import JobError, UsageError

log = logging.getLogger(__name__)

RECORD = "downloads.json"
_BLOCK = 1 << 20
_TIMEOUT_S = (30, 60)  # to connect, and of silence
_ATTEMPTS = 6
"""A download fails after so many transfers in a row that delivered nothing."""
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?")


@dataclass(frozen=True, kw_only=True)
class AssetConfig:
    """A file that is published somewhere."""

    url: str
    """Its http(s) URL; or a local path, which is used in place."""
    digest: str = ""
    """sha256:... or md5:... of the file. If it is empty, the SHA-256 of the first download is recorded, and
    later downloads must have it."""

    def __post_init__(self) -> None:
        """Refuse URLs of other schemes and malformed digests."""
        if not self.url:
            raise UsageError("url is empty")
        if "://" in self.url and not self.remote:
            raise UsageError(f"url {self.url}: only http(s) and local paths are read")
        if not _DIGEST.fullmatch(self.digest):
            raise UsageError(f"digest {self.digest!r}: expected sha256: or md5: and hexadecimal digits")

    @property
    def remote(self) -> bool:
        """Whether it must be downloaded."""
        return self.url.startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Asset:
    """A local file that was checked.

    Attributes:
        path: where it is.
        sha256: hexadecimal.
        bytes: its size.
        trusted: whether its digest was given, and not recorded at the first download.
    """

    path: Path
    sha256: str
    bytes: int
    trusted: bool


class Downloads:
    """The downloaded files of a folder, with their digests in `downloads.json`."""

    def __init__(self, folder: Path, *, verify: bool = False, pause_s: float = 1.0) -> None:
        """Reads `downloads.json`.

        Args:
            folder: where the files are put.
            verify: hash existing files again; otherwise size and time must match.
            pause_s: before the second attempt; doubled for each further one, up to a minute.
        """
        self.folder = folder
        self.verify = verify
        self.pause_s = pause_s
        self._record = _read_record(folder / RECORD)

    def get(self, asset: AssetConfig) -> Asset:
        """The file, downloaded unless it exists.

        Raises:
            UsageError: a local file is missing.
            JobError: it cannot be downloaded, or its digest does not match.
        """
        path = self._path(asset)
        if not asset.remote and not path.is_file():
            raise UsageError(f"url {asset.url}: no such file")
        known = self._record.get(asset.url)
        if path.exists() and known and not self.verify and _stamp(path) == known["stamp"]:
            found = known["digests"]
        elif path.exists():
            log.info("hashing %s", path)
            found = _digests(path)
        else:
            self._download(asset, path, known)
            found = self._record[asset.url]["digests"]
        _check(asset, path, found, known if asset.remote else None)
        self._note(asset, path, found)
        return Asset(path, found["sha256"], path.stat().st_size, bool(asset.digest))

    def known(self, asset: AssetConfig) -> str | None:
        """The SHA-256 of a file that exists or existed, None if it must be downloaded; raises as `get`."""
        path = self._path(asset)
        if path.exists():
            return self.get(asset).sha256
        entry = self._record.get(asset.url)
        kind, _, expected = asset.digest.partition(":")
        if entry is None or (kind and entry["digests"][kind] != expected):
            return None
        return str(entry["digests"]["sha256"])

    def _path(self, asset: AssetConfig) -> Path:
        return self.folder / asset.name if asset.remote else Path(asset.url).expanduser()

    def _download(self, asset: AssetConfig, path: Path, known: dict[str, Any] | None) -> None:
        part = path.with_name(path.name + ".part")
        _Transfer(asset.url, part).complete(self.pause_s)
        found = _digests(part)
        try:
            _check(asset, part, found, known)
        except JobError as error:
            part.unlink()
            raise JobError(f"{error}; what came was deleted") from error
        finally:
            part.with_name(part.name + ".json").unlink(missing_ok=True)
        os.replace(part, path)
        self._note(asset, path, found)

    def _note(self, asset: AssetConfig, path: Path, found: dict[str, str]) -> None:
        entry = {"file": str(path), "digests": found, "stamp": _stamp(path)}
        if self._record.get(asset.url) != entry:
            self._record[asset.url] = entry
            _write_json(self.folder / RECORD, self._record)


def _check(asset: AssetConfig, path: Path, found: dict[str, str], known: dict[str, Any] | None) -> None:
    """Compare with the given digest, else with that of the first download."""
    kind, _, expected = asset.digest.partition(":")
    if not kind and known is not None:
        kind, expected = "sha256", known["digests"]["sha256"]
    if kind and found[kind] != expected:
        whose = "its digest in the config" if asset.digest else f"that of the first download in {RECORD}"
        name = f"{asset.url} ({path})" if asset.remote else str(path)
        raise JobError(f"{name} has {kind} {found[kind]}, but {whose} is {expected}")


class _Broken(Exception):
    """A transfer was interrupted; the part stays."""


class _Transfer:
    """The download of one file into its part."""

    def __init__(self, url: str, part: Path) -> None:
        self.url = url
        self.part = part
        self.state = part.with_name(part.name + ".json")
        self.stalled = 0
        self.session = requests.Session()
        polite = urllib3.Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504))
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=polite))

    def complete(self, pause_s: float) -> None:
        """Transfer the missing bytes, in as many attempts as deliver something.

        Raises:
            JobError: the server refuses, or several attempts in a row delivered nothing.
        """
        self.part.parent.mkdir(parents=True, exist_ok=True)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Broken),
            stop=lambda _: self.stalled >= _ATTEMPTS,
            wait=lambda _: min(60.0, pause_s * 2**self.stalled),
            reraise=True,
        )
        try:
            attempts(self._attempt)
        except _Broken as error:
            raise JobError(f"{self.url}: {error}; the same command resumes") from error

    def _attempt(self) -> None:
        before = self._have()
        try:
            self._transfer(before)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            self.stalled = 0 if self._have() > before else self.stalled + 1
            log.warning("%s broke off at %d bytes (%s)", self.url, self._have(), type(error).__name__)
            raise _Broken(
                f"the transfer broke off at {self._have()} bytes ({type(error).__name__})"
            ) from error

    def _have(self) -> int:
        """Bytes of the part, if its version is known, so that it can be continued."""
        if not self.part.exists() or not self._version():
            return 0
        return self.part.stat().st_size

    def _version(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(self.state.read_text())
            return str(state["version"]) if state["url"] == self.url else ""
        return ""

    def _transfer(self, have: int) -> None:
        headers = {"Accept-Encoding": "identity"}  # digests and ranges are those of the plain file
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._version()}
        with self.session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416:  # the part is at least as long as the file
                self._settle(response, have)
                return
            if response.status_code not in (200, 206):
                raise JobError(f"{self.url}: the server answers {response.status_code} {response.reason}")
            start, total = _range(response)
            if start not in (0, have):
                start, total = self._restart(f"the server sends bytes from {start} on, not from {have}")
            self._receive(response, start, total)

    def _settle(self, response: requests.Response, have: int) -> None:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(have):
            self._restart(f"{have} bytes are there, the file has {total or 'others'}")

    def _restart(self, why: str) -> tuple[int, int]:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)
        raise requests.ConnectionError(why)

    def _receive(self, response: requests.Response, start: int, total: int) -> None:
        _check_room(self.part, total - start)
        headers = response.headers
        tag = headers.get("ETag", "")
        version = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")
        if not start:
            self.part.unlink(missing_ok=True)  # before the record of its version is replaced
        _write_json(self.state, {"url": self.url, "version": version})
        log.info("%s: from byte %d of %s", self.url, start, total or "unknown")
        with self.part.open("ab" if start else "wb") as file, _bar(self.url, start, total) as bar:
            while block := response.raw.read1(_BLOCK):  # not iter_content: it loses partial blocks
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
        if total and self.part.stat().st_size != total:
            raise requests.ConnectionError(f"{self.part.stat().st_size} of {total} bytes came")


def _range(response: requests.Response) -> tuple[int, int]:
    """First byte of an answer and size of the whole file, 0 if that is unknown."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, 0
        return int(match[1]), 0 if match[2] == "*" else int(match[2])
    return 0, int(response.headers.get("Content-Length", 0))


def _check_room(part: Path, size: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if size > free:
        raise JobError(f"{part.parent} has {free / 1e9:.1f} GB free, {part.name} needs {size / 1e9:.1f} more")


@contextlib.contextmanager
def _bar(url: str, start: int, total: int) -> Iterator[tqdm]:
    name = url.rsplit("/", 1)[-1]
    with tqdm(
        initial=start,
        total=total or None,
        unit="B",
        unit_scale=True,
        desc=name,
        disable=not sys.stderr.isatty(),
    ) as bar:
        yield bar


def _digests(path: Path) -> dict[str, str]:
    hashes = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            for one in hashes.values():
                one.update(block)
    return {name: one.hexdigest() for name, one in hashes.items()}


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UsageError(f"{path} is broken ({error}): delete it to trust the next downloads") from error


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
