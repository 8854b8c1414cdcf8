"""Matrix products of training on a CPU: by oneDNN, where torch would take MKL's.

MKL leaves the widest instructions of processors that Intel has not made unused: on an AMD EPYC oneDNN
multiplies matrices of float32 in less than half the time, and a step of GLIED takes 0.76 of its time.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from glied.captioner.inference import can_pack

SMALLEST = 1_000_000
"""Multiplications of a product from which on oneDNN's start costs less than it gains."""


@contextlib.contextmanager
def onednn_products(device: torch.device) -> Iterator[None]:
    """Within, products of float32 on a CPU are oneDNN's, in all threads of this process.

    Nothing changes for a GPU, or where this build of torch lacks oneDNN.
    """
    if device.type != "cpu" or not can_pack(torch.empty(0)):
        yield
        return
    library_of: Any = torch.library._scoped_library  # takes its kernels back at the end
    with library_of("aten", "IMPL") as library:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that kernels are replaced
            library.impl("mm", _mm, "CPU")
            library.impl("addmm", _addmm, "CPU")
        yield


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """[M, K], [K, N] -> [M, N]."""
    if _pays(a, b):
        return _product(a, b, None)
    return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def _addmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta * c + alpha * a b: [N] (or what broadcasts), [M, K], [K, N] -> [M, N]."""
    if c.ndim == 1 and len(c) == b.shape[1] and beta == alpha == 1 and _pays(a, b):
        return _product(a, b, c)
    return torch.addmm(c, a, b, beta=beta, alpha=alpha, out=a.new_empty(a.shape[0], b.shape[1]))


def _pays(a: Tensor, b: Tensor) -> bool:
    return a.dtype is torch.float32 is b.dtype and a.shape[0] * a.shape[1] * b.shape[1] >= SMALLEST


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
