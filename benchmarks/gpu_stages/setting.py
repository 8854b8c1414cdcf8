"""The setting of the stages, and their rows."""

import os
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Row = dict[str, Any]
"""Figures that are measured together, as JSON values."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Device and amount of the measurements; small and picklable."""

    device: str
    """cpu or cuda."""
    dry: bool
    """Use tiny sizes, to check that a stage runs; the figures mean nothing."""
    full: bool = False
    """Measure all cases."""
    carried: str = ""
    """Folder of the photographs that the stage `finetune` trains on; empty for none."""
    results: str = ""
    """Folder in which a stage may write files, in a folder with its name."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """Rates that the stage `machine` measured: TFLOP/s by data type, and GB/s."""

    @property
    def torch_device(self) -> torch.device:
        """The device as a torch device."""
        return torch.device(self.device)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    @property
    def threads(self) -> int:
        """Number of torch threads on the CPU; 1 in a dry run, whose machine may be shared."""
        return self.pick(1, min(16, len(os.sched_getaffinity(0))))

    def pick(self, dry: T, normal: T) -> T:
        """Return the first value in a dry run, otherwise the second."""
        return dry if self.dry else normal


def check(
    name: str, value: float, *, least: float | None = None, most: float | None = None, **more: Any
) -> Row:
    """Return a row that says whether a value is within its bounds, which are part of the row."""
    ok = (least is None or value >= least) and (most is None or value <= most)  # False for NaN
    bounds = {key: bound for key, bound in (("least", least), ("most", most)) if bound is not None}
    return {"check": name, "value": round(value, 8), **bounds, "ok": bool(ok), **more}
