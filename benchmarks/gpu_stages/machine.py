"""Report the processor, the GPU, versions, and the measured ceilings that other stages compare with."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from benchmarks.gpu_stages.measuring import ceilings
from benchmarks.gpu_stages.setting import Row, Setting
from benchmarks.measurement import torch_machine

PACKAGES = ("torchvision", "timm", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow")


def rows(setting: Setting) -> Iterator[Row]:
    """Yield a row of names and versions, then one of rates."""
    names: Row = {
        "machine": torch_machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    if setting.cuda:
        about = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        names |= {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory_gb": round(total / 1e9, 1),
            "free_gb": round(free / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    yield names
    yield ceilings(setting)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
