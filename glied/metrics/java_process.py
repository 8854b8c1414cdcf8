"""The child process of `glied.metrics.java_metrics`: METEOR or SPICE through the jars of pycocoevalcap.

python -m glied.metrics.java_process < request.json > answer.json

Request: {"metric", "hypotheses": {id: [text]}, "references": {id: [text, ...]}}; answer: {"score"} or
{"error"}. If Java hangs, this process does not end; its parent kills the process group.
"""

import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pycocoevalcap.spice
from pycocoevalcap.meteor.meteor import Meteor

Texts = Mapping[str, list[str]]
SPICE = Path(pycocoevalcap.spice.__file__).parent
MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
DOWNLOAD = "from pycocoevalcap.spice.get_stanford_models import get_stanford_models as g; g()"
_F_SCORE = re.compile(r"All tuples\s+f-score:\s*(\S+)")


class JavaError(Exception):
    """A metric cannot be computed; the message says why."""


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    compute = {"METEOR": meteor, "SPICE": spice}[request["metric"]]
    answer: dict[str, float | str]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            score = compute(request["references"], request["hypotheses"])
        if not math.isfinite(score):
            raise JavaError(f"its value is {score}")
        answer = {"score": score}
    except Exception as error:
        answer = {"error": " ".join(str(error).split()) or type(error).__name__}
    print(json.dumps(answer))


def meteor(references: Texts, hypotheses: Texts) -> float:
    """Compute METEOR 1.5 as pycocoevalcap does.

    Raises:
        JavaError: Java ended prematurely.
    """
    scorer = Meteor()
    try:
        return float(scorer.compute_score(references, hypotheses)[0])
    except (OSError, ValueError) as error:
        # A write to a dead process, or an empty line in place of a number.
        scorer.meteor_p.kill()
        _, stderr = scorer.meteor_p.communicate()
        raise JavaError(_ended(scorer.meteor_p.returncode, stderr.decode(errors="replace"))) from error
    finally:
        if scorer.lock.locked():  # a failed call holds the lock, and the destructor would wait for it forever
            scorer.lock.release()


def spice(references: Texts, hypotheses: Texts, folder: Path = SPICE) -> float:
    """Compute SPICE with its jar, to the three decimals that it prints.

    pycocoevalcap's own call fails on newer Java: its parse cache needs reflection that Java 16 forbids, and
    its JSON output a JavaScript engine that Java 15 removed. Without both the score is the same, and nothing
    is written to the installed package.

    Raises:
        JavaError: the parser models are missing, or Java failed.
    """
    missing = [name for name in MODELS if not (folder / "lib" / name).is_file()]
    if missing:
        raise JavaError(
            f'its parser models are missing; with internet, python -c "{DOWNLOAD}" downloads them'
        )
    items = [{"image_id": name, "test": hypotheses[name][0], "refs": references[name]} for name in hypotheses]
    with tempfile.TemporaryDirectory(prefix="glied-spice-") as temporary:
        path = Path(temporary) / "captions.json"
        path.write_text(json.dumps(items))
        command = ["java", "-Xmx8G", "-jar", "spice-1.0.jar", str(path)]
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    found = _F_SCORE.search(done.stdout)
    if done.returncode or not found:
        raise JavaError(_ended(done.returncode, done.stderr))
    return float(found[1])


def _ended(code: int, stderr: str) -> str:
    """Describe a failed Java process in one line: its exit code, and the first exception or the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Picked up JAVA_TOOL_OPTIONS")]
    exception = next((line for line in lines if "Exception" in line or "Error" in line), "")
    reason = exception or (lines[-1] if lines else "no message")
    return f"Java ended with code {code}: {reason[:200]}"


if __name__ == "__main__":
    main()
