"""Half-precision modules inside float32 networks."""

import logging
from typing import Any, cast

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class Cast(nn.Module):
    """Runs a module in another precision, with float32 inputs and outputs.

    Boxes and anchors need more precision than half precision offers; the networks do not.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, *, compiled: bool = False) -> None:
        """Convert `module`, its 4-d weights to channels-last, and compile it for any size if `compiled`."""
        super().__init__()
        if not _computes(dtype, module):
            log.warning("this processor lacks bfloat16: regions.compute.dtype float32 is much faster here")
        self.module = module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dtype = dtype
        called = cast(nn.Module, torch.compile(self.module, dynamic=True)) if compiled else self.module
        self.call = (
            called.__call__
        )  # the method: as a second module its weights would be in the state dict twice

    def forward(self, *inputs: Any) -> Any:
        """Run the module on `inputs`; inputs and outputs are tensors or lists and dicts of tensors."""
        return _as(torch.float32, self.call(*_as(self.dtype, inputs)))


def _computes(dtype: torch.dtype, module: nn.Module) -> bool:
    """Whether the device of `module` computes faster in `dtype` than in float32."""
    on_cpu = all(weight.device.type == "cpu" for weight in module.parameters())
    return dtype != torch.bfloat16 or not on_cpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _as(dtype: torch.dtype, value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return value.to(dtype, memory_format=torch.channels_last) if value.dim() == 4 else value.to(dtype)
    if isinstance(value, dict):
        return type(value)((key, _as(dtype, item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(_as(dtype, item) for item in value)
    return value
