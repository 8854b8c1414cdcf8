"""METEOR and SPICE in their child process; fake `java` scripts simulate the ways in which Java fails."""

import os
import shutil
import time
from pathlib import Path

import pytest

from glied.metrics import java_metrics, java_process
from glied.metrics.java_metrics import MetricUnavailableError, java_metric
from glied.metrics.text_metrics import score, tokenized

HYPOTHESES = {"a": ["a man rides a horse"], "b": ["two dogs"], "c": ["x"]}
REFERENCES = {"a": ["a man on a horse"], "b": ["two dogs", "a dog"], "c": ["x y"]}
NO_JAVA = shutil.which("java") is None


@pytest.fixture
def fake_java(tmp_path: Path, monkeypatch):
    """Put a shell script named java on an otherwise empty PATH."""

    def write(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return tmp_path

    return write


def meteor(timeout_s: float = 60) -> float:
    return java_metric("METEOR", HYPOTHESES, REFERENCES, timeout_s=timeout_s)


@pytest.mark.skipif(NO_JAVA, reason="METEOR is a Java program")
def test_meteor_equals_pycocoevalcaps_under_a_comma_locale_and_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    monkeypatch.chdir(tmp_path)
    # The value of pycocoevalcap 1.2's Meteor().compute_score.
    assert meteor(120) == pytest.approx(0.392727431374165, abs=1e-9)


def test_a_missing_java_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"^METEOR left out: java is not on the PATH$"):
        meteor()


def test_a_java_that_is_killed_is_one_line(fake_java) -> None:
    fake_java("echo 'Picked up JAVA_TOOL_OPTIONS: x' >&2; read line; kill -9 $$")
    with pytest.raises(
        MetricUnavailableError, match=r"^METEOR left out: Java ended with code -9: no message$"
    ):
        meteor()


def test_a_java_that_cannot_start_is_reported_with_the_reason(fake_java) -> None:
    fake_java("echo 'Picked up JAVA_TOOL_OPTIONS' >&2; echo 'Error: a JNI error occurred' >&2; exit 1")
    with pytest.raises(MetricUnavailableError, match=r"ended with code 1: Error: a JNI error occurred$"):
        meteor()


def test_a_hanging_java_is_killed_with_its_children(fake_java) -> None:
    folder = fake_java(f"echo $$ > {'{folder}'}/pid; exec /bin/sleep 600".format(folder="$FOLDER"))
    os.environ["FOLDER"] = str(folder)
    start = time.monotonic()
    try:
        with pytest.raises(MetricUnavailableError, match=r"^METEOR left out: not done after 5 s$"):
            meteor(5)
    finally:
        del os.environ["FOLDER"]
    assert time.monotonic() - start < 30
    assert gone(int((folder / "pid").read_text()))


def gone(pid: int) -> bool:
    """Return whether a process has ended, even if it is not reaped."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_a_child_that_dies_is_one_line(tmp_path, monkeypatch, fake_java) -> None:
    fake_java("")
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nread line\necho 'out of memory' >&2\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(java_metrics.sys, "executable", str(dying))
    with pytest.raises(MetricUnavailableError, match=r"its process ended with code -9: out of memory$"):
        meteor()


def test_java_gets_the_locale_after_the_options_of_the_user(fake_java, monkeypatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xss1m")
    fake_java('echo "Error: $JAVA_TOOL_OPTIONS" >&2; exit 1')
    with pytest.raises(MetricUnavailableError, match=r"Error: -Xss1m -Duser.language=en -Duser.country=US$"):
        meteor()


def spice_folder(folder: Path) -> Path:
    (folder / "lib").mkdir()
    for name in java_process.MODELS:
        (folder / "lib" / name).touch()
    return folder


def test_spice_reads_what_its_jar_prints(fake_java) -> None:
    report = (
        r"\nAll tuples\n  f-score:\t0.210 (SPICE metric)\n\nColor tuples\n  f-score:\tNaN (SPICE metric)\n"
    )
    folder = fake_java(f"printf '********  SPICE Evaluation  ********\n{report}'")
    assert java_process.spice(REFERENCES, HYPOTHESES, spice_folder(folder)) == 0.21


def test_spice_that_fails_names_the_exception(fake_java) -> None:
    folder = fake_java(
        "echo 'Parsing' >&2; echo 'java.lang.NoClassDefFoundError: x' >&2; echo ' at y' >&2; exit 1"
    )
    with pytest.raises(java_process.JavaError, match=r"code 1: java.lang.NoClassDefFoundError: x$"):
        java_process.spice(REFERENCES, HYPOTHESES, spice_folder(folder))


@pytest.mark.skipif(
    all((java_process.SPICE / "lib" / name).is_file() for name in java_process.MODELS),
    reason="with SPICE's parser models installed there is nothing missing to tell of",
)
def test_missing_spice_models_and_a_dead_java_are_one_line_each_beside_the_other_metrics(fake_java) -> None:
    fake_java("exit 3")
    tokens = tokenized({"a": "a dog"}, {"a": ["a dog", "the dog"]})
    scores = score(tokens, ["SPICE", "METEOR", "ROUGE-L"], java_timeout_s=60)
    assert list(scores.values) == ["ROUGE-L"]
    assert scores.values["ROUGE-L"] == pytest.approx(100)
    assert [note.split(":")[0] for note in scores.notes] == ["SPICE left out", "METEOR left out"]
    assert "parser models are missing" in scores.notes[0]
    assert "Java ended with code 3" in scores.notes[1]
