"""What is measured on: processor, GPU, versions, and the ceilings that other stages compare with."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator

import torch

from benchmarks.decoding import machine
from benchmarks.gpu_stages.measuring import ceilings
from benchmarks.gpu_stages.setting import Row, Setting

PACKAGES = ("torchvision", "timm", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow")


def rows(setting: Setting) -> Iterator[Row]:
    """Names and versions, then rates."""
    found: Row = {
        "machine": machine("cpu"),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    if setting.cuda:
        about = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        found |= {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory_gb": round(total / 1e9, 1),
            "free_gb": round(free / 1e9, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    yield found
    yield ceilings(setting)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
