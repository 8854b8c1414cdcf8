from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from glied.data import parquet
from glied.errors import UsageError


@pytest.fixture
def uri(tmp_path: Path) -> str:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"x": range(23)}), path, row_group_size=5)
    return str(path)


@pytest.mark.parametrize(("first", "last"), [(0, 23), (0, 1), (4, 6), (5, 10), (7, 22), (20, 23)])
def test_ranges_of_rows(uri: str, first: int, last: int) -> None:
    assert parquet.read(parquet.Piece(uri, first, last))["x"].to_pylist() == list(range(first, last))
    assert parquet.count_rows(uri) == 23


def test_a_row_group_is_read_once_for_consecutive_pieces(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = []

    class Watched(pa.parquet.ParquetFile):
        def read_row_group(self, group: int) -> pa.Table:
            groups.append(group)
            return super().read_row_group(group)

    monkeypatch.setattr(pa.parquet, "ParquetFile", Watched)
    reader = parquet.RowReader()
    pieces = parquet.split(parquet.Piece(uri, 0, 23), 2)
    assert pa.concat_tables(map(reader.read, pieces))["x"].to_pylist() == list(range(23))
    assert groups == [0, 1, 2, 3, 4]
    reader.clear()
    assert reader.read(pieces[-1])["x"].to_pylist() == [22]
    assert groups[-1] == 4
    assert len(groups) == 6


def test_pieces_are_cut_and_read(uri: str) -> None:
    pieces = parquet.split(parquet.Piece(uri, 3, 20), 8)
    assert [(piece.first, piece.last) for piece in pieces] == [(3, 11), (11, 19), (19, 20)]
    assert [parquet.read(piece)["x"].to_pylist() for piece in pieces[::2]] == [[*range(3, 11)], [19]]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match=r"broken\.parquet is not a readable"):
        parquet.count_rows(str(tmp_path / "broken.parquet"))
