"""GLIED on Ray: bulk image captioning from object storage, and the training of its captioner.

`from glied import Captioner` is the Python API (`glied.api`); it is loaded when it is asked for.
"""

import importlib

__version__ = "0.2.0"

_API = ("Caption", "Captioner")


def __getattr__(name: str) -> object:
    """Names of the Python API, whose import takes seconds."""
    if name in _API:
        # By name: everything imports this package, and nothing below the API may depend on it.
        return getattr(importlib.import_module("glied.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
