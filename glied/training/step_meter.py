"""Means of scalars and speed between two log lines, without validation and checkpoints."""

import time
from collections.abc import Mapping

from torch import Tensor

from glied.training import steps


class Meter:
    """Means of logged scalars, and the speed of the steps since the last log line."""

    def __init__(self, step: int) -> None:
        """Begins after `step` steps."""
        self.step_s = 0.0
        self._averages, self._rate = steps.Averages(), 0.0
        self._begin(step)
        self.restart()

    def loaded(self) -> None:
        """Counts the time since the last step as waiting for data."""
        self._waiting_s += self._lap()

    def add(self, scalars: Mapping[str, float | Tensor], weight: float | Tensor) -> None:
        """Adds the scalars of a micro-batch."""
        self._averages.add(scalars, weight)

    def stepped(self, learning_rate: float) -> None:
        """Marks the end of a step."""
        self._rate = learning_rate
        self._lap()

    def restart(self) -> None:
        """Discards the time since the last step."""
        self._mark, self._cpu_mark = time.monotonic(), time.process_time()

    def take(self, step: int, batch_size: int) -> tuple[dict[str, float], float]:
        """Returns the means and the speed, and the weight of the steps; then starts again."""
        count = max(1, step - self._from_step)
        self.step_s = self._busy_s / count
        weight = self._averages.weight("loss")
        scalars = {
            **self._averages.take(),
            "learning_rate": self._rate,
            "images_per_s": batch_size / max(self.step_s, 1e-9),
            "data_share": self._waiting_s / max(self._busy_s, 1e-9),
            "cpu_s": self._cpu_s / count,
        }
        self._begin(step)
        return scalars, weight

    def _begin(self, step: int) -> None:
        self._from_step, self._busy_s, self._waiting_s, self._cpu_s = step, 0.0, 0.0, 0.0

    def _lap(self) -> float:
        """Counts the time since the last mark, which is returned; CPU time is that of all threads here."""
        mark, cpu_mark = self._mark, self._cpu_mark
        self.restart()
        self._busy_s += self._mark - mark
        self._cpu_s += self._cpu_mark - cpu_mark
        return self._mark - mark
