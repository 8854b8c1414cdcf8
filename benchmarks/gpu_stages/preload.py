"""Imports what the stages need, for the server that their processes are forked from; starts no CUDA.

A stage that lacks a module fails by itself, so nothing raises here.
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
