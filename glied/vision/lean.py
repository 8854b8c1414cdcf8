"""Imports torchvision without torch.compile, which nothing here uses."""

import importlib
import sys
from types import ModuleType
from typing import Any

HEAVY = "torch._dynamo.utils"


def import_torchvision() -> None:
    """Import torchvision in half of the time and 130 MB less; call it before torchvision is imported.

    torchvision.ops.roi_align (0.29) imports the compiler for one function, which it calls in deterministic
    mode only. Meanwhile a stand-in is there, which imports the compiler when it is called.
    """
    if HEAVY in sys.modules or "torchvision" in sys.modules:
        return
    sys.modules[HEAVY] = standin = _Deferred(HEAVY)
    try:
        importlib.import_module("torchvision")
    finally:
        if sys.modules.get(HEAVY) is standin:
            del sys.modules[HEAVY]


class _Deferred(ModuleType):
    """A module that gives way to the real one as soon as another attribute than that one is asked for."""

    def is_compile_supported(self, device_type: str) -> bool:
        return bool(_real().is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _real() -> ModuleType:
    if isinstance(sys.modules.get(HEAVY), _Deferred):
        del sys.modules[HEAVY]
    return importlib.import_module(HEAVY)
