"""Reading benchmark tables for the report."""

import json
from pathlib import Path
from typing import Any

import pytest

from glied.errors import UsageError
from glied.reports.benchmark_tables import read_table


def written(folder: Path, content: Any) -> str:
    path = folder / "table.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def captioners() -> dict[str, Any]:
    """Return a small table."""
    rows = [
        {"model": "SoftAtt", "parameters, millions": 0.96, "images/s": None, "CIDEr": 112.25},
        {"model": "GLIED", "parameters, millions": 1.75, "images/s": 409, "CIDEr": 134.3},
    ]
    return {"title": "Captioners", "note": "a machine", "rows": rows}


def test_any_rows_make_a_table(tmp_path: Path) -> None:
    rows = [
        {"claim": "GLIED > Base", "ours": 3.5, "holds": True, "images": [1, 2]},
        {"claim": "grammar", "p": 0.01},
    ]
    table = read_table(written(tmp_path, {"title": "Claims", "note": "on the test scenes", "rows": rows}))
    assert (table.title, table.note) == ("Claims", "on the test scenes")
    assert table.columns == ["claim", "ours", "holds", "images", "p"]
    assert table.labels == ["GLIED > Base", "grammar"]
    assert table.rows[0]["images"] == "[1, 2]"
    assert table.numeric() == {"ours": [3.5, None], "p": [None, 0.01]}


@pytest.mark.parametrize(
    "content",
    [
        {"rows": [1, 2], "title": "t"},
        {"rows": [{"a": 1}]},
        {"title": "t"},
        {"title": "t", "models": {"lstm": {}}},
        [{"a": 1}],
        [],
        3,
    ],
)
def test_other_content_is_refused_with_the_format(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UsageError, match=r'table\.json does not contain a table: its form is {"title"'):
        read_table(written(tmp_path, content))


def test_empty_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file"):
        read_table(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is not JSON"):
        read_table(written(tmp_path, "{"))
    with pytest.raises(UsageError, match="its table has no rows"):
        read_table(written(tmp_path, {"title": "t", "rows": []}))
