"""CLIP's loss, over one worker or several."""

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from glied.errors import UsageError
from glied.training.config import TrainerConfig


def refuse_micro_batches(trainer: TrainerConfig) -> None:
    """Refuses `accumulate` where the loss compares the pairs of a batch with each other.

    Raises:
        UsageError: the batch would be divided.
    """
    accumulate = trainer.optimizer.accumulate
    if accumulate > 1:
        raise UsageError(
            f"trainer.optimizer.accumulate: {accumulate}, but a contrastive loss compares the pairs of a "
            "whole batch: leave it at 1, use more workers or a smaller batch_size"
        )


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, negatives: Tensor | None = None, real: Tensor | None = None
) -> Tensor:
    """CLIP's symmetric cross-entropy over the pairs of all workers together (Radford et al. 2021, figure 3).

    Every worker scores its own pairs against those of all workers, with gradients through both, so that
    data-parallel workers, whose gradients are averaged, train as one worker with the whole batch would.

    Hard negatives are texts of no image. Each image is also compared with all of them, as in NegCLIP
    (Yuksekgonul et al. 2023, arXiv 2210.01936, section 4).

    Args:
        image: [B, E], unit vectors.
        text: [B, E], unit vectors; row i belongs to image i.
        scale: scalar, what cosines are multiplied by.
        negatives: [N, E], unit vectors of hard negatives, the same N on all workers; None for none.
        real: [N], True where a hard negative is one; the others do not count.
    """
    with torch.autocast(image.device.type, enabled=False):  # a temperature of 1/100 wants all digits
        image, text = image.float(), text.float()
        images, texts, first = _gather(image), _gather(text), 0
        if len(images) > len(image):
            first = torch.distributed.get_rank() * len(image)
        own = torch.arange(first, first + len(image), device=image.device)
        logits = scale * image @ texts.T
        if negatives is not None and real is not None:
            more = scale * image @ _gather(negatives.float()).T
            logits = torch.cat((logits, more.masked_fill(~_gather(real.float()).bool(), -torch.inf)), dim=1)
        by_image = F.cross_entropy(logits, own)
        return (by_image + F.cross_entropy(scale * text @ images.T, own)) / 2


def _gather(values: Tensor) -> Tensor:
    """[B, E] of this worker -> [workers * B, E], in the order of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    if torch.distributed.get_world_size() == 1:
        return values
    return torch.cat(all_gather(values))
