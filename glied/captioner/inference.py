"""A captioner's model made ready for inference: what is constant per checkpoint is computed once."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from glied.captioner.model import CaptioningModel


class PackedLinear(nn.Module):
    """A linear layer whose weight lies as oneDNN's kernels want it; for inference on a CPU.

    oneDNN also uses the processor's widest instructions where MKL, which `nn.Linear` calls, does not: on an
    AMD EPYC it is 2 to 3 times as fast in float32. torch.compile emits the same two operators.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of `linear`; later changes of it do not reach the copy."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.dtype = linear.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the precision of the weight: autocast does not know this operator."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, "none", [], "")


@torch.inference_mode()
def freeze(model: CaptioningModel, *, tables: bool = True) -> CaptioningModel:
    """A copy for inference, in evaluation mode; only its linear layers are copied, the rest is shared.

    Args:
        model: whose weights must not change while the copy is used.
        tables: keep what is constant per checkpoint, e.g. the keys and values of every word as an attribute.
    """
    shared: dict[int, object] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    frozen = copy.deepcopy(model, shared).eval()
    frozen.frozen = True
    if tables:
        frozen.tabulate()
    if can_pack(model.embedding.weight):
        _pack(frozen)
    return frozen


def can_pack(weight: Tensor) -> bool:
    """Whether this build of torch has oneDNN's packed linear layers for weights like this one."""
    if not weight.is_cpu or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _pack(module: nn.Module) -> None:
    """Replace the linear layers within `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)
