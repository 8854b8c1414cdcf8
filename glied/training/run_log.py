"""Logs a run: metrics.jsonl, TensorBoard, and one line per interval."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from glied import storage
from glied.training import history
from glied.training.history import METRICS, Sample

TENSORBOARD = "tensorboard"

logger = logging.getLogger(__name__)


class RunLog:
    """Writes the scalars of one run; on remote storage, to a local folder that `sync` uploads.

    Lines of metrics.jsonl after `start_step` belong to steps that are about to be repeated. They are dropped,
    so that the file of a resumed run equals that of an uninterrupted one.
    """

    def __init__(self, output: str, start_step: int) -> None:
        """Opens the logs of the run at `output`, which continues after `start_step`."""
        self._output = output
        self._remote = not storage.is_local(output)
        root = Path(tempfile.mkdtemp(prefix="glied-log-")) if self._remote else storage.local_path(output)
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        kept = [line for line in history.read_lines(output) if line["step"] <= start_step]
        self._metrics = root / METRICS
        self._metrics.write_text("".join(json.dumps(line) + "\n" for line in kept))
        purge = start_step + 1 if start_step else None
        self._latest = {line["kind"]: line for line in kept}
        self._writer = SummaryWriter(str(root / TENSORBOARD), purge_step=purge, flush_secs=30)

    def write(self, kind: str, step: int, scalars: Mapping[str, float]) -> None:
        """Appends the scalars of `step` under `kind` ("train" or "validation") to both logs."""
        self._latest[kind] = {"step": step, **scalars}
        self._append({"kind": kind, **self._latest[kind]})
        for name, value in scalars.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def write_samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Appends captions of a validation to both logs."""
        self._append(history.samples_line(step, samples))
        text = "\n".join(f"- {one.caption} *({one.reference})*" for one in samples)
        self._writer.add_text("validation/captions", text, step)

    def _append(self, line: dict[str, Any]) -> None:
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def latest(self, kind: str) -> dict[str, float] | None:
        """Returns the newest line of `kind`, also one written by an earlier attempt."""
        line = self._latest.get(kind)
        return {name: value for name, value in line.items() if name != "kind"} if line else None

    def sync(self) -> None:
        """Makes everything written so far readable at the run's output."""
        self._writer.flush()
        if not self._remote:
            return
        for path in filter(Path.is_file, self._root.rglob("*")):
            storage.write_bytes(
                storage.join(self._output, path.relative_to(self._root).as_posix()), path.read_bytes()
            )

    def close(self) -> None:
        """Flushes, syncs and closes."""
        self.sync()
        self._writer.close()


def interval_line(step: int, total: int, epoch: float, scalars: Mapping[str, float], eta_s: float) -> str:
    """Returns one line for a person: "step 40/400 epoch 1.2 loss 0.41 31.0 images/s ... eta 0:05:10"."""
    skip = ("images_per_s", "learning_rate", "epoch", "data_share", "cpu_s")
    parts = [f"{name} {value:.4g}" for name, value in scalars.items() if name not in skip]
    minutes, seconds = divmod(round(eta_s), 60)
    return (
        f"step {step}/{total} epoch {epoch:.2f} {' '.join(parts)} {scalars['images_per_s']:.1f} images/s"
        f" lr {scalars['learning_rate']:.2e} data {scalars['data_share']:.0%}"
        f" eta {minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    )
