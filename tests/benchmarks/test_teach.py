"""benchmarks/teach.py: the table and the shares from result files, and the short form on scenes."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import teach
from benchmarks.teach_config import Config
from glied.errors import UsageError


def write_results(folder: Path) -> None:
    folder.mkdir()
    found = {"by_references": (40.0, 44.0), "by_teacher": (38.0, 46.0), "by_filtered": (42.0, 21.0)}
    found |= {"by_teacher_cider": (50.0,)}
    for student, values in found.items():
        for seed, value in enumerate(values):
            figures = {"CIDEr": 2 * value, "judge R@1": value, "CPU minutes": 9.0}
            content = {"student": student, "seed": seed, "figures": figures, "machine": "a machine"}
            (folder / f"demo-{student}-{seed}.json").write_text(json.dumps(content))
    (folder / "photographs-by_teacher-0.json").write_text("{}")


def test_shares_and_table_come_from_the_result_files(tmp_path: Path, monkeypatch, capsys) -> None:
    write_results(tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["teach.py", f"--results={tmp_path / 'results'}"])
    assert teach.main() == 0
    *page, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["judge_r1_share"] == pytest.approx(0.75)  # (42 + 21) / (40 + 44)
    assert result["judge_r1_share_unfiltered"] == pytest.approx(1.0)  # (38 + 46) / (40 + 44)
    assert result["judge_r1_share_cider"] is None
    assert result["rows"]["by_teacher"]["judge R@1"] == {"mean": 42.0, "spread": 8.0}
    assert "by_references-2" in result["missing"]
    assert "by_teacher-0" not in result["missing"]
    assert any(line.startswith("| GLIED taught by the teacher | 2 | 84 ± 16 | 42 ± 8 |") for line in page)


def test_only_seeds_that_both_students_have_are_compared() -> None:
    results = {
        "one": [{"seed": 0, "figures": {"CIDEr": 10.0}}, {"seed": 1, "figures": {"CIDEr": 99.0}}],
        "other": [{"seed": 0, "figures": {"CIDEr": 20.0}}, {"seed": 2, "figures": {"CIDEr": 1.0}}],
    }
    assert teach.share(results, "one", "other", "CIDEr") == 0.5
    assert teach.share(results, "one", "other", "BLEU-4") is None


def test_teachers_are_trained_where_none_is_given() -> None:
    assert Config(seeds=(0, 1), students=("by_teacher",)).planned == [
        ("teacher", 0), ("by_teacher", 0), ("by_teacher", 1),
    ]  # fmt: skip
    photographs = Config(world="photographs", seeds=(0, 1), students=("by_teacher",))
    assert photographs.planned == [
        ("teacher", 0), ("teacher", 1), ("by_teacher", 0), ("by_teacher", 1),
    ]  # fmt: skip


def test_unknown_students_are_refused() -> None:
    with pytest.raises(UsageError, match="'by_parrot' is none of by_references"):
        Config(students=("by_parrot",))
