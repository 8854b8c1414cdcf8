"""Computes the matrix products of training on a CPU with oneDNN instead of MKL, which torch uses.

MKL does not use the widest vector instructions of processors that are not Intel's. Measured on an AMD EPYC in
CPU time (2026-11-27, torch 2.15, one thread): a training step of GLIED takes 0.74 of the time at the demo
world's size, and 0.69 at the paper's.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from glied.captioner.inference import can_pack

SMALLEST = 1_000_000
"""Number of multiplications from which oneDNN pays; below, its overhead exceeds the gain."""


@contextlib.contextmanager
def onednn_products(device: torch.device) -> Iterator[None]:
    """Lets oneDNN compute float32 products on a CPU within the block, in all threads of this process.

    Nothing changes on a GPU, or if this build of torch lacks oneDNN.
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
