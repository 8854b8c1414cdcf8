"""Reads the records of a training run: its config, and what it logged step by step.

Plain Python without torch, so that a report over many runs starts at once.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glied import storage
from glied.errors import UsageError

RUN = "run.json"
RESULT = "result.json"
METRICS = "metrics.jsonl"
TRAIN, VALIDATION, SAMPLES = "train", "validation", "samples"
"""Kinds of lines in metrics.jsonl: scalars of a log interval, of a validation, and captions of one."""

SHOWN_SAMPLES = 8
"""Captions of a validation that the run's log keeps."""
_PROGRESS = 0.01
"""Share of the first loss by which the loss must fall for a run to count as learning."""

Line = dict[str, Any]
Points = list[tuple[int, float]]
"""Values and the steps that they belong to."""


@dataclass(frozen=True)
class Sample:
    """A decoded caption of a validation, and a reference of its image (or the image's name)."""

    caption: str
    reference: str


@dataclass(frozen=True)
class Best:
    """The best validation: its first metric selects it, higher is better."""

    metric: str
    value: float
    step: int


@dataclass(frozen=True)
class History:
    """A run, complete or not.

    Attributes:
        uri: its folder.
        config: content of run.json.
        lines: of metrics.jsonl, in the order of the steps.
        complete: whether result.json exists.
    """

    uri: str
    config: dict[str, Any]
    lines: list[Line]
    complete: bool

    @property
    def kind(self) -> str:
        """The kind of model it trains, for example "captioner"."""
        return self.config["kind"]

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self.config["trainer"]["batch_size"]

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return self.config["rows"]["train"] // self.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        trainer = self.config["trainer"]
        steps = self.epoch_steps * trainer["epochs"]
        return min(steps, trainer.get("max_steps") or steps)

    @property
    def steps(self) -> int:
        """Steps that it has logged."""
        return max(line["step"] for line in self.lines)

    def scalars(self, kind: str) -> dict[str, Points]:
        """The scalars logged as `kind`, by name, in the order of the log."""
        found: dict[str, Points] = {}
        for line in self.lines:
            if line["kind"] == kind:
                for name, value in line.items():
                    if name not in ("kind", "step"):
                        found.setdefault(name, []).append((line["step"], float(value)))
        return found

    def samples(self) -> dict[int, list[Sample]]:
        """Captions of the same images by step."""
        lines = (line for line in self.lines if line["kind"] == SAMPLES)
        return {line["step"]: [Sample(**one) for one in line["samples"]] for line in lines}

    def best(self) -> Best | None:
        """The best validation so far; None before the first."""
        for metric, points in self.scalars(VALIDATION).items():
            step, value = max(points, key=lambda point: point[1])
            return Best(metric, value, step)
        return None

    def seconds(self) -> float:
        """Seconds spent on training steps, without validation and checkpoints."""
        spent, last = 0.0, 0
        for step, images_per_s in self.scalars(TRAIN).get("images_per_s", []):
            spent += (step - last) * self.batch_size / images_per_s
            last = step
        return spent

    def cpu_minutes(self, until: int) -> float:
        """CPU time of training steps up to one, without validation and checkpoints."""
        spent, last = 0.0, 0
        for step, seconds in self.scalars(TRAIN)["cpu_s"]:
            if step <= until:
                spent, last = spent + (step - last) * seconds, step
        return spent / 60


def read_history(uri: str) -> History:
    """The run at `uri`, a folder on any storage.

    Raises:
        UsageError: there is no run, or it has logged nothing yet.
    """
    config = storage.join(uri, RUN)
    try:
        identity = json.loads(storage.read_bytes(config))
    except FileNotFoundError:
        raise UsageError(f"{uri} holds no training run: {config} is missing") from None
    except ValueError as error:
        raise UsageError(f"{config} is not JSON: {error}") from None
    if not isinstance(identity, dict) or not {"kind", "rows", "trainer"} <= set(identity):
        raise UsageError(f"{config} is not that of a training run")
    lines = read_lines(uri)
    if not any(line["kind"] in (TRAIN, VALIDATION) for line in lines):
        raise UsageError(f"{uri} has no scalars yet: its {METRICS} is missing or empty")
    return History(uri, identity, lines, storage.exists(storage.join(uri, RESULT)))


def read_lines(uri: str) -> list[Line]:
    """The lines of metrics.jsonl; none where there is no such file.

    An incomplete last line is ignored: the run was killed, or is writing it.

    Raises:
        UsageError: another line is broken.
    """
    path = storage.join(uri, METRICS)
    try:
        texts = storage.read_bytes(path).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts):
                raise UsageError(f"{path}: line {number} is not JSON: {text[:80]}") from None
    return lines


def progress_note(kind: str, lines: Sequence[Line]) -> str | None:
    """A warning for a run whose loss (with a reward: the reward) ends where it began; None otherwise."""
    name, rises = ("reward", True) if kind == "scst" else ("loss", False)
    points = [(line["step"], float(line[name])) for line in lines if line["kind"] == TRAIN and name in line]
    if len(points) < 2:
        return None
    (first_step, first), (last_step, last) = points[0], points[-1]
    if (last - first if rises else first - last) > _PROGRESS * abs(first):
        return None
    return (
        f"the {name} did not {'rise' if rises else 'fall'}: {first:.4g} at step {first_step}, {last:.4g} at "
        f"step {last_step}. Look at the learning rate, the warm-up and the data"
    )


def samples_line(step: int, samples: Sequence[Sample]) -> Line:
    """The line of metrics.jsonl for captions of a validation."""
    return {"kind": SAMPLES, "step": step, "samples": [dataclasses.asdict(one) for one in samples]}
