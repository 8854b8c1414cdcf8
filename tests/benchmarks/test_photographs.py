"""Examples and printed results of benchmarks/photographs.py."""

import subprocess
import sys

from benchmarks.photographs import draw_examples

NAMES = [f"{number}.jpg" for number in range(20)]


def test_examples_come_from_the_best_and_the_worst_quarter():
    texts = {name: f"caption of {name}" for name in NAMES}
    references = {name: [f"reference of {name}", "another"] for name in NAMES}
    cider = [10.0 * ((7 * number) % 20) for number in range(20)]  # all different, in no order
    examples = draw_examples(texts, references, cider, 3)
    assert {part: len(found) for part, found in examples.items()} == {"best": 3, "worst": 3}
    assert all(one["CIDEr"] >= 150 for one in examples["best"])
    assert all(one["CIDEr"] <= 40 for one in examples["worst"])
    for one in [*examples["best"], *examples["worst"]]:
        name = one["caption"].removeprefix("caption of ")
        assert one["reference"] == f"reference of {name}"
        assert one["CIDEr"] == cider[NAMES.index(name)]
    assert len(draw_examples(texts, references, cider, 100)["best"]) == 5


def test_without_options_the_committed_results_are_printed():
    command = [sys.executable, "benchmarks/photographs.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| test | glied_cider | 5 | 71.9 |" in printed
