"""Which addresses the rows of a table may name.

Anyone may have written a table. Its rows may name http(s) addresses, whose hosts `web_client` checks, and
what the operator allows: the place of the table itself, and `input.allow`. Everything else is refused, so a
table can read neither the files of a worker nor the operator's other buckets, nor reach into the network
through a scheme that opens connections itself.

A row is checked when it is planned and again when it is fetched, when local links are resolved as well.
"""

import os
import re
from dataclasses import dataclass

from fsspec import available_protocols

from glied import storage
from glied.errors import ImageError, UsageError
from glied.redaction import shown

BAD_URL = "bad_url"
"""Kind of error of text that is not a valid address."""
FORBIDDEN = "forbidden"
"""Kind of error of an address that is not allowed."""
MAX_LENGTH = 8192
"""Characters of the longest address."""
MAX_NAME = 255
"""Bytes of the longest name in a local path."""
MAX_PATH = 4095
"""Bytes of the longest local path."""
MAX_KEY = 1024
"""Bytes of the longest key in S3."""
WEB = ("http", "https")
LOCAL = ("file", "local")
ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""Other names of schemes."""
BUCKETS = frozenset({"s3", "gs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "hf"})
"""Schemes whose authority is a bucket of a service that the operator has configured, and not a host."""
WRAPPERS = frozenset(
    {"blockcache", "cached", "dir", "filecache", "generic", "libarchive", "reference", "simplecache", "tar",
     "zip", "data", "dask", "async_wrapper", "asyncwrapper", "asynclocal"}
)  # fmt: skip
"""fsspec's schemes that read other addresses, or none."""

_HUB_KINDS = ("datasets", "spaces", "models", "buckets")
"""What addresses on the Hugging Face Hub may begin with, before owner and name."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_WORD = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_WEB_ADDRESS = re.compile("https?://", re.IGNORECASE)
"""Their hosts (IPv6) and paths may contain two colons."""
_S3_KEY = re.compile(r"s3[an]?://(?!.*::\s*[A-Za-z][A-Za-z0-9+.\-]*:).*", re.IGNORECASE | re.DOTALL)
"""Keys may contain two colons, which have no meaning there. What looks like a chain is refused anyway."""
_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WORDS = frozenset([*WEB, *LOCAL, "data", "mailto", "javascript", "about", "blob", "urn"])
"""Words that are schemes even without the two slashes, in addition to those that fsspec knows."""


@dataclass(frozen=True)
class RowUris:
    """The addresses that rows may name.

    Attributes:
        folders: local folders; everything in or below them may be read.
        prefixes: of schemes other than http(s), ending in "/"; "gs://" is all of a scheme.
    """

    folders: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, uri: str, allow: tuple[str, ...] | list[str] = ()) -> "RowUris":
        """Those for the tables at `uri`: its own bucket or folder, and what `input.allow` names.

        Raises:
            UsageError: an entry of `allow` names nothing that can be allowed.
        """
        folders: list[str] = []
        prefixes: list[str] = []
        for place in (_own_place(uri), *map(_allowed_place, allow)):
            if place.startswith("/"):
                folders += dict.fromkeys([place, os.path.realpath(place)])
            elif place:
                prefixes.append(place)
        return cls(tuple(dict.fromkeys(folders)), tuple(dict.fromkeys(prefixes)))

    def resolve(self, text: str, folder: str) -> str:
        """The address that a row names; a relative path is relative to the table's folder.

        Raises:
            ImageError: "bad_url" or "forbidden".
        """
        _check_text(text)
        uri, scheme = text, _scheme(text)
        if scheme is None and not text.startswith("/"):
            uri = storage.join(folder, re.sub(r"^(\./+)+", "", text))
            scheme = _scheme(uri)
            if scheme == "s3" and ".." in text.split("/"):
                raise _with_parent(uri)
        if scheme in WEB:
            return f"{scheme}://{uri.partition('://')[2]}"
        if scheme is None or scheme in LOCAL:
            path = _local_path(uri)
            self._check_path(path)
            return storage.local_uri(path)
        uri = f"{scheme}://{uri.partition('://')[2]}"
        self._check_prefix(uri, scheme)
        return uri

    def plan(self, text: str, folder: str) -> tuple[str, str | None, str | None]:
        """The address that a row names, and kind and message of what is wrong with it."""
        try:
            return self.resolve(text, folder), None, None
        except ImageError as error:
            return text[:MAX_LENGTH], error.kind, error.message

    def checked(self, uri: str) -> str:
        """The address to read for a planned one: local links are resolved, and their targets checked.

        Raises:
            ImageError: as `resolve`.
        """
        uri = self.resolve(uri, "/")
        if not storage.is_local(uri):
            return uri
        path = os.path.realpath(storage.local_path(uri))
        if not self._holds(path):
            raise _forbidden(path)
        return storage.local_uri(path)

    def _check_path(self, path: str) -> None:
        # Links are resolved only if the path itself is not allowed: there may be millions of rows.
        if not self._holds(os.path.normpath(path)) and not self._holds(os.path.realpath(path)):
            raise _forbidden(path)

    def _holds(self, path: str) -> bool:
        return any(path.startswith(folder.rstrip("/") + "/") for folder in self.folders)

    def _check_prefix(self, uri: str, scheme: str) -> None:
        authority, _, key = uri.partition("://")[2].partition("/")
        if not uri.startswith(self.prefixes):
            raise _forbidden(uri)
        if not authority or not key:
            raise ImageError(BAD_URL, f"{shown(uri)} names no file")
        if scheme != "s3" and ".." in key.split("/"):  # keys in S3 are read as they are
            raise _with_parent(uri)
        if scheme == "s3" and len(key.encode()) > MAX_KEY:
            raise ImageError(BAD_URL, f"{shown(uri)}: a key has at most {MAX_KEY} bytes")


def _with_parent(uri: str) -> ImageError:
    return ImageError(FORBIDDEN, f"{shown(uri)}: no .. in an address with a scheme")


def _forbidden(address: str) -> ImageError:
    return ImageError(
        FORBIDDEN, f"rows of this table may not read {shown(address)}; input.allow names what else they may"
    )


def _check_text(text: str) -> None:
    """Refuse text that is not an address of any scheme.

    Raises:
        ImageError: "bad_url" or, for chains, "forbidden".
    """
    if len(text) > MAX_LENGTH:
        raise ImageError(BAD_URL, f"longer than {MAX_LENGTH} characters")
    if _CONTROL.search(text):
        raise ImageError(BAD_URL, "holds control characters or is not valid Unicode")
    if text.startswith(("//", "\\\\")):
        raise ImageError(BAD_URL, "begins with two slashes: write a scheme, or a path with one")
    if _DRIVE.match(text):
        raise ImageError(BAD_URL, "begins with a drive letter; paths are those of the workers")
    if "::" in text and not _WEB_ADDRESS.match(text) and not _S3_KEY.fullmatch(text):
        raise ImageError(FORBIDDEN, "is a chain of addresses (::)")


def _scheme(text: str) -> str | None:
    """The scheme in lower case by its usual name, None for a path.

    Raises:
        ImageError: the scheme is malformed or not allowed.
    """
    if match := _SCHEME.match(text):
        scheme = match[1].lower()
        return ALIASES.get(scheme, scheme)
    word = _WORD.match(text)
    if word is None:
        if "://" in text.partition("/")[0] + "//" and text.partition("://")[0].count("/") == 0:
            raise ImageError(BAD_URL, f"{shown(text)} has no valid scheme")
        return None
    scheme, rest = word[1].lower(), text[word.end() :]
    if scheme in LOCAL and rest.startswith("/"):
        return "file"
    if scheme == "data":
        raise ImageError(
            BAD_URL, "holds the image itself (data:); input.form parquet reads images that tables hold"
        )
    if scheme in _WORDS:
        raise ImageError(BAD_URL, f"{scheme}: is not followed by //")
    if rest.startswith("/") or scheme in _PROTOCOLS:
        raise _forbidden(text)
    return None  # a colon in a file's name


_PROTOCOLS = frozenset(name.lower() for name in available_protocols())


def _local_path(uri: str) -> str:
    """The path of a local address.

    Raises:
        ImageError: it names another machine, or has too long a name.
    """
    path = uri
    if not uri.startswith("/"):
        rest = uri.partition(":")[2]
        host, _, below = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest[1:])
        if host.lower() not in ("", "localhost"):
            raise ImageError(FORBIDDEN, f"{shown(uri)} names a file of another machine")
        path = str(storage.local_path(f"file:///{below}"))
        if "\0" in path:
            raise ImageError(BAD_URL, "holds control characters")
    names = path.split("/")
    if len(os.fsencode(path)) > MAX_PATH or any(len(os.fsencode(name)) > MAX_NAME for name in names):
        raise ImageError(BAD_URL, f"{shown(path)} has a name of more than {MAX_NAME} bytes")
    return path


def _own_place(uri: str) -> str:
    """Where a table is: the folder of a local one, else scheme and authority; "" for the web.

    On the Hugging Face Hub it is the repository, since the authority is one for all ("datasets").
    """
    if storage.is_local(uri):
        path = str(storage.local_path(uri).absolute())
        return path if os.path.isdir(path) else os.path.dirname(path)
    scheme, _, rest = uri.partition("://")
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    if scheme == "hf":
        parts = rest.split("/")
        return f"hf://{'/'.join(parts[: 3 if parts[0] in _HUB_KINDS else 2])}/"
    return "" if scheme in WEB else f"{scheme}://{rest.partition('/')[0]}/"


def _allowed_place(entry: str) -> str:
    """The place that an entry of `input.allow` names, in the form of `_own_place`.

    Raises:
        UsageError: it names nothing that can be allowed.
    """
    scheme, _, rest = entry.partition("://")
    scheme = ALIASES.get(scheme.lower(), scheme.lower())
    if "://" not in entry and ("/" in entry or entry.startswith(".")):
        return os.path.abspath(entry)
    if "::" in entry or "@" in rest or scheme in WRAPPERS:
        raise UsageError(
            f"input.allow: {entry!r} cannot be allowed: no chains, no credentials, and no scheme that reads "
            "other addresses"
        )
    if scheme in WEB:
        if rest:
            raise UsageError(f"input.allow: {entry!r}: web addresses are allowed anyway, private ones by "
                             "input.allow_private")  # fmt: skip
        return ""
    if scheme in LOCAL:
        return os.path.normpath("/" + rest.lstrip("/"))
    if scheme not in _PROTOCOLS:
        raise UsageError(
            f"input.allow: {entry!r} is neither a scheme (gs), nor a prefix (s3://bucket/, /folder/)"
        )
    if not rest and scheme not in BUCKETS:
        raise UsageError(f"input.allow: {entry!r} would let rows name any host; name it: {scheme}://host/")
    return f"{scheme}://{rest.rstrip('/')}/" if rest else f"{scheme}://"
