"""Samples of the images of a feature store."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glied.data import features, parquet
from glied.data.region_sample import sample_regions
from glied.errors import UsageError
from glied.regions import Regions


def regions(number: int) -> Regions:
    """Make 1 to 3 regions with the given mean."""
    count = 1 + number % 3
    values = np.full((count, 4), number, np.float32) + np.arange(count)[:, None] - (count - 1) / 2
    return Regions(
        boxes=np.zeros((count, 4), np.float32),
        features=values,
        scores=np.ones(count, np.float32),
        labels=["thing"] * count,
        attributes=[[]] * count,
        width=10,
        height=10,
    )


def write(folder, numbers, *, group=10, per_file=50, **replaced):
    table = features.write([regions(one) for one in numbers], [str(one) for one in numbers], fingerprint={})
    for name, column in replaced.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    folder.mkdir(exist_ok=True)
    for start in range(0, len(numbers), per_file):
        pq.write_table(table.slice(start, per_file), folder / f"{start:04d}.parquet", row_group_size=group)
    return str(folder)


def means(sample):
    return [float(one.mean()) for one in sample]


def test_a_small_store_is_read_whole(tmp_path):
    sample = list(sample_regions(write(tmp_path / "store", range(120)), 120))
    assert means(sample) == list(range(120))
    for number, one in enumerate(sample):
        np.testing.assert_array_equal(one, regions(number).features)
        assert one.dtype == np.float32


def test_a_fixed_sample_of_row_groups_of_a_large_store_is_read(tmp_path, monkeypatch):
    uri = write(tmp_path / "store", range(200))
    opened = []
    plain = parquet.open_file
    monkeypatch.setattr(parquet, "open_file", lambda uri, **rest: opened.append(uri) or plain(uri, **rest))
    sample = means(sample_regions(uri, 35))
    assert len(sample) == 40
    assert len(opened) == 4 + 4 + 4  # fingerprints, footers, groups
    starts = {int(one) // 10 for one in sample}
    assert len(starts) == 4
    assert max(starts) - min(starts) > 4
    assert means(sample_regions(uri, 35)) == sample
    assert means(sample_regions(uri, 35, seed=1)) != sample


def test_images_without_regions_or_with_broken_features_are_left_out(tmp_path):
    good = features.write([regions(one) for one in range(3)], list("abc"), fingerprint={}).to_pylist()
    broken = np.frombuffer(good[1]["features"], "<f2").copy()
    broken[0] = np.nan
    data = pa.array([good[0]["features"], broken.tobytes(), None], pa.binary())
    counts = pa.array([1, 2, None], pa.int32())
    uri = write(tmp_path / "store", range(3), features=data, count=counts)
    assert means(sample_regions(uri, 10)) == [0]


def test_stores_without_the_column_of_types_are_read(tmp_path):
    table = features.write([regions(5)], ["5"], fingerprint={}).drop_columns(["feature_type"])
    pq.write_table(table, tmp_path / "0.parquet")
    assert means(sample_regions(str(tmp_path), 10)) == [5]


def test_other_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="holds no feature store"):
        next(sample_regions(str(tmp_path), 10))
