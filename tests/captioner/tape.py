"""What a CUDA graph does, on a CPU.

It keeps the operations with the addresses that they read and write, computes nothing that lasts while it
records, and repeats them without any Python between them. It owns what it made; whatever else it reads must
be kept alive by someone else, as with a CUDA graph.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Address:
    """A tensor of someone else's."""

    storage: StorageWeakRef
    dtype: torch.dtype
    place: tuple

    @classmethod
    def of(cls, tensor):
        place = tensor.storage_offset(), tensor.size(), tensor.stride()
        return cls(StorageWeakRef(tensor.untyped_storage()), tensor.dtype, place)

    def tensor(self):
        assert not self.storage.expired(), "a replay reads memory that was given back"
        storage = torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.place)


class Tape(TorchDispatchMode):
    """Operations as they were called, and what they made."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a recording knows no values"
        found = operation(*args, **(kwargs or {}))
        given = {storage(one) for one in tensors((args, kwargs))}
        made = {i: one for i, one in enumerate(tensors(found)) if storage(one) not in given}
        if made or operation._schema.is_mutable:  # the others are views
            self.calls.append((operation, *tree_map(remember, (args, kwargs or {})), made))
        return found

    def forget(self):
        """What was computed is gone, as if it had never been."""
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
    """Makes what records one search."""
    pool = []  # all tapes of the search: each may read what another made

    def record(work):
        with Tape() as tape:
            found = work()
        tape.forget()
        pool.append(tape)
        return partial(replay, pool, tape), found

    return record


def replay(pool, tape):
    """What `pool` holds stays alive as long as this can be called."""
    tape.replay()


def tensors(tree):
    return [one for one in tree_leaves(tree) if isinstance(one, torch.Tensor)]


def plain(value):
    """Whether it is a tensor with an address; a packed weight has none."""
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def storage(tensor):
    return tensor.untyped_storage().data_ptr() if plain(tensor) else id(tensor)


def remember(value):
    return Address.of(value) if plain(value) else value


def recall(value):
    return value.tensor() if isinstance(value, Address) else value
