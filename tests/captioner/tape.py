"""Simulates CUDA graphs on a CPU.

A tape records operations with the addresses that they read and write, discards the results of the
recording, and replays them without Python code in between. It owns the tensors that it created; all other
tensors that it reads must be kept alive elsewhere, as with a CUDA graph.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Address:
    """A tensor that the tape does not own."""

    storage: StorageWeakRef
    dtype: torch.dtype
    place: tuple

    @classmethod
    def of(cls, tensor):
        place = tensor.storage_offset(), tensor.size(), tensor.stride()
        return cls(StorageWeakRef(tensor.untyped_storage()), tensor.dtype, place)

    def tensor(self):
        assert not self.storage.expired(), "a replay reads freed memory"
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.place)


class Tape(TorchDispatchMode):
    """Recorded operations and the tensors they created."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, (
            "values cannot be read during a recording"
        )
        found = operation(*args, **(kwargs or {}))
        given = {storage(one) for one in tensors((args, kwargs))}
        made = {i: one for i, one in enumerate(tensors(found)) if storage(one) not in given}
        if made or operation._schema.is_mutable:  # the others are views
            self.calls.append((operation, *tree_map(remember, (args, kwargs or {})), made))
        return found

    def forget(self):
        """Discard the computed values."""
        for *_, made in self.calls:
            for one in made.values():
                one.fill_(float("nan") if one.is_floating_point() else 0)

    def replay(self):
        for operation, args, kwargs, made in self.calls:
            args, kwargs = tree_map(recall, (args, kwargs))
            found = tensors(operation(*args, **kwargs))
            for i, one in made.items():
                one.copy_(found[i])


def tapes():
    """Return a function that records the steps of one search."""
    pool = []  # all tapes of the search: each may read the results of another

    def record(work):
        with Tape() as tape:
            found = work()
        tape.forget()
        pool.append(tape)
        return partial(replay, pool, tape), found

    return record


def replay(pool, tape):
    """Replay a tape; the function keeps the tensors of `pool` alive."""
    tape.replay()


def tensors(tree):
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]


def plain(value):
    """Return whether a tensor has an address; packed weights have none."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def storage(tensor):
    return tensor.untyped_storage().data_ptr() if plain(tensor) else id(tensor)


def remember(value):
    return Address.of(value) if plain(value) else value


def recall(value):
    return value.tensor() if isinstance(value, Address) else value
