"""Objects in S3: keys are used exactly as they are, and every answer is checked.

Objects are listed and read through botocore, and written through s3fs. pyarrow's client is unsafe here: it
takes `a//b` for `a/b`, and if fewer bytes come than requested, it returns uninitialized memory. It is not
faster either, since it requests the size first.
"""

import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from glied.errors import StorageError

T = TypeVar("T")
_URI = re.compile(r"s3[an]?://([^/]+)(?:/(.*))?", re.IGNORECASE | re.DOTALL)
_ABSENT = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NotFound"})
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_DIRECTORY_BUCKET = "--x-s3"
_CONNECTIONS = 64
_ATTEMPTS = 3
_DIGEST_BUCKETS: set[tuple[str | None, str]] = set()
"""Endpoints and buckets in which an ETag was seen to be the MD5 digest of the content."""

_OTHER_BUCKETS: set[tuple[str | None, str]] = set()
"""Those in which no ETag that was checked is a digest."""
_WITNESSES = 3
"""Other objects whose ETags are compared with their content if one does not match."""
_MOST_OF_WITNESS = 1 << 24


class Place(NamedTuple):
    """Bucket and key of an object; the key is never changed."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """The `s3://` URI."""
        return f"s3://{self.bucket}/{self.key}"


class WrongAnswer(StorageError):
    """The storage answered, but not what was requested."""


class TooLarge(Exception):
    """A file is longer than the caller accepts; `size` is its length."""

    def __init__(self, size: int) -> None:
        """Keep the length."""
        super().__init__(f"{size} bytes")
        self.size = size


def parse(uri: str) -> Place | None:
    """The place that an `s3://` URI names; None for any other URI."""
    match = _URI.fullmatch(uri)
    return Place(match[1], match[2] or "") if match else None


def is_anonymous() -> bool:
    """Whether requests go out unsigned, as public buckets allow."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("1", "YES", "TRUE")


def list_keys(bucket: str, prefix: str, *, recursive: bool = True) -> Iterator[tuple[str, int]]:
    """Keys that begin with `prefix` and the sizes of their objects, in ascending order, a page at a time.

    Raises:
        StorageError: the storage failed, sent something other than a listing, or repeated keys.
    """
    request = {"Bucket": bucket, "Prefix": prefix} | ({} if recursive else {"Delimiter": "/"})
    ordered = not bucket.endswith(_DIRECTORY_BUCKET)  # directory buckets list in no order
    last, tokens = b"", set[str]()
    while True:
        try:
            page = _insist(lambda: _page(Place(bucket, prefix), request))
        except FileNotFoundError:
            return
        for item in page.get("Contents", []):
            key = item["Key"].encode()
            if ordered and last and key <= last:
                raise StorageError(
                    f"cannot list s3://{bucket}/{prefix}: {item['Key']!r} comes after {last.decode()!r}; the "
                    "storage repeats a page or does not sort its keys. The same command may succeed later"
                )
            last = key
            yield item["Key"], item["Size"]
        if not page["IsTruncated"]:
            return
        token = page.get("NextContinuationToken")
        if not token or token in tokens:
            raise StorageError(
                f"cannot list s3://{bucket}/{prefix}: the storage promises keys after {last.decode()!r} and "
                "repeats or omits the token that asks for them. The same command may succeed later"
            )
        tokens = {token} if page.get("Contents") else {*tokens, token}
        request["ContinuationToken"] = token


def _page(place: Place, request: Mapping[str, str]) -> dict[str, Any]:
    """A page of a listing, which says whether there are more; for the client any other answer is empty."""
    page = _call("list_objects_v2", place, **request)
    if "IsTruncated" not in page:
        raise WrongAnswer(
            f"cannot list {place}: the storage answered with something else than a listing (IsTruncated is "
            "missing). Check the endpoint; the same command may succeed later"
        )
    return page


def size(place: Place) -> int:
    """The length of an object; raises as `read`."""
    return _insist(lambda: _size(place))


def _size(place: Place) -> int:
    length = _call("head_object", place, Bucket=place.bucket, Key=place.key).get("ContentLength")
    if length is None:  # the answer broke off
        raise WrongAnswer(f"cannot read {place}: the storage does not state its length")
    return int(length)


def read(place: Place, *, listed: int | None = None, most: int | None = None) -> bytes:
    """The content of an object.

    It is checked against its MD5 digest if the ETag is one, else against the length that was listed or that a
    second request states. An ETag that does not match is taken for something other than a digest only if the
    same bytes come twice and none of the other objects that were checked in the bucket has a digest.

    Args:
        place: of the object.
        listed: its length as far as known.
        most: longer objects are not read.

    Raises:
        FileNotFoundError: it does not exist.
        TooLarge: it has more than `most` bytes.
        StorageError: the storage or the credentials failed, or not all bytes came.
    """
    return _insist(lambda: _read(place, listed, most))


def _read(place: Place, listed: int | None, most: int | None) -> bytes:
    data, answer = _get(place, most)
    bucket = _access().client.meta.endpoint_url, place.bucket
    digest = _digest(answer)
    if digest is None:
        _check_length(place, data, listed)
    elif digest == hashlib.md5(data, usedforsecurity=False).hexdigest():
        _DIGEST_BUCKETS.add(bucket)
    elif bucket in _DIGEST_BUCKETS or _get(place, most)[0] != data or _others_have_digests(place):
        raise WrongAnswer(f"cannot read {place}: the content does not match the object's ETag")
    else:  # this storage has other ETags
        _check_length(place, data, listed)
    return data


def _others_have_digests(place: Place) -> bool:
    """Whether the ETag of another object of the bucket is the MD5 digest of its content.

    If no others can be listed and read, a damaged object looks like a storage with other ETags.
    """
    bucket = _access().client.meta.endpoint_url, place.bucket
    if bucket not in _OTHER_BUCKETS:
        folder = place.key[: place.key.rfind("/") + 1]
        try:
            listed = _call("list_objects_v2", place, Bucket=place.bucket, Prefix=folder).get("Contents", [])
            others = [item for item in listed if item["Key"] != place.key and _MD5.fullmatch(item["ETag"])]
            if not others:
                return False
            for item in sorted(others, key=lambda item: item["Size"])[:_WITNESSES]:
                data, answer = _get(Place(place.bucket, item["Key"]), _MOST_OF_WITNESS)
                if (digest := _digest(answer)) is None:  # encrypted, so not informative
                    return False
                if digest == hashlib.md5(data, usedforsecurity=False).hexdigest():
                    _DIGEST_BUCKETS.add(bucket)
                    return True
        except (StorageError, FileNotFoundError, TooLarge):
            return False
        _OTHER_BUCKETS.add(bucket)
    return False


def read_range(place: Place, start: int, stop: int, *, whole: int | None = None) -> bytes:
    """Bytes `start` to `stop` (exclusive) of an object, which is `whole` bytes long as far as known.

    It raises as `read`, also where the object is shorter or of another length.
    """
    return _insist(lambda: _read_range(place, start, stop, whole)) if stop > start else b""


def _read_range(place: Place, start: int, stop: int, whole: int | None) -> bytes:
    data, answer = _get(place, None, Range=f"bytes={start}-{stop - 1}")
    came, asked = answer.get("ContentRange", ""), f"bytes {start}-{stop - 1}/{whole or ''}"
    if len(data) != stop - start or not came.startswith(asked):
        raise WrongAnswer(
            f"cannot read {place}: {len(data)} of {stop - start} bytes came, as {came or 'no range'}, "
            f"for {asked}"
        )
    return data


def _insist(read: Callable[[], T]) -> T:
    """Repeat a read after a wrong answer; the client itself repeats only requests that fail."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return read()
        except WrongAnswer:
            time.sleep(0.1 * 2**attempt)
    return read()


def write(place: Place, data: bytes) -> None:
    """Write an object; raises `StorageError`."""
    _change("put_object", place, Body=data)


def write_if_absent(place: Place, data: bytes) -> bool:
    """Write an object unless it exists; False if the storage refuses.

    A request whose answer was lost is repeated and then refused, although this call wrote the object.
    """
    try:
        _change("put_object", place, Body=data, IfNoneMatch="*")
    except StorageError as error:
        # A refusal that names its condition arrives as FileExistsError, one that does not as another OSError.
        answer = getattr(getattr(error.__cause__, "__cause__", None), "response", {})
        if answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
            return False
        raise
    return True


def delete(place: Place) -> None:
    """Delete an object, if it exists; raises `StorageError`."""
    _change("delete_object", place)


def _change(operation: str, place: Place, **request: Any) -> None:
    """A request through s3fs, but not by its paths, which take `?versionId=` in a key for a version."""
    try:
        _access().filesystem.call_s3(operation, Bucket=place.bucket, Key=place.key, **request)
    except Exception as error:
        verb = "write" if operation == "put_object" else "delete"
        raise StorageError(f"cannot {verb} {place}: {_reason(error)}") from error


def _check_length(place: Place, data: bytes, listed: int | None) -> None:
    if len(data) != listed and len(data) != (stated := size(place)):
        raise WrongAnswer(f"cannot read {place}: {len(data)} of {stated} bytes came")


def _digest(answer: Mapping[str, Any]) -> str | None:
    """The MD5 digest that an answer states; encrypted objects and those uploaded in parts have none."""
    encrypted = "aws:kms" in answer.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in answer
    match = None if encrypted else _MD5.fullmatch(answer.get("ETag", ""))
    return match[1] if match else None


def _get(place: Place, most: int | None, **request: str) -> tuple[bytes, Mapping[str, Any]]:
    """The body of a GET and its headers, with botocore's names."""
    answer = _get_directly(place, request) or _call(
        "get_object", place, Bucket=place.bucket, Key=place.key, **request
    )
    try:
        length = answer.get("ContentLength") or 0
        if most is not None and length > most:
            raise TooLarge(length)
        return answer["Body"].read(), answer
    except TooLarge:
        raise
    except Exception as error:  # botocore's, urllib3's and the socket's have no common base
        raise WrongAnswer(f"cannot read {place}: {_reason(error)}") from error
    finally:
        answer["Body"].close()


def _get_directly(place: Place, request: Mapping[str, str]) -> dict[str, Any] | None:
    """The same by a presigned URL, with half the CPU time; None if the client has to make the request.

    The client retries, follows a bucket to its region, and explains errors.
    """
    from botocore.awsrequest import AWSRequest

    if place.bucket.endswith(_DIRECTORY_BUCKET):  # their requests are signed in another way
        return None
    access = _access()
    try:
        key = {"Bucket": place.bucket, "Key": place.key}
        url = access.signer.generate_presigned_url("get_object", Params=key, ExpiresIn=900)
        asked = AWSRequest("GET", url, headers=dict(request), stream_output=True)
        answer = access.session.send(asked.prepare())
    except Exception:
        return None
    if answer.status_code != (206 if request else 200):
        answer.raw.close()
        return None
    headers = answer.headers
    found = {name: headers[header] for name, header in _HEADERS.items() if header in headers}
    return found | {"ContentLength": int(headers.get("Content-Length", 0)), "Body": answer.raw}


_HEADERS = {
    "ETag": "ETag",
    "ContentRange": "Content-Range",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSECustomerAlgorithm": "x-amz-server-side-encryption-customer-algorithm",
}


def _call(operation: str, place: Place, **request: str) -> dict[str, Any]:
    """A request; raises FileNotFoundError if the storage says that the object does not exist."""
    from botocore.exceptions import ClientError

    if request.get("Key") == "":
        raise FileNotFoundError(f"no such file: {place}")
    try:
        return getattr(_access().client, operation)(**request)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _ABSENT:
            raise FileNotFoundError(f"no such file: {place}") from error
        raise StorageError(f"cannot read {place}: {_reason(error)}") from error
    except Exception as error:
        raise StorageError(f"cannot read {place}: {_reason(error)}") from error


class Access(NamedTuple):
    """A client, one that presigns URLs, the session that reads these, and the file system that writes."""

    client: Any
    signer: Any
    session: Any
    filesystem: Any


def _access() -> Access:
    names = sorted(name for name in os.environ if name.startswith("AWS_"))
    return _access_in(tuple((name, os.environ[name]) for name in names))


@functools.lru_cache(maxsize=4)
def _access_in(environment: tuple[tuple[str, str], ...]) -> Access:
    """Clients for an environment, in which botocore finds endpoint, region and credentials."""
    import botocore.session
    import s3fs
    from botocore.config import Config
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    session = botocore.session.get_session()
    region = session.get_config_variable("region") or "us-east-1"
    times = {"connect_timeout": 10, "read_timeout": 60}
    config = Config(
        signature_version=botocore.UNSIGNED if is_anonymous() else None,
        max_pool_connections=_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 4},
        **times,
    )
    signing = config if is_anonymous() else config.merge(Config(signature_version="s3v4"))
    client, signer = (
        session.create_client("s3", region_name=region, config=one) for one in (config, signing)
    )
    reading = URLLib3Session(
        verify=session.get_config_variable("ca_bundle") or True,
        proxies=get_environ_proxies(client.meta.endpoint_url),
        timeout=tuple(times.values()),
        max_pool_connections=_CONNECTIONS,
    )
    writing = s3fs.S3FileSystem(anon=is_anonymous(), skip_instance_cache=True)
    return Access(client, signer, reading, writing)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
