"""What a CUDA graph does, on a CPU.

It keeps the operations with the addresses that they read and write, computes nothing that lasts while it
records, and repeats them without any Python between them.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Operations as they were called, and what they wrote."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a recording knows no values"
        found = operation(*args, **(kwargs or {}))
        given = {address(one) for one in tensors((args, kwargs))}
        fresh = [one for one in tensors(found) if address(one) not in given]
        if fresh or operation._schema.is_mutable:  # the others are views
            self.calls.append((operation, args, kwargs or {}, found, fresh))
        return found

    def forget(self):
        """What was computed is gone, as if it had never been."""
        for *_, fresh in self.calls:
            for one in fresh:
                one.fill_(float("nan") if one.is_floating_point() else 0)

    def replay(self):
        for operation, args, kwargs, found, fresh in self.calls:
            again = operation(*args, **kwargs)
            for old, new in zip(tensors(found), tensors(again), strict=True):
                if any(old is one for one in fresh):
                    old.copy_(new)


def tensors(tree):
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]


def address(tensor):
    opaque = tensor.layout is not torch.strided  # a packed weight
    return id(tensor) if opaque else tensor.untyped_storage().data_ptr()


def tapes():
    def record(work):
        with Tape() as tape:
            found = work()
        tape.forget()
        return tape.replay, found

    return record
