import datetime
import json

import pyarrow as pa
import pytest

from glied.bulk.arrow_tables import ranges, to_rows
from glied.bulk.exports.unit_files import encode_jsonl


def test_values_that_python_cannot_hold_become_text():
    days = pa.array([10**7, 1], pa.date32())
    table = pa.table({"id": ["a", "b"], "day": days, "days": pa.array([[10**7], [1]], pa.list_(pa.date32()))})
    second = datetime.date(1970, 1, 2)
    assert to_rows(table) == [
        {"id": "a", "day": "29349-01-26", "days": "[29349-01-26]"},
        {"id": "b", "day": second, "days": [second]},
    ]
    assert to_rows(table.slice(1)) == table.slice(1).to_pylist()
    assert [json.loads(line)["day"] for line in encode_jsonl(table).splitlines()] == [
        "29349-01-26",
        "1970-01-02",
    ]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1, 1], [(0, 3), (3, 4)]),  # three rows at most
        ([6, 4, 1], [(0, 2), (2, 3)]),  # ten in all
        ([11, 0, 12], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_rows_are_divided_by_number_and_size(sizes: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(ranges(sizes, most=3, size=10)) == expected
