"""A server with the parts of the Hugging Face Hub's API that reading a dataset needs, for a local folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.http_serving import serving

REVISION = "0123456789abcdef0123456789abcdef01234567"

DATASET = {"id": "someone/photos", "sha": REVISION, "siblings": []}


@dataclass
class Hub:
    """A running hub with one dataset, someone/photos.

    Attributes:
        folder: its files.
        url: for HF_ENDPOINT.
        token: requests without it are refused as by the Hub; empty for a public dataset.
        requests: method and path of every request so far.
    """

    folder: Path
    url: str = ""
    token: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    def info(self, path: Path) -> dict:
        """Return an entry of the tree."""
        name = path.relative_to(self.folder).as_posix()
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": oid, "size": 0}
        return {"type": "file", "path": name, "oid": oid, "size": path.stat().st_size}

    def tree(self, folder: Path, recursive: bool) -> list[dict]:
        paths = folder.rglob("*") if recursive else folder.iterdir()
        return [self.info(path) for path in sorted(paths)]


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve the folder as a dataset on a free port of this machine."""
    hub = Hub(folder)
    with serving(lambda handler: answer(handler, hub)) as hub.url:
        yield hub


def answer(handler: BaseHTTPRequestHandler, hub: Hub) -> None:
    body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    url = urlsplit(handler.path)
    hub.requests.append((handler.command, url.path))
    if hub.token and handler.headers.get("Authorization") != f"Bearer {hub.token}":
        send(handler, 401, b"{}", {"X-Error-Message": "Invalid username or password."})
        return
    if url.path == "/api/datasets/someone/photos":
        send_json(handler, DATASET)
        return
    api, files = "/api/datasets/someone/photos/", "/datasets/someone/photos/resolve/"
    if url.path.startswith(files):
        revision, _, name = url.path.removeprefix(files).partition("/")
        send_file(handler, hub.folder / unquote(name)) if revision in ("main", REVISION) else missing(handler)
        return
    kind, _, rest = url.path.removeprefix(api).partition("/")
    revision, _, name = rest.partition("/")
    if not url.path.startswith(api) or revision not in ("main", REVISION):
        missing(handler, "RepoNotFound" if not url.path.startswith(api) else "RevisionNotFound")
    elif kind == "revision":
        send_json(handler, DATASET)
    elif kind == "tree":
        folder = hub.folder / unquote(name)
        recursive = "recursive=true" in url.query.lower()
        send_json(handler, hub.tree(folder, recursive)) if folder.is_dir() else missing(handler)
    elif kind == "paths-info":
        paths = [hub.folder / path for path in json.loads(body)["paths"]]
        send_json(handler, [hub.info(path) for path in paths if path.exists()])
    else:
        missing(handler)


def missing(handler: BaseHTTPRequestHandler, code: str = "EntryNotFound") -> None:
    send(handler, 404, b"{}", {"X-Error-Code": code})


def send_json(handler: BaseHTTPRequestHandler, content: object) -> None:
    send(handler, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})


def send_file(handler: BaseHTTPRequestHandler, path: Path) -> None:
    if not path.is_file():
        missing(handler)
        return
    data, wanted = path.read_bytes(), handler.headers.get("Range")
    headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": REVISION}
    if not wanted:
        send(handler, 200, data, headers)
        return
    start, _, stop = wanted.removeprefix("bytes=").partition("-")
    part = data[int(start) : int(stop) + 1 if stop else None]
    headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
    send(handler, 206, part, headers)


def send(handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]) -> None:
    handler.send_response(status)
    for name, value in (headers | {"Content-Length": str(len(data))}).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)
