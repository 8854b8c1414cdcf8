"""A replacement of `images.read` that crashes, hangs and so on if the bytes request it."""

import ctypes
import os
import time

from glied.vision import images

MARK = b"FAULT "


def fault(name: str, argument: object = "", data: bytes = b"") -> bytes:
    """Return bytes that cause a fault; if the process survives it, `data` is decoded."""
    return MARK + f"{name} {argument}\n".encode() + data


def read(data: bytes, **options) -> images.Picture:
    """Cause the fault, then call `images.read`."""
    if data.startswith(MARK):
        line, _, data = data.partition(b"\n")
        _, name, argument = line.decode().split(" ", 2)
        FAULTS[name](argument)
    return images.read(data, **options)


def crash(_: str) -> None:
    ctypes.string_at(0)


def hang(seconds: str) -> None:
    """Hang with the interpreter's lock held, as native code may."""
    ctypes.PyDLL(None).sleep(int(seconds))


def allocate(size: str) -> None:
    bytearray(int(size))


def mark_and_crash_once(path: str) -> None:
    if not os.path.exists(path):
        with open(path, "w"):
            os.abort()


def leave(status: str) -> None:
    os._exit(int(status))


def fail(text: str) -> None:
    raise KeyError(text)


FAULTS = {
    "crash": crash,
    "hang": hang,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "allocate": allocate,
    "crash_once": mark_and_crash_once,
    "leave": leave,
    "fail": fail,
}
