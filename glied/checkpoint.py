"""Checkpoints: tensors as safetensors, everything else as JSON. Nothing is ever unpickled.

The files are those of `glied.checkpoint_files`. Shipped weights are stored as float16 and loaded as float32.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

from glied import checkpoint_files, storage
from glied.checkpoint_files import EXTRACTOR as EXTRACTOR
from glied.checkpoint_files import METADATA as METADATA
from glied.checkpoint_files import TENSORS as TENSORS
from glied.errors import JobError, UsageError


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        tensors: parameters and buffers by name, floating point ones as float32.
        metadata: the JSON object saved beside them.
        digest: SHA-256 over both files, hexadecimal.
        extractor: fingerprint of the extractor whose regions the model was trained on, if that is known.
    """

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]
    digest: str
    extractor: dict[str, Any] | None = None


def save(
    folder_uri: str,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, Any],
    *,
    half: bool = False,
    extractor: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; `half` stores floating point tensors as float16 where that can hold them.

    Raises:
        JobError: a value is not finite; nothing is written.
    """
    stored = {name: _storable(tensor, half) for name, tensor in tensors.items()}
    if broken := [name for name, tensor in stored.items() if not _is_finite(tensor)]:
        raise JobError(f"{folder_uri}: {broken[0]} has values that are not finite; nothing was written")
    storage.write_bytes(storage.join(folder_uri, TENSORS), safetensors.torch.save(stored))
    text = json.dumps(dict(metadata), indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(folder_uri, METADATA), text.encode())
    if extractor is not None:
        text = json.dumps(dict(extractor), indent=1, sort_keys=True) + "\n"
        storage.write_bytes(storage.join(folder_uri, EXTRACTOR), text.encode())


def load(folder_uri: str, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint folder; weights that ship are found from any working directory.

    Args:
        folder_uri: local path or storage URI.
        kind: what the checkpoint must hold, as the `kind` in its metadata says; None for anything.

    Raises:
        UsageError: the folder holds no checkpoint, a broken one, or one of another kind.
    """
    info, data = checkpoint_files.read(folder_uri)
    if kind is not None and info.kind != kind:
        raise UsageError(f"{folder_uri} holds a checkpoint of kind {info.kind or 'unknown'}, not {kind}")
    try:
        tensors = {name: _loadable(tensor) for name, tensor in safetensors.torch.load(data).items()}
    except (ValueError, safetensors.SafetensorError) as error:
        raise UsageError(f"the checkpoint in {folder_uri} is broken: {error}") from error
    return Checkpoint(tensors, info.metadata, info.digest, info.extractor)


def weights_digest(model: torch.nn.Module, *, shapes: bool = False) -> str:
    """SHA-256 over names and values of a model's tensors, whichever file they came from.

    Args:
        model: on any device.
        shapes: digest the tensors' shapes, too. Fingerprints of CLIPs have it so, those of region extractors
            not; feature stores and checkpoints keep them, so that both remain.
    """
    arrays = ((name, tensor.detach().cpu().numpy()) for name, tensor in sorted(model.state_dict().items()))
    return checkpoint_files.arrays_digest(arrays, shapes=shapes)


def _storable(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    tensor = tensor.detach().cpu()
    if half and tensor.is_floating_point() and _is_finite(tensor.half()):
        tensor = tensor.half()
    return tensor.contiguous().clone()  # tied parameters share storage, which safetensors refuses


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _loadable(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
