"""The files of a checkpoint folder, read without torch: what a job's driver needs to know of a model.

A checkpoint is a folder with `model.safetensors` and `model.json`; the JSON holds what is needed to rebuild
the model (config, class names, vocabulary). `glied.checkpoint` reads the tensors, too.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from glied import shipped, storage
from glied.errors import UsageError

TENSORS = "model.safetensors"
METADATA = "model.json"
EXTRACTOR = "extractor.json"
"""Of a model that reads regions: the fingerprint of the extractor whose regions it was trained on. It is a
file of its own and no part of the digest, so that older checkpoints keep theirs when it is added."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of its model without its weights.

    Attributes:
        metadata: the JSON object saved beside the tensors.
        digest: SHA-256 over both files, hexadecimal.
        extractor: fingerprint of the extractor whose regions the model was trained on, if that is known.
    """

    metadata: dict[str, Any]
    digest: str
    extractor: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What the checkpoint holds, for example "captioner"; empty if that is not known.

        Version 0.1 wrote a format, such as "glied-clip-1", to some checkpoints instead.
        """
        version_0_1 = str(self.metadata.get("format", "")).removeprefix("glied-").removesuffix("-1")
        return str(self.metadata.get("kind", version_0_1))


def inspect(folder_uri: str) -> CheckpointInfo:
    """What the checkpoint in a folder says of its model.

    Raises:
        UsageError: the folder holds no checkpoint, or a broken one.
    """
    info, data = read(folder_uri)
    try:
        safetensors.deserialize(data)
    except (ValueError, safetensors.SafetensorError) as error:
        raise UsageError(f"the checkpoint in {folder_uri} is broken: {error}") from error
    return info


def read(folder_uri: str) -> tuple[CheckpointInfo, bytes]:
    """The same, and the content of the file of the tensors, which may be broken.

    Weights that ship are found from any working directory.

    Raises:
        UsageError: the folder holds no checkpoint, or its JSON is broken.
    """
    folder_uri = shipped.locate(folder_uri)
    try:
        data = storage.read_bytes(storage.join(folder_uri, TENSORS))
        text = storage.read_bytes(storage.join(folder_uri, METADATA))
    except FileNotFoundError as error:
        raise UsageError(f"no checkpoint in {folder_uri}: expected {TENSORS} and {METADATA} there") from error
    try:
        metadata, extractor = json.loads(text), _read_extractor(folder_uri)
    except ValueError as error:
        raise UsageError(f"the checkpoint in {folder_uri} is broken: {error}") from error
    return CheckpointInfo(metadata, hashlib.sha256(data + text).hexdigest(), extractor), data


def arrays_digest(arrays: Iterable[tuple[str, NDArray[Any]]], *, shapes: bool) -> str:
    """SHA-256 over names and values of arrays, in their order, and over their shapes if `shapes`."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update((f"{name} {list(array.shape)}\n" if shapes else name).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_extractor(folder_uri: str) -> dict[str, Any] | None:
    try:
        found = json.loads(storage.read_bytes(storage.join(folder_uri, EXTRACTOR)))
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{EXTRACTOR} is not an object")
    return found
