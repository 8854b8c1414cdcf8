"""Import the modules of the stages in the server that their processes are forked from, without starting CUDA.

A missing module is ignored here; the stage that needs it reports it.
"""

import contextlib
import importlib

from glied.vision.fast_imports import import_torchvision

STAGES = [
    "correctness",
    "captions",
    "decoding",
    "training",
    "regions",
    "jpeg",
    "graphs",
    "memory",
    "nccl",
    "finetune",
]

import_torchvision()
for _name in STAGES:
    with contextlib.suppress(Exception):
        importlib.import_module(f"benchmarks.gpu_stages.{_name}")
