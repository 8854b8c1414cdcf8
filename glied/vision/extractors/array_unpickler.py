"""Conversion of published weights to safetensors in a subprocess that unpickles nothing but arrays.

    python -m glied.vision.extractors.array_unpickler FILE OUT

A pickle is a program that can call anything it names. This process therefore allows only a short list of
names, writes one file and ends, and the caller reads only the safetensors. If a file is rejected, the exit
code is 2 and the last line of stderr gives the reason.
"""

import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from glied.errors import UsageError

_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_ALLOWED_IN_NUMPY = ("_reconstruct", "scalar")  # their module was renamed
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers, numbers, strings and numpy arrays, and rejects everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the object that a pickle names, if it is allowed."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in _NUMPY_MODULES and name in _ALLOWED_IN_NUMPY:
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]  # numpy's own pickles use it
        if (module, name) == ("_codecs", "encode"):  # the bytes of an array, as Python 3 writes protocol 2
            return _encode
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, but only arrays are allowed")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """Read the arrays by name from a .pkl of detectron2 (numpy arrays) or a .pth of PyTorch.

    Raises:
        UsageError: the file has other content, or objects other than arrays that unpickling would have to
            run.
    """
    try:
        stored = _read_torch(path) if _is_torch(path) else _read_pickle(path)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path} does not hold weights: {reason}") from error
    model = stored.get("model", stored) if isinstance(stored, Mapping) else {}
    arrays = {name: np.asarray(value) for name, value in model.items() if hasattr(value, "shape")}
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    if not arrays:
        raise UsageError(f"{path} does not hold weights: it has no named arrays")
    return arrays


def _is_torch(path: str) -> bool:
    return zipfile.is_zipfile(path) or not path.endswith(".pkl")


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        return ArrayUnpickler(io.BytesIO(file.read()), encoding="latin1").load()


def _read_torch(path: str) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def to_safetensors(path: str, out: str) -> None:
    """Write the arrays of `path` to the safetensors file `out` in a subprocess.

    Raises:
        UsageError: see `read_tensors`.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
    command = [sys.executable, "-m", "glied.vision.extractors.array_unpickler", path, out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UsageError(lines[-1])


def _main() -> int:
    import safetensors.numpy

    source, out = sys.argv[1:]
    try:
        arrays = {name: np.ascontiguousarray(array) for name, array in read_tensors(source).items()}
        safetensors.numpy.save_file(arrays, out)
    except (UsageError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
