"""The process in which images are decoded: `python -m glied.vision.decoder_process`, run by `DecoderPool`.

It imports only NumPy and Pillow (no torch, no Ray; 38 MB). Encoded bytes arrive over a socket. Pixels are
written to a memory file that the parent maps, too, and their size or an error is returned as JSON. A payload
follows its length.
"""

import ctypes
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glied.errors import ImageError
from glied.vision.images import Picture

MEMORY, FAILED = "decoder_memory", "decoder_failed"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class DecodingJob:
    """The settings of a child process."""

    function: str
    max_pixels: int
    max_side: int
    resolution: tuple[int, int] | None
    missing_rows: float
    memory_bytes: int | None


def send(channel: socket.socket, payload: bytes) -> None:
    """Send length and payload in one piece; each piece wakes the receiver, which costs more than a copy."""
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(channel: socket.socket, *, longest: int | None = None) -> bytes:
    """Receive one payload.

    Raises:
        EOFError: the other side closed the connection.
        ValueError: the length is invalid.
    """
    (length,) = _LENGTH.unpack(_receive_exactly(channel, _LENGTH.size))
    if longest is not None and length > longest:
        raise ValueError(f"a payload of {length} bytes")
    return _receive_exactly(channel, length)


def _receive_exactly(channel: socket.socket, size: int) -> bytes:
    received = bytearray(size)
    rest = memoryview(received)
    while rest:
        count = channel.recv_into(rest)
        if count == 0:
            raise EOFError("the other side closed the connection")
        rest = rest[count:]
    return bytes(received)


def _serve() -> None:
    """Run a child: decode images until the parent ends."""
    about = json.loads(sys.argv[1])
    _end_with(about.pop("parent"))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; the parent handles it
    channel = socket.socket(fileno=about.pop("socket"))
    memory = about.pop("memory")
    job = DecodingJob(**about)
    pixels = np.frombuffer(mmap.mmap(memory, 3 * job.max_pixels), np.uint8)
    module, name = job.function.split(":")
    function = getattr(importlib.import_module(module), name)
    _limit(job.memory_bytes)
    send(channel, json.dumps({"ready": True}).encode())
    while True:
        try:
            data = receive(channel)
            send(channel, json.dumps(_answer(function, data, job, pixels)).encode())
        except (EOFError, ConnectionError):
            return


def _end_with(parent: int) -> None:
    """Have the kernel kill this process with its parent; native code that hangs does not read the socket."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit()


def _limit(memory_bytes: int | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # core dumps of broken images would fill the disk
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        bound = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def _answer(
    function: Callable[..., Picture], data: bytes, job: DecodingJob, memory: NDArray[np.uint8]
) -> dict[str, Any]:
    """Decode an image into the shared memory; return its size, or the error."""
    limits = {name: getattr(job, name) for name in ("max_pixels", "max_side", "resolution", "missing_rows")}
    try:
        picture = function(data, **limits)
        memory[: picture.pixels.size] = picture.pixels.ravel()
        return {
            "pixels": list(picture.pixels.shape[:2]),
            "size": [picture.width, picture.height],
            "missing_rows": picture.missing_rows,
        }
    except ImageError as error:
        return {"image_error": [error.kind, error.message]}
    except MemoryError:
        return {"decoder_error": [MEMORY, "decoding needs more memory than a decoder process may have"]}
    except Exception as error:
        return {"decoder_error": [FAILED, f"{type(error).__name__}: {error}"[:2000]]}


if __name__ == "__main__":
    _serve()
