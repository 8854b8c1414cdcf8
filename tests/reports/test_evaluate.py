"""The whole evaluation from files to figures and reports, without METEOR and SPICE for speed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glied.errors import UsageError
from glied.metrics.text_metrics import text_metrics
from glied.reports import evaluation_report
from glied.reports.evaluate import EvaluateConfig, Evaluation, evaluate
from tests.bulk import runs
from tests.flat_settings import flat

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = {
    f"{n}.jpg": [f"a {word} dog on the beach", f"one {word} dog"] for n, word in enumerate("abcdefghij")
}
GOOD = {name: texts[1] for name, texts in REFERENCES.items()}
BAD = dict.fromkeys(REFERENCES, "a cat sits in a red kitchen")
FAST: dict[str, Any] = {"metrics": ["CIDEr", "BLEU", "ROUGE-L"], "resamples": 500}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Write references, a FineCapEval file, and two captions files."""
    images = [{"id": n, "file_name": name} for n, name in enumerate(REFERENCES)]
    annotations = [
        {"id": 0, "image_id": n, "caption": text}
        for n, texts in enumerate(REFERENCES.values())
        for text in texts
    ]
    content = {"images": images, "annotations": annotations}
    (tmp_path / "references.json").write_text(json.dumps(content))
    lines = [f"{name},a dog on sand,beach\\;sand,dogs,dog on beach" for name in REFERENCES]
    (tmp_path / "fine.csv").write_text("\n".join(["image,caption,background,object,relation", *lines]))
    for name, captions in (("good", GOOD), ("bad", BAD)):
        items = [{"image_id": n, "caption": text} for n, text in enumerate(captions.values())]
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    return tmp_path


def evaluated(folder: Path, **options: Any) -> Evaluation:
    for name in ("captions", "references", "finecapeval", "training_captions"):
        if name in options:
            options[name] = str(folder / options[name])
    options["compare"] = [str(folder / name) for name in options.get("compare", [])]
    return evaluate(flat(EvaluateConfig, **(FAST | options)), ["evaluate.py"])


def test_figures_of_one_file(files: Path) -> None:
    evaluation = evaluated(
        files,
        captions="good.json",
        references="references.json",
        finecapeval="fine.csv",
        training_captions="references.json",
        split="test",
    )
    results = json.loads(json.dumps(evaluation.to_json()))
    assert results["metrics"] == pytest.approx(text_metrics(GOOD, REFERENCES))
    assert results["diversity"]["novel"] == 0
    assert results["finecapeval"]["recall"] == pytest.approx(
        {"background": 0, "object": 100, "relation": 100 / 3}
    )
    assert results["finecapeval"]["published_script_recall"]["object"] == 100
    assert results["finecapeval"]["metrics"]["CIDEr"] >= 0
    assert results["images"] == 10
    assert results["notes"] == []
    recipe = results["recipe"]
    assert (recipe["split"], recipe["command"]) == ("test", ["evaluate.py"])
    assert len(recipe["references_sha256"]) == len(results["captions_sha256"]) == 64
    assert recipe["versions"].keys() == {"glied", "python", "pycocoevalcap", "numpy", "nltk"}
    first, second = evaluation_report.lines(evaluation)
    assert first.startswith("10 captions: CIDEr ")
    assert second.startswith("10 captions: FineCapEval background 0.0, object 100.0, relation 33.3")


def test_a_run_folder_gives_the_same_figures_and_its_recipe(files: Path) -> None:
    rows = [runs.row(f"in/{name}", caption=text) for name, text in GOOD.items()]
    runs.make_run(files / "run", rows, 4)
    record = json.loads((files / "run" / "run.json").read_text())
    record |= {"fingerprint": {"decoding": {"beam_size": 3}}, "input": {"uri": "in"}}
    (files / "run" / "run.json").write_text(json.dumps(record))
    from_run = evaluated(files, captions="run", references="references.json").to_json()
    from_file = evaluated(files, captions="good.json", references="references.json").to_json()
    assert from_run["metrics"] == from_file["metrics"]
    assert from_run["captions_sha256"] == from_file["captions_sha256"]
    assert from_run["run"]["fingerprint"]["decoding"] == {"beam_size": 3}
    assert from_file["run"] is None


def test_rejected_images_of_a_run_count_as_empty_and_are_noted(files: Path) -> None:
    rows = [runs.row(name, "rejected" if name == "3.jpg" else "ok") for name in REFERENCES]
    runs.make_run(files / "run", rows, 4)
    evaluation = evaluated(files, captions="run", references="references.json")
    assert evaluation.to_json()["images"] == 10
    assert evaluation.notes() == [f"{files}/run: 1 of 10 captions are empty and score 0"]
    assert evaluation_report.lines(evaluation)[-1] == evaluation.notes()[0]


def test_two_files_are_compared(files: Path) -> None:
    options = {"references": "references.json", "finecapeval": "fine.csv"}
    evaluation = evaluated(files, compare=["bad.json", "good.json"], **options)
    results = evaluation.to_json()
    for name in ("CIDEr", "ROUGE-L", "BLEU-1", "BLEU-4"):
        difference = results["differences"][name]
        assert difference["first"] == pytest.approx(results["first"]["metrics"][name], abs=1e-6)
        assert difference["second"] == pytest.approx(results["second"]["metrics"][name], abs=1e-6)
        assert difference["low"] > 0
        assert difference["p"] == pytest.approx(2 / 501)
    assert results["differences"]["FineCapEval object"]["difference"] == pytest.approx(100)
    assert results["differences"]["FineCapEval background"]["difference"] == 0
    assert results["recipe"]["bootstrap"]["resamples"] == 500
    table = evaluation_report.markdown(evaluation)
    assert "|  | A | B |" in table
    assert "| CIDEr | +" in table
    same = evaluated(files, captions="good.json", compare=["good.json"], **options)
    assert {(d.difference, d.low, d.high, d.p) for d in same.differences.values()} == {(0, 0, 0, 1)}


def test_finecapeval_alone_names_images_like_its_script(files: Path) -> None:
    items = [{"image_id": name.removesuffix(".jpg"), "caption": text} for name, text in GOOD.items()]
    (files / "stems.json").write_text(json.dumps(items))
    results = evaluated(files, captions="stems.json", finecapeval="fine.csv").to_json()
    assert "metrics" not in results
    assert results["finecapeval"]["recall"]["object"] == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[1:], "1 of the 10 images of .* have no caption: 0.jpg"),
        (lambda items: [*items, {"image_id": 99, "caption": "x"}], "lacks 1 captioned images: 99"),
        (lambda items: [*items, items[0]], "1 images are named twice: 0, 0"),
        (lambda items: [*items, {"image_id": "3.jpg", "caption": "x"}], "named twice: 3, 3.jpg"),
    ],
)
def test_missing_unknown_and_duplicate_images_are_refused(files: Path, change: Any, message: str) -> None:
    items = json.loads((files / "good.json").read_text())
    (files / "changed.json").write_text(json.dumps(change(items)))
    with pytest.raises(UsageError, match=message):
        evaluated(files, captions="changed.json", references="references.json")


def test_partial_files_are_scored_on_request_but_not_compared_with_others(files: Path) -> None:
    items = json.loads((files / "good.json").read_text())
    (files / "part.json").write_text(json.dumps(items[:4]))
    results = evaluated(files, captions="part.json", references="references.json", partial=True).to_json()
    assert (results["images"], results["recipe"]["partial"]) == (4, True)
    with pytest.raises(UsageError, match="do not caption the same images"):
        evaluated(files, compare=["part.json", "bad.json"], references="references.json", partial=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": "r"}, "name one captions file"),
        ({"captions": "a", "compare": ["b", "c"], "references": "r"}, "got 3"),
        ({"captions": "a"}, "references is missing"),
        ({"captions": "a", "references": "r", "metrics": []}, "metrics"),
        ({"captions": "a", "references": "r", "resamples": 5}, "resamples: 5"),
        ({"captions": "a", "references": "r", "java_timeout_s": 0}, "java_timeout_s: 0"),
    ],
)
def test_config_refuses_contradictory_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flat(EvaluateConfig, **options)


def job(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs/evaluate.py"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_job_writes_results_and_a_table(files: Path) -> None:
    done = job(
        files, "--compare", "bad.json", "good.json", "--references", "references.json",
        "--metrics", "CIDEr", "ROUGE-L", "--out", "out/results.json", "--partial",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("bad.json: 10 captions: CIDEr 0.")
    results = json.loads((files / "out/results.json").read_text())
    assert results["differences"]["CIDEr"]["p"] < 0.001
    assert results["recipe"]["partial"] is True
    assert "--compare" in results["recipe"]["command"]
    assert "| ROUGE-L |" in (files / "out/results.md").read_text()


def test_the_job_reports_errors_in_one_line(files: Path) -> None:
    done = job(files, "--captions", "good.json", "--references", "references.json", "--metrics", "CIDR")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "CIDR" in done.stderr
    assert done.stderr.count("\n") == 1
