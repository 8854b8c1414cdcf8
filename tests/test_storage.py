import io
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glied import s3 as s3_objects
from glied import storage
from glied.bulk.config import InputConfig
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.errors import StorageError, UsageError
from tests import fault_proxy


def test_write_read_delete(tmp_path: Path) -> None:
    uri = storage.join(str(tmp_path), "a", "b.bin")
    storage.write_bytes(uri, b"one")
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert os.listdir(tmp_path / "a") == []


def test_put_if_absent_has_one_winner(tmp_path: Path) -> None:
    uri = str(tmp_path / "commit.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: storage.put_if_absent(uri, b"%d" % n), range(64)))
    assert sum(won) == 1
    assert storage.read_bytes(uri) == b"%d" % won.index(True)
    assert os.listdir(tmp_path) == ["commit.json"]


def test_put_if_absent_succeeds_if_its_own_content_exists(tmp_path: Path) -> None:
    """The retry of a put whose answer was lost is refused; reading back shows that the put succeeded."""
    uri = str(tmp_path / "commit.json")
    assert storage.put_if_absent(uri, b"mine")
    assert storage.put_if_absent(uri, b"mine")
    assert not storage.put_if_absent(uri, b"theirs")


def test_list_files_names_are_relative_and_sorted(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/2.jpg", "a/1.jpg"):
        storage.write_bytes(storage.join(str(tmp_path), name), b"x" * len(name))
    files = list(storage.list_files(str(tmp_path)))
    assert [file.name for file in files] == ["a/1.jpg", "a/2.jpg", "b.jpg"]
    assert [file.size for file in files] == [7, 7, 5]
    assert [storage.read_bytes(file.uri) for file in files] == [b"x" * 7, b"x" * 7, b"x" * 5]
    assert list(storage.list_files(str(tmp_path / "nowhere"))) == []


def test_missing_file_and_unknown_scheme(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        storage.read_bytes(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="nope"):
        storage.read_bytes("nope://bucket/key")


def test_unwritable_location_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("s3://b/dd", ["/a.png"], "s3://b/dd//a.png"),
        ("s3://b/dd//", ["a.png"], "s3://b/dd//a.png"),
        ("s3://b/dd/", ["x//y.png", "z"], "s3://b/dd/x//y.png/z"),
        ("s3://b", ["a.png"], "s3://b/a.png"),
        ("/data/", ["a.png"], "/data/a.png"),
        ("/", ["a.png"], "/a.png"),
    ],
)
def test_join_keeps_keys(uri, parts, joined) -> None:
    assert storage.join(uri, *parts) == joined


def test_a_folder_with_the_name_of_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for write in (storage.write_bytes, storage.put_if_absent):
        with pytest.raises(StorageError, match=f"cannot write {tmp_path}/a"):
            write(str(tmp_path / "a"), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "no temporary file is left"


def test_absolute_uris_and_paths_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    assert storage.absolute("in/a.png") == f"{tmp_path}/in/a.png"
    assert storage.absolute("s3://b/k/") == "s3://b/k"
    assert storage.absolute("s3://b/k//") == "s3://b/k//", "a key may contain an empty name"
    assert storage.path_below("link/run/x", str(tmp_path / "in")) == "run/x"
    assert storage.path_below("link", f"file://{tmp_path}/in/") == ""
    assert storage.path_below("input", "in") is None
    assert storage.path_below("s3://b/k/run/", "s3://b/k") == "run"
    assert storage.path_below("s3://b/keys", "s3://b/k") is None


def test_file_uris(tmp_path: Path) -> None:
    """File URIs may be percent-encoded; a file with the decoded name has precedence."""
    for name in ("sp ace.txt", "100%.txt", "a%20b.txt", "ü.txt"):
        (tmp_path / name).write_text(name)
    for name in (
        "sp ace.txt",
        "sp%20ace.txt",
        "100%.txt",
        "100%25.txt",
        "a%20b.txt",
        "a%2520b.txt",
        "%C3%BC.txt",
    ):
        content = storage.read_bytes(f"file://{tmp_path}/{name}").decode()
        assert content in (name, name.replace("%20", " "), "100%.txt", "a%20b.txt", "ü.txt")
    (tmp_path / "a b.txt").write_text("decoded")
    assert storage.read_bytes(f"FILE://localhost{tmp_path}/a%20b.txt") == b"decoded"
    assert storage.read_bytes(f"{tmp_path}/a%20b.txt") == b"a%20b.txt"


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero", tmp_path / "file" / "below"):
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(str(path))


KEYS = [
    *[
        "dd//a.png",
        "dd/a.png",
        "dd/x//y.png",
        "dd/x/y.png",
        "dd/./b.png",
        "dd/b.png",
        "dd/../c.png",
        "dd/d.png.",
    ],
    *["dd/50%25.png", "dd/50%.png", "dd/ü ß+&?#.png", "dd/a::b.png", "dd/x://y.png", "dd/q?versionId=3.png"],
    *["dd/\x01.png", "dd/ .png", "dd/\u00e9.png", "dd/e\u0301.png", "dd/\U0001f600.png", "dd/\uffff.png"],
]


class Bucket:
    """A bucket for one test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client = s3_objects._access().client
        self.client.create_bucket(Bucket=name)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def put(self, contents: dict[str, bytes]) -> None:
        def one(item: tuple[str, bytes]) -> None:
            self.client.put_object(Bucket=self.name, Key=item[0], Body=item[1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, contents.items()))


@pytest.fixture
def bucket(s3, monkeypatch, request) -> Bucket:
    for name, value in s3[1].items():
        monkeypatch.setenv(name, value)
    return Bucket(re.sub("[^a-z0-9]+", "-", request.node.name).strip("-")[:60])


@pytest.fixture
def lying(bucket, monkeypatch) -> Callable[..., AbstractContextManager[fault_proxy.Proxy]]:
    """Direct the storage to a proxy that gives wrong answers."""

    @contextmanager
    def start(**options: Any) -> Iterator[fault_proxy.Proxy]:
        with fault_proxy.start(os.environ["AWS_ENDPOINT_URL"], **options) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            yield proxy

    return start


def plan(uri: str, **options: Any) -> pa.Table:
    config = InputConfig(uri=uri, **options)
    return pa.concat_tables(inputs(open_source(config, "/nowhere"), config))


class TestKeys:
    def test_each_key_has_its_own_content(self, bucket):
        bucket.put({key: key.encode() * 2 for key in [*KEYS, "dd/folder/", "ddother.png"]})
        table = plan(bucket.uri("dd"), extensions=["*"])
        assert table["id"].to_pylist() == sorted((key[3:] for key in KEYS), key=str.encode)
        assert table["uri"].to_pylist() == [bucket.uri(f"dd/{name}") for name in table["id"].to_pylist()]
        for row in Fetch(pause=0)(table).to_pylist():
            assert row["data"] == f"dd/{row['id']}".encode() * 2, row

    def test_a_prefix_may_end_in_an_empty_name(self, bucket):
        bucket.put({key: key.encode() for key in ("dd//a.png", "dd/a.png", "dd//x/b.png")})
        assert plan(bucket.uri("dd//"))["id"].to_pylist() == ["a.png", "x/b.png"]
        assert plan(bucket.uri("dd/"))["id"].to_pylist() == ["/a.png", "/x/b.png", "a.png"]
        assert plan(bucket.uri()[:-1])["uri"].to_pylist()[0] == bucket.uri("dd//a.png")

    def test_tables_and_ranges_use_keys_unchanged(self, bucket):
        rows = [bucket.uri(key) for key in KEYS]
        bucket.put({key: key.encode() * 2 for key in KEYS})
        sink = io.BytesIO()
        pq.write_table(pa.table({"uri": rows}), sink)
        bucket.put({"t//0.parquet": sink.getvalue(), "t/0.parquet": b"another"})
        found = Fetch(form="table", pause=0)(plan(bucket.uri("t//0.parquet"), form="table")).to_pylist()
        for key, row in zip(KEYS, found, strict=True):
            if re.search(r"[\x00-\x1f]", key):  # not allowed in tables
                assert (row["data"], row["kind"]) == (None, "bad_url")
            else:
                assert row["data"] == key.encode() * 2
        assert storage.read_range(bucket.uri("dd//a.png"), 3, 9) == b"/a.png"

    def test_writing_deleting_and_checking(self, bucket):
        uris = [bucket.uri(key) for key in KEYS]
        for uri in uris:
            assert not storage.exists(uri)
            assert storage.put_if_absent(uri, uri.encode())
            assert not storage.put_if_absent(uri, b"another")
        assert [storage.read_bytes(uri).decode() for uri in uris] == uris
        storage.write_bytes(uris[0], b"new")
        assert storage.read_bytes(uris[0]) == b"new"
        for uri in uris:
            storage.delete(uri)
        assert list(storage.list_files(bucket.uri()[:-1])) == []

    def test_missing_keys(self, bucket):
        for uri in (bucket.uri("nothing"), "s3://no-such-bucket/a", bucket.uri()[:-1], bucket.uri("")):
            with pytest.raises(FileNotFoundError):
                storage.read_bytes(uri)
            assert not storage.exists(uri)
        with pytest.raises(StorageError, match=r"cannot write s3://no-such-bucket/a"):
            storage.write_bytes("s3://no-such-bucket/a", b"")


def test_the_profile_is_used_for_listing_and_reading(bucket, monkeypatch, tmp_path):
    bucket.put({"dd/a.png": b"image"})
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    (tmp_path / "config").write_text(
        f"[profile store]\nendpoint_url = {endpoint}\nregion = garage\n"
        "aws_access_key_id = x\naws_secret_access_key = y\n"
    )
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "store")
    (row,) = Fetch(pause=0)(plan(bucket.uri("dd"))).to_pylist()
    assert row["data"] == b"image"
    assert s3_objects._access().client.meta.region_name == "garage"
    filesystem, path = storage.arrow_filesystem(bucket.uri("dd/out"))
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"written")
    assert storage.read_bytes(bucket.uri("dd/out")) == b"written"


@contextmanager
def paged(pages: dict[str, Any]) -> Iterator[str]:
    """Simulate an S3 listing: pages by token, each with keys of one letter and the next token.

    Bytes are sent unchanged; of a list, each request gets the next item, and the last item is repeated.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            page = pages[query.get("continuation-token", [""])[0]]
            if isinstance(page, list):
                page = page.pop(0) if len(page) > 1 else page[0]
            data = page if isinstance(page, bytes) else listing(*page)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def listing(keys: str, token: str) -> bytes:
    """Return a page of a listing in S3's format."""
    items = "".join(f"<Contents><Key>k/{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
    return f"<ListBucketResult>{truncated}{items}{more}</ListBucketResult>".encode()


NO_LISTINGS = [
    b"",
    b"<html><body>Sign in</body></html>",
    b"<ListBucketResult/>",
    b"<ListBucketResult><Contents><Key>k/b</Key><Size>1</Size></Contents></ListBucketResult>",
]


class TestListings:
    @pytest.fixture
    def many(self, bucket) -> list[str]:
        names = [f"{number:04d}.png" for number in range(1_100)]
        bucket.put({f"many/{name}": b"x" for name in names})
        return names

    def test_a_repeated_page_is_refused(self, bucket, many, lying):
        assert [file.name for file in storage.list_files(bucket.uri("many"))] == many
        with lying(share=1, faults=["same_page"]) as proxy:
            with pytest.raises(
                StorageError, match=r"'many/0000\.png' comes after 'many/0999\.png'; the storage repeats"
            ):
                list(storage.list_files(bucket.uri("many")))
            assert proxy.counts()["same_page"] == 1

    @pytest.mark.parametrize(
        ("pages", "message"),
        [
            ({"": ("ba", "t")}, "'k/a' comes after 'k/b'"),
            ({"": ("aa", "")}, "'k/a' comes after 'k/a'"),
            ({"": ("ab", "t"), "t": ("ab", "t")}, "'k/a' comes after 'k/b'"),
            ({"": ("ab", "t"), "t": ("", "t")}, "promises keys after 'k/b' and repeats or omits the token"),
            ({"": ("ab", "t"), "t": ("", "u"), "u": ("", "t")}, "repeats or omits the token"),
        ],
    )
    def test_listings_with_duplicates_or_without_an_end_are_refused(
        self, bucket, pages, message, monkeypatch
    ):
        with paged(pages) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StorageError, match=message):
                list(storage.list_files(bucket.uri("k")))

    @pytest.mark.parametrize("answer", NO_LISTINGS)
    @pytest.mark.parametrize("first", [True, False])
    def test_an_invalid_answer_is_not_the_end_of_a_listing(self, bucket, answer, first, monkeypatch):
        with paged({"": answer} if first else {"": ("a", "t"), "t": answer}) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StorageError, match=r"cannot list s3://.* something else than a listing"):
                list(storage.list_files(bucket.uri("k")))

    def test_a_listing_continues_after_an_invalid_answer(self, bucket, monkeypatch):
        pages = {"": [b"", ("a", "t")], "t": [b"<html></html>", ("b", "")]}
        with paged(pages) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            assert [file.name for file in storage.list_files(bucket.uri("k"))] == ["a", "b"]

    def test_pages_without_keys_are_skipped(self, bucket, monkeypatch):
        with paged({"": ("a", "t"), "t": ("", "u"), "u": ("b", "")}) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            assert [file.name for file in storage.list_files(bucket.uri("k"))] == ["a", "b"]


class TestShortAnswers:
    """Answers that are shorter than the object with a matching length, which no HTTP client can detect."""

    @pytest.fixture
    def contents(self, bucket) -> dict[str, bytes]:
        contents = {f"in/{number}.png": bytes([number]) * (1000 + number) for number in range(20)}
        bucket.put(contents)
        return {key.removeprefix("in/"): data for key, data in contents.items()}

    @pytest.mark.parametrize("form", ["files", "table"])
    def test_files(self, bucket, contents, lying, form, tmp_path):
        lines = [bucket.uri(f"in/{name}\n") for name in contents]
        (tmp_path / "t.csv").write_text("uri\n" + "".join(lines))
        allow = [bucket.uri("in")]
        options = {"uri": str(tmp_path / "t.csv"), "allow": allow} if form == "table" else {"uri": allow[0]}
        table = plan(form=form, **options)
        with lying(share=0.3, faults=["short"]) as proxy:
            rows = Fetch(form=form, attempts=8, pause=0)(table).to_pylist()
            assert proxy.counts()["short"] > 5
            assert {row["id"].rpartition("/")[2]: row["data"] for row in rows} == contents
            proxy.set_share(1.0)
            failed = Fetch(form=form, attempts=2, pause=0)(table).to_pylist()
        assert {row["kind"] for row in failed} == {"storage"}

    def test_without_a_digest_the_length_is_checked(self, bucket, lying):
        """The ETag of an object that was uploaded in parts is not a digest."""
        upload = bucket.client.create_multipart_upload(Bucket=bucket.name, Key="parts.png")["UploadId"]
        place = {"Bucket": bucket.name, "Key": "parts.png", "UploadId": upload}
        part = bucket.client.upload_part(**place, PartNumber=1, Body=b"x" * 1000)
        parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        bucket.client.complete_multipart_upload(**place, MultipartUpload=parts)
        with lying(share=1, faults=["short"]) as proxy:
            for listed in (None, 1000, 7):
                with pytest.raises(StorageError, match="500 of 1000 bytes came"):
                    storage.read_bytes(bucket.uri("parts.png"), listed=listed)
            proxy.set_share(0.0)
            for listed in (None, 1000, 7):  # the object may have been replaced after the listing
                assert storage.read_bytes(bucket.uri("parts.png"), listed=listed) == b"x" * 1000

    def test_ranges_of_tars_and_row_groups_of_parquet(self, bucket, lying):
        sink = io.BytesIO()
        images = [bytes([number]) * 500 for number in range(40)]
        pq.write_table(pa.table({"image": images}), sink, row_group_size=4, compression="none")
        bucket.put({"0.parquet": sink.getvalue()})
        table = plan(bucket.uri("0.parquet"), form="parquet")
        with lying(share=0.4, faults=["short"]) as proxy:
            for start in range(0, 40, 4):
                rows = Fetch(form="parquet", attempts=12, pause=0)(table.slice(start, 4)).to_pylist()
                assert [row["data"] for row in rows] == images[start : start + 4]
            assert proxy.counts()["short"] > 2
            proxy.set_share(1.0)
            for start, stop in ((0, 8), (5, 6), (10, 1000)):
                with pytest.raises(StorageError, match="bytes came"):
                    storage.read_range(bucket.uri("0.parquet"), start, stop)

    def test_a_first_object_with_a_wrong_digest_is_not_accepted(self, bucket, monkeypatch):
        """Its bytes are equal and its length is right; the other objects show that ETags are digests."""
        bucket.put({"in/bad": b"content", "in/a": b"other", "in/b": b"another one"})
        wrong, right = bucket.client.head_object(Bucket=bucket.name, Key="in/bad")["ETag"], s3_objects._digest
        monkeypatch.setattr(
            s3_objects, "_digest", lambda answer: "0" * 32 if answer["ETag"] == wrong else right(answer)
        )
        monkeypatch.setattr(s3_objects, "_DIGEST_BUCKETS", set())
        with pytest.raises(StorageError, match="does not match the object's ETag"):
            storage.read_bytes(bucket.uri("in/bad"))
        assert storage.read_bytes(bucket.uri("in/a")) == b"other"

    def test_storages_whose_etags_are_no_digests(self, bucket, lying, monkeypatch):
        """Equal bytes twice are accepted; after one digest has matched, all must match."""
        bucket.put({"a": b"content", "b": b"other"})
        monkeypatch.setattr(s3_objects, "_digest", lambda answer: "0" * 32)
        monkeypatch.setattr(s3_objects, "_OTHER_BUCKETS", set())
        monkeypatch.setattr(s3_objects, "_DIGEST_BUCKETS", set())
        assert storage.read_bytes(bucket.uri("a")) == b"content"
        s3_objects._DIGEST_BUCKETS.add((os.environ["AWS_ENDPOINT_URL"], bucket.name))
        with pytest.raises(StorageError, match="does not match the object's ETag"):
            storage.read_bytes(bucket.uri("a"))
