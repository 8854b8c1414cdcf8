import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from glied.datasets import features
from glied.errors import UsageError
from glied.vision.regions import Regions


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


def test_store_gives_back_the_regions_of_every_id(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 70)
    save(tmp_path / "unit-1.parquet", 70, 3)
    store = features.FeatureStore(str(tmp_path))
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


def test_what_is_no_feature_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="extract_regions"):
        features.paths(str(tmp_path))
    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other\.parquet is not part of a feature store"):
        features.paths(str(tmp_path))


def test_an_id_that_stands_twice_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "unit-0.parquet", 0, 2)
    save(tmp_path / "unit-1.parquet", 1, 2)
    with pytest.raises(UsageError, match="twice"):
        features.FeatureStore(str(tmp_path))


def test_a_run_folder_counts_as_the_store_it_holds(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "manifest").mkdir()
    save(tmp_path / "features" / "unit-000000.g0.parquet", 0, 2)
    pa.parquet.write_table(pa.table({"id": ["x"]}), tmp_path / "manifest" / "part.parquet")
    assert [Path(uri).name for uri in features.paths(str(tmp_path))] == ["unit-000000.g0.parquet"]
