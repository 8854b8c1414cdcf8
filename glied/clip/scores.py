"""CLIP-S and RefCLIP-S, computed from embeddings of images and captions.

Shapes: ``B`` images or captions, ``R`` references per image, ``E`` width of the joint embedding.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP_WEIGHT = 2.5


def clip_score(image: Tensor, text: Tensor) -> Tensor:
    """Compute CLIP-S, 2.5 * max(cos(image, text), 0): [B,E], [B,E] -> [B], at least 0.

    Hessel et al. 2021 (arXiv 2104.08718), equation 1.
    """
    return CLIP_WEIGHT * _cosine(image, text)


def ref_clip_score_reward(image: Tensor, text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """Compute the RefCLIP-S reward, in which both terms have the weight 2.5.

    It is the harmonic mean of CLIP-S and 2.5 * max over references of max(cos(text, ref), 0), as in Cho et
    al. 2022 (arXiv 2205.13115).

    Args:
        image: [B, E].
        text: [B, E].
        references: [B, R, E], encoded with the same prompt as captions.
        mask: [B, R], True for real references, False for padding.

    Returns:
        [B]; 0 if either term is 0 or the image has no references.
    """
    return _harmonic_mean(clip_score(image, text), CLIP_WEIGHT * _nearest(text, references, mask))


def ref_clip_score_metric(image: Tensor, text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """Compute the RefCLIP-S metric, in which the reference term has no weight.

    It is the harmonic mean of CLIP-S and max over references of max(cos(text, ref), 0), as in Hessel et al.
    2021 (arXiv 2104.08718), section 3. Its values are not comparable with those of the reward. Arguments and
    result as in `ref_clip_score_reward`.
    """
    return _harmonic_mean(clip_score(image, text), _nearest(text, references, mask))


def pad_references(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad each image's reference vectors, [r, E] each -> [B, R, E] and mask [B, R], True where real."""
    padded = torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
    counts = torch.tensor([len(one) for one in vectors])
    return padded, torch.arange(padded.shape[1]) < counts[:, None]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute max(cos, 0) of vectors, [..., E] -> [...]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).clamp(min=0)


def _nearest(text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """Compute the cosine with the nearest real reference, at least 0: [B,E], [B,R,E], [B,R] -> [B]."""
    cosines = _cosine(text[:, None], references).masked_fill(~mask, 0.0)  # [B, R]
    return F.pad(cosines, (0, 1)).amax(dim=1)  # R may be 0


def _harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """Compute 2ab / (a + b), or 0 where both are 0, for non-negative values: [B], [B] -> [B]."""
    total = a + b
    return torch.where(total > 0, 2 * a * b / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
