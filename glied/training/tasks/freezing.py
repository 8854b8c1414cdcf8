"""Freezes parts of a pretrained backbone while the others learn."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from glied.errors import UsageError


def freeze_stages(backbone: Any, stages: int) -> None:
    """Freeze the stem and the first `stages` of a timm model's list of feature modules; nothing for 0.

    Raises:
        UsageError: the model is not built of such stages.
    """
    if not stages:
        return
    if not hasattr(backbone, "blocks") or not hasattr(backbone, "conv_stem"):
        raise UsageError(f"frozen_stages: not known for {type(backbone).__name__}; 0 trains all of it")
    for part in (backbone.conv_stem, backbone.bn1, *backbone.blocks[:stages]):
        part.requires_grad_(False)


def keep_statistics(backbone: nn.Module) -> None:
    """Keeps the pretrained statistics of batch normalization: batches are small and alike."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
