"""What every stage is told."""

import os
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Row = dict[str, Any]
"""Figures that were measured together; plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and how much to measure; small and picklable."""

    device: str
    """cpu or cuda."""
    dry: bool
    """Everything tiny: proves that a stage runs, its figures mean nothing."""
    full: bool = False
    """All cells of the grids."""
    carried: str = ""
    """Folder of the photographs and weights that the last stage trains on; empty for none."""
    results: str = ""
    """Folder where a stage may leave what it has made, below its own name."""
    ceilings: dict[str, float] = field(default_factory=dict)
    """What the stage `machine` measured: TFLOP/s by precision and GB/s."""

    @property
    def torch_device(self) -> torch.device:
        """The device; the first CUDA device where it is cuda."""
        return torch.device(self.device)

    @property
    def cuda(self) -> bool:
        """Whether a GPU is measured."""
        return self.device == "cuda"

    @property
    def threads(self) -> int:
        """Threads of torch on the CPU; a dry run shares its machine with others."""
        return self.pick(1, min(16, len(os.sched_getaffinity(0))))

    def pick(self, dry: T, normal: T) -> T:
        """What to take in a dry run, and what otherwise."""
        return dry if self.dry else normal


def check(
    name: str, value: float, *, least: float | None = None, most: float | None = None, **more: Any
) -> Row:
    """A row that says whether a figure is within its bounds, which are part of the row."""
    ok = (least is None or value >= least) and (most is None or value <= most)  # NaN never is
    bounds = {key: bound for key, bound in (("least", least), ("most", most)) if bound is not None}
    return {"check": name, "value": round(value, 8), **bounds, "ok": bool(ok), **more}
