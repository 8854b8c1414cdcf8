"""Bodies of HTTP answers that a server has compressed although it was asked not to."""

import zlib

_GZIP = zlib.MAX_WBITS | 16
_RAW = -zlib.MAX_WBITS


class Truncated(Exception):
    """A compressed body ends too early."""


def decoded(body: bytes, codings: str, most: int) -> bytes:
    """The content of a body; of one that is longer than `most`, only that it is: the first `most` + 1 bytes.

    Args:
        body: as it was sent.
        codings: the Content-Encoding header; codings other than gzip and deflate are left as they are.
        most: bytes that the content may have.

    Raises:
        Truncated: the compressed data end too early.
        zlib.error: the body is not compressed in the way that the header says.
    """
    for coding in reversed(codings.lower().split(",")):
        name = coding.strip()
        if name in ("gzip", "x-gzip"):
            body = _gunzipped(body, most)
        elif name == "deflate":
            body = _deflated(body, most)
    return body


def _gunzipped(body: bytes, most: int) -> bytes:
    """The content of all gzip members; bytes behind the last one are ignored."""
    content, rest = _inflated(body, _GZIP, most)
    while rest and len(content) <= most:
        try:
            more, rest = _inflated(rest, _GZIP, most - len(content))
        except zlib.error:
            break
        content += more
    return content


def _deflated(body: bytes, most: int) -> bytes:
    """Deflate means zlib's format, but some servers send the data without its header."""
    try:
        return _inflated(body, zlib.MAX_WBITS, most)[0]
    except zlib.error:
        return _inflated(body, _RAW, most)[0]


def _inflated(data: bytes, window_bits: int, most: int) -> tuple[bytes, bytes]:
    """The first `most` + 1 bytes of what the data hold, and what follows the data."""
    inflater = zlib.decompressobj(window_bits)
    content = inflater.decompress(data, most + 1)
    if not inflater.eof and len(content) <= most:
        raise Truncated
    return content, inflater.unused_data
