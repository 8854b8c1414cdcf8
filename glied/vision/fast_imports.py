"""Imports torchvision and timm without torch.compile, whose import takes longer than theirs."""

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


def import_timm() -> None:
    """Import timm in a fifth of the time; call it before timm is imported, and where nothing is compiled.

    timm (1.0) marks functions of a few models as not to be compiled, and the mark imports the compiler.
    Meanwhile the mark does nothing. Where a model is to be compiled, import timm without this function.
    """
    if "timm" in sys.modules or "torch._dynamo" in sys.modules:
        return
    compiler = importlib.import_module("torch.compiler")
    disable = compiler.disable
    compiler.disable = _unmarked  # type: ignore[attr-defined]
    try:
        importlib.import_module("timm")
    finally:
        compiler.disable = disable  # type: ignore[attr-defined]


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """Like `torch.compiler.disable`, a decorator with or without arguments; changes nothing."""
    return (lambda decorated: decorated) if function is None else function


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
