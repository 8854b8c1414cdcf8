"""URIs in rows of tables: each odd one has a defined result, and no forbidden address is contacted."""

import json
import os
import socket
from pathlib import Path

import pytest

from glied.bulk.captioning import fetch_stage
from glied.bulk.config import InputConfig, ResourcesConfig
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.plan.sources.row_uris import MAX_LENGTH, RowUris
from glied.errors import ImageError, UsageError

SECRET = "s3cr3t"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A table's folder with images, beside a secret file."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in (
        "x.png",
        "a b.png",
        "a%20b.png",
        "sub/y.png",
        "12:30.png",
        "frame:1.png",
        "~x.png",
        "a#1?.png",
    ):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "in-secret").mkdir()
    (tmp_path / "in-secret" / "z.png").write_bytes(b"secret")
    (folder / "inside.png").symlink_to("x.png")
    (folder / "outside.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    return folder


def answers(folder: Path, uris: list[str], *, allow: list[str] | None = None) -> list[bytes | str | None]:
    """Return the bytes of each row, or its error kind, through planning and fetching as in a job."""
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"uri": uri}) for uri in uris))
    config = InputConfig(uri=str(folder / "t.jsonl"), form="table", allow=allow)
    tables = list(inputs(open_source(config, "/nowhere"), config))
    fetch = fetch_stage(config, ResourcesConfig())
    rows = [row for table in tables for row in fetch(table).to_pylist()]
    assert len(rows) == len(uris)
    assert all(SECRET not in str(row["error"]) for row in rows)
    return [row["kind"] or row["data"] for row in rows]


def test_files_in_the_folder_of_the_table(images):
    real = {
        "x.png": b"x.png", "./x.png": b"x.png", "sub/../x.png": b"x.png", "sub/y.png": b"sub/y.png",
        "a b.png": b"a b.png", "a%20b.png": b"a%20b.png", "12:30.png": b"12:30.png", "~x.png": b"~x.png",
        "frame:1.png": b"frame:1.png", "inside.png": b"x.png", " sub/y.png ": b"sub/y.png",
        "a#1?.png": b"a#1?.png", f"{images}/x.png": b"x.png", f"file://{images}/x.png": b"x.png",
        f"FILE://localhost{images}/x.png": b"x.png", "gone.png": "not_found", "sub": "not_found",
        "pipe.png": "not_found",
    }  # fmt: skip
    found = answers(images, list(dict.fromkeys(uri.strip() for uri in real)))
    assert found == [real.get(uri, real.get(f" {uri} ")) for uri in dict.fromkeys(map(str.strip, real))]


FORBIDDEN = [
    "../secret.png", "sub/../../secret.png", "/etc/passwd", "file:///etc/passwd", "FILE:/etc/passwd",
    "file://host/etc/passwd", "outside.png", "up/secret.png", "up/in-secret/z.png",
    "up/in/../secret.png", "..", ".", "simplecache::http://127.0.0.1:1/a.png",
    "SimpleCache::http://127.0.0.1:1/a.png", "filecache::http://127.0.0.1:1/a",
    "blockcache::http://127.0.0.1:1/a", "cached::http://127.0.0.1:1/a", "dir::http://127.0.0.1:1/a",
    "zip://x.png::file:///tmp/q.zip", "s3://b/x::http://127.0.0.1:1/a", "a::b.png",
    "webhdfs://127.0.0.1:1/a.png", "WEBHDFS://127.0.0.1:1/a.png", "jupyter://127.0.0.1:1/a",
    "ftp://127.0.0.1:1/a", "sftp://127.0.0.1/a", "smb://h/x", "git://x", "github://o:r@main/x.png",
    "reference://x", "libarchive://x", "oci://b@n/x.png", "az://c/x.png", "s3://operators/secret.png",
    "s3a://127.0.0.1:9000/b/x.png", "gs://b/x", "dbfs:/x.png", "s3:b/x.png", "memory://x",
    "local:///etc/passwd", "http+unix://x/y", f"ftp://u:{SECRET}@h/x",
    f"webhdfs://h/x?delegation={SECRET}",
]  # fmt: skip
BAD = [
    "x.png\0y", "x\ny.png", "x\ty", "\x7f", "a\x85b", "//host/x.png", "//127.0.0.1/x",
    "\\\\server\\x.png", "C:\\x.png", "c:/x.png", "Z:", "data:image/png;base64,iVBORw0KGgo=", "DATA:,x",
    "http:x.png", "https:/x.png", "://x.png", "1http://h/x", "mailto:a@b", "javascript:alert(1)",
    "a" * 256 + ".png", "a/" * 2100 + "x", "a" * (MAX_LENGTH + 1), "http://", "http:///x.png",
    "http://a b/", "http://h:0/", "http://h:65536/", "http://h:x/", "http://[::1/x",
    f"http://u:{SECRET}@example.test/x.png", "http://a..test/", f"http://{'a' * 64}.test/",
]  # fmt: skip


def test_what_is_refused(images, monkeypatch):
    """No connection is made."""

    def connect(*args):
        raise AssertionError("nothing may be connected to")

    monkeypatch.setattr(socket.socket, "connect", connect)
    found = dict(zip([*FORBIDDEN, *BAD], answers(images, [*FORBIDDEN, *BAD]), strict=True))
    assert found == dict.fromkeys(FORBIDDEN, "forbidden") | dict.fromkeys(BAD, "bad_url")


def test_private_addresses_are_forbidden_in_every_spelling(images):
    hosts = [
        "127.0.0.1:9",
        "LOCALHOST:9",
        "[::1]:9",
        "2130706433:9",
        "0x7f.1:9",
        "169.254.169.254",
        "10.0.0.1",
    ]
    uris = [f"{scheme}://{host}/a.png" for host in hosts for scheme in ("http", "HTTP", "HtTpS")]
    assert set(answers(images, uris)) == {"forbidden"}


def test_allowed_places_are_read(images, tmp_path):
    outside = [str(tmp_path / "in-secret" / "z.png"), "outside.png", "../in-secret/z.png", "/etc/passwd"]
    found = answers(images, outside, allow=[str(tmp_path / "in-secret")])
    assert found == [b"secret", "forbidden", b"secret", "forbidden"]
    assert answers(images, outside[:2], allow=[f"file://{tmp_path}"]) == [b"secret", b"secret"]


def test_a_folder_that_is_a_link_is_the_tables_folder(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    assert answers(tmp_path / "link", ["x.png", str(images / "x.png")]) == [b"x.png", b"x.png"]


@pytest.mark.parametrize(
    ("allow", "uri", "meant"),
    [
        ([], "x.png", "s3://bucket/t/x.png"),
        ([], "../x//y.png", None),  # a relative path in a key is an error, because keys are not resolved
        ([], "s3://bucket/t/../x//y.png", "s3://bucket/t/../x//y.png"),
        ([], "s3a://bucket/any//where.png", "s3://bucket/any//where.png"),
        ([], "S3://bucket/x", "s3://bucket/x"),
        ([], "s3://bucket2/x", None),
        ([], "s3://bucket", None),
        ([], "/etc/passwd", None),
        (["s3://other/pre"], "s3://other/pre/x", "s3://other/pre/x"),
        (["s3://other/pre"], "s3://other/prefix/x", None),
        (["s3"], "s3://any/x", "s3://any/x"),
        (["GS"], "gcs://any/x", "gs://any/x"),
        (["gs://b/"], "gs://b/../c/x", None),
        (["ftp://h:21/pub"], "ftp://h:21/pub/x", "ftp://h:21/pub/x"),
        (["ftp://h:21/pub"], "ftp://h:22/pub/x", None),
        (["ftp://h/pub"], "ftp://u@h/pub/x", None),
        (["ftp://h/pub"], "ftp://h/pub/../x", None),
        (["file"], "/etc/passwd", "/etc/passwd"),
        (["https"], "https://h/a::b?c", "https://h/a::b?c"),
    ],
)
def test_prefixes(allow, uri, meant):
    rules = RowUris.of("s3://bucket/t/t.csv", allow)
    if meant is None:
        with pytest.raises(ImageError):
            rules.resolve(uri, "s3://bucket/t")
    else:
        assert rules.resolve(uri, "s3://bucket/t") == meant


@pytest.mark.parametrize(
    "entry",
    ["ftp", "webhdfs://", "simplecache", "zip://x", "a::b", "", "nope", "https://h/", f"s3://u:{SECRET}@b/"],
)
def test_places_that_cannot_be_allowed_are_named(entry):
    with pytest.raises(UsageError, match=r"input\.allow") as caught:
        RowUris.of("s3://bucket/t.csv", [entry])
    assert SECRET not in str(caught.value)


def test_a_bad_row_affects_no_other_row(images):
    uris = ["x.png", "x.png\0y", "sub/y.png"]
    assert answers(images, uris) == [b"x.png", "bad_url", b"sub/y.png"]


@pytest.mark.parametrize(
    ("table", "own", "other"),
    [
        ("hf://datasets/me/a/t.csv", "hf://datasets/me/a/x.png", "hf://datasets/me/b/x.png"),
        (
            "hf://datasets/me/a@main/t/t.csv",
            "hf://datasets/me/a@main/x.png",
            "hf://datasets/you/a@main/x.png",
        ),
        ("hf://datasets/me/a/t.csv", "hf://datasets/me/a/x.png", "hf://datasets/me/ab/x.png"),
        ("hf://me/model/t.csv", "hf://me/model/x.png", "hf://datasets/me/a/x.png"),
    ],
)
def test_a_table_on_the_hub_may_name_files_of_its_own_repository(table, own, other):
    uris = RowUris.of(table)
    assert uris.resolve(own, table.rpartition("/")[0]) == own
    assert uris.resolve("x.png", table.rpartition("/")[0]) == f"{table.rpartition('/')[0]}/x.png"
    with pytest.raises(ImageError, match="may not read"):
        uris.resolve(other, table.rpartition("/")[0])
    assert RowUris.of(table, ["hf"]).resolve(other, table.rpartition("/")[0]) == other
