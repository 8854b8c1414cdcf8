import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glied import storage
from glied.errors import StorageError, UsageError


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


def test_put_if_absent_counts_its_own_content_as_won(tmp_path: Path) -> None:
    """A put whose answer was lost is refused by its own retry; reading it back shows that it was ours."""
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


def test_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")
