"""A web server for a folder that can break transfers off."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.http_serving import serving


@dataclass
class FileServer:
    """A running server.

    Attributes:
        url: URL of the folder.
        breaks: numbers of bytes after which the next answers end, although their headers announce more.
        versioned: whether answers contain the version of the file (ETag).
        ranges: whether parts of files can be requested.
        requests: path and Range header of every request so far.
    """

    folder: Path
    url: str = ""
    breaks: list[int] = field(default_factory=list)
    versioned: bool = True
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    """Serve the folder on a free port of this machine."""
    server = FileServer(folder)
    with serving(lambda handler: answer(handler, server)) as server.url:
        yield server


def answer(handler: BaseHTTPRequestHandler, server: FileServer) -> None:
    """Send a file, or the part that the Range header requests if If-Range matches."""
    wanted = handler.headers.get("Range")
    server.requests.append((handler.path, wanted))
    path = server.folder / handler.path.lstrip("/")
    if not path.is_file():
        handler.send_error(404)
        return
    data = path.read_bytes()
    tag = f'"{hashlib.md5(data).hexdigest()}"'
    part = re.fullmatch(r"bytes=(\d+)-", wanted or "") if server.ranges else None
    start = int(part[1]) if part and handler.headers.get("If-Range", tag) == tag else 0
    if start > len(data) or (part and start == len(data)):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(data)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    if server.versioned:
        handler.send_header("ETag", tag)
    handler.end_headers()
    body = data[start:]
    if server.breaks:
        body = body[: server.breaks.pop(0)]
        handler.close_connection = True
    handler.wfile.write(body)
    handler.wfile.flush()
