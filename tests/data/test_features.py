import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from glied.data import features
from glied.errors import UsageError
from glied.regions import Regions
from tests.stores import StoredRegions


def make_regions(count: int, seed: int) -> Regions:
    random = np.random.default_rng(seed)
    return Regions(
        boxes=random.uniform(0, 300, (count, 4)).astype(np.float32),
        features=random.normal(size=(count, 16)).astype(np.float32),
        scores=random.uniform(size=count).astype(np.float32),
        labels=[f"label {i}" for i in range(count)],
        attributes=[["red", "small"][: i % 3] for i in range(count)],
        width=320,
        height=200 + seed,
    )


def save(path: Path, first: int, count: int, extractor: str = "a") -> None:
    regions = [make_regions(1 + seed % 5, seed) for seed in range(first, first + count)]
    ids = [f"folder/image-{seed}.jpg" for seed in range(first, first + count)]
    path.write_bytes(
        features.parquet_bytes(features.write(regions, ids, fingerprint={"extractor": extractor}))
    )


def assert_same(found: Regions, wanted: Regions) -> None:
    for field in dataclasses.fields(Regions):
        got, expected = getattr(found, field.name), getattr(wanted, field.name)
        if field.name == "features":
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6)
        else:
            np.testing.assert_array_equal(np.asarray(got, object), np.asarray(expected, object))


def test_store_returns_the_regions_of_every_id(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 70)
    save(tmp_path / "unit-1.parquet", 70, 3)
    store = StoredRegions(str(tmp_path))
    assert len(store) == 73
    assert store.ids[72] == "folder/image-72.jpg"
    for seed in (0, 64, 69, 72):
        assert_same(store[f"folder/image-{seed}.jpg"], make_regions(1 + seed % 5, seed))
    assert "other" not in store
    with pytest.raises(KeyError):
        store["other"]


def test_a_streamed_row_reads_like_random_access(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 3)
    (uri,) = features.paths(str(tmp_path))
    for seed, row in enumerate(pa.parquet.read_table(uri).to_pylist()):
        assert_same(features.read(row), make_regions(1 + seed % 5, seed))
    assert features.fingerprint(str(tmp_path)) == {"extractor": "a"}


def test_large_features_are_clipped_not_infinite() -> None:
    regions = dataclasses.replace(make_regions(2, 0), features=np.full((2, 4), 1e9, np.float32))
    row = features.write([regions], ["a"], fingerprint={}).to_pylist()[0]
    assert np.isfinite(features.read(row).features).all()


def test_mixed_extractors_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 2)
    save(tmp_path / "unit-1.parquet", 2, 2, extractor="b")
    with pytest.raises(UsageError, match="extracted differently"):
        features.paths(str(tmp_path))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="extract_regions"):
        features.paths(str(tmp_path))
    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other\.parquet is not part of a feature store"):
        features.paths(str(tmp_path))


def test_a_run_folder_is_read_as_its_store(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "manifest").mkdir()
    save(tmp_path / "features" / "unit-000000.g0.parquet", 0, 2)
    pa.parquet.write_table(pa.table({"id": ["x"]}), tmp_path / "manifest" / "part.parquet")
    assert [Path(uri).name for uri in features.paths(str(tmp_path))] == ["unit-000000.g0.parquet"]


def test_exact_features_keep_every_bit(tmp_path: Path) -> None:
    regions = make_regions(3, 0)
    table = features.write([regions], ["a"], fingerprint={}, dtype=features.EXACT)
    (tmp_path / "exact.parquet").write_bytes(features.parquet_bytes(table))
    found = StoredRegions(str(tmp_path))["a"]
    assert found.features.tobytes() == regions.features.tobytes()
    assert found.boxes.tobytes() == regions.boxes.tobytes()


def test_a_file_without_the_column_of_types_holds_float16(tmp_path: Path) -> None:
    table = features.write([make_regions(2, 0)], ["a"], fingerprint={}).drop_columns(["feature_type"])
    pa.parquet.write_table(table, tmp_path / "old.parquet")
    assert_same(StoredRegions(str(tmp_path))["a"], make_regions(2, 0))
    assert features.feature_size(str(tmp_path)) == 16


def test_images_without_regions_are_not_in_the_store(tmp_path: Path) -> None:
    table = features.write([make_regions(2, 0)], ["a"], fingerprint={"extractor": "a"})
    rejected = dict.fromkeys(table.schema.names) | {"id": "b"}
    whole = pa.concat_tables([pa.Table.from_pylist([rejected], schema=table.schema), table])
    (tmp_path / "unit.parquet").write_bytes(features.parquet_bytes(whole))
    store = StoredRegions(str(tmp_path))
    assert (store.ids, "b" in store) == (["a"], False)
    with pytest.raises(KeyError):
        store["b"]


def test_row_groups_are_small_enough_for_random_access(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(features, "_GROUP_BYTES", 2048)
    save(tmp_path / "unit-0.parquet", 0, 50)
    assert pa.parquet.ParquetFile(tmp_path / "unit-0.parquet").num_row_groups > 3


def test_stores_of_different_extractors_are_not_used_together(tmp_path: Path) -> None:
    for folder, extractor in (("train", "a"), ("val", "a"), ("test", "b")):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "unit-0.parquet", 0, 2, extractor)
    train, val, test = (str(tmp_path / folder) for folder in ("train", "val", "test"))
    features.check_same_extractor([train, val])
    with pytest.raises(UsageError, match=r"test and .*train were extracted differently: extractor is 'b'"):
        features.check_same_extractor([train, test])


def test_stored_size_counts_images_and_bytes(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 4)
    (tmp_path / "summary.json").write_bytes(b"x" * 1000)
    size = features.stored_size(str(tmp_path), 4)
    assert (size.images, size.bytes) == (4, (tmp_path / "unit-0.parquet").stat().st_size)
    assert str(features.StoredSize(123_287, 18_246_476_000)) == "123,287 images, 18.25 GB, 148.0 kB per image"
