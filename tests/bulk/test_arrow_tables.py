import datetime
import json

import pyarrow as pa

from glied.bulk.arrow_tables import to_rows
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
