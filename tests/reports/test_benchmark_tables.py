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


def table2(**more: Any) -> dict[str, Any]:
    """Return results in the format of benchmarks/table2.py."""
    curve = [
        {"epoch": 1, "minutes": 2.0, "cider": 80.0, "loss": 2.0},
        {"epoch": 2, "minutes": 4.0, "cider": 110.5, "loss": 1.5},
    ]
    one = {
        "val_cider": 110.5, "best_epoch": 2, "minutes_to_best": 3.5, "minutes": 4.0, "epochs": 2, "batch": 8,
        "train_images": 80, "val_images": 5, "test_cider": 112.25, "test_images": 5, "parameters": 1_750_000,
        "curve": curve,
    }  # fmt: skip
    models = {"soft_att": one, "glied": one | {"test_cider": 120.0}}
    facts = {"short": False, "machine": "a machine", "threads": 1, "date": "2026-11-21", "models": models}
    return facts | more


def test_table_2(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, table2(speed={"demo": {"glied": 90.5}, "paper_sizes": {}})))
    assert table.labels == ["SoftAtt", "GLIED"]
    assert table.columns[:4] == ["model", "parameters, millions", "minutes to best", "images/s"]
    assert table.numeric() == {
        "parameters, millions": [1.75, 1.75],
        "minutes to best": [3.5, 3.5],
        "images/s": [None, 90.5],
        "CIDEr, val": [110.5, 110.5],
        "CIDEr, test": [112.25, 120.0],
    }
    assert table.note == "a machine, 1 thread(s), 2026-11-21; minutes are CPU time."
    assert table.panel is not None
    assert table.panel.lines["GLIED"] == [(2.0, 80.0), (4.0, 110.5)]


def test_missing_figures_are_left_out_and_the_short_form_is_marked(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, table2(short=True)))
    assert "images/s" not in table.columns
    assert table.note.startswith("The short form, whose figures say nothing about the models.")


def test_any_rows_make_a_table(tmp_path: Path) -> None:
    rows = [
        {"claim": "GLIED > Base", "ours": 3.5, "holds": True, "images": [1, 2]},
        {"claim": "grammar", "p": 0.01},
    ]
    table = read_table(written(tmp_path, {"title": "Claims", "note": "on the test scenes", "rows": rows}))
    assert (table.title, table.note, table.panel) == ("Claims", "on the test scenes", None)
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
        {"models": {"lstm": {}}},
        [{"a": 1}],
        [],
        3,
    ],
)
def test_other_content_is_refused_with_the_format(tmp_path: Path, content: Any) -> None:
    with pytest.raises(
        UsageError, match=r'table\.json does not contain a table: .* general form is {"title"'
    ):
        read_table(written(tmp_path, content))


def test_empty_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such file"):
        read_table(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is not JSON"):
        read_table(written(tmp_path, "{"))
    for content in ({"title": "t", "rows": []}, table2(models={})):
        with pytest.raises(UsageError, match="its table has no rows"):
            read_table(written(tmp_path, content))
