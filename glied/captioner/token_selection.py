"""Selection of the next words: masking repeats, the best of beam x vocabulary, and sampling.

All functions are pure functions of tensors, except `block_repeats`, which masks in place.

Shapes: B images, K beams (k per group), V vocabulary, C candidates.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16
"""Words per block; the search for the best words compares the maxima of blocks first."""
ROWS = 16
"""Distributions normalized at a time on a CPU; 16 of 10,000 words take 0.6 MB, which fits in the cache."""


def log_normalizers(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of each distribution in float32; [B, K, V] -> [B, K].

    This is what log_softmax subtracts; it is recovered from the first word of each distribution. On a CPU a
    few rows are processed at a time, so that the temporary result stays in the cache.
    """
    rows = logits.flatten(0, 1)
    parts = rows.split(ROWS) if logits.is_cpu else (rows,)
    sums = [part[:, 0].float() - part.log_softmax(-1, dtype=torch.float32)[:, 0] for part in parts]
    return torch.cat(sums).view(logits.shape[:2])


def block_repeats(logits: Tensor, history: Tensor, size: int) -> None:
    """Mask, in place, the words that would repeat an n-gram of `size` words.

    [B, K, V], histories [B, K, T].
    """
    if history.shape[2] < size:
        return
    windows = history.unfold(2, size, 1)  # [B, K, T - size + 1, size]
    current = history[:, :, None, history.shape[2] - size + 1 :]
    repeated = (windows[..., :-1] == current).all(dim=-1)
    blocked = logits.new_zeros(repeated.shape).masked_fill(repeated, -math.inf)
    logits.scatter_add_(2, windows[..., -1], blocked)


def best_words(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best continuations of the beams of each image, without sorting or copying beam x vocabulary.

    The `count` best words are all in the `count` best blocks of words, ranked by their best word, so only
    those blocks are searched.

    Args:
        logits: [B, K, V].
        scores: [B, K] float32, added to the logits of each beam.
        count: C.

    Returns:
        Totals (best first), beams and words, each [B, C]; totals are -inf if there are fewer than C.
    """
    batch, beams, size = logits.shape
    blocks = size // BLOCK
    if blocks < 4 * count:
        totals = (logits + scores[..., None]).flatten(1)
        totals = F.pad(totals, (0, max(0, count - beams * size)), value=-math.inf)
        best, place = totals.topk(count, dim=1)
        return best, (place // size).clamp(max=beams - 1), place % size
    whole = logits[..., : blocks * BLOCK].unflatten(-1, (BLOCK, blocks))  # [B, K, 16, V / 16]
    maxima = (whole.amax(dim=2) + scores[..., None]).flatten(1)
    place = maxima.topk(count, dim=1, sorted=False).indices
    offsets = torch.arange(BLOCK, device=place.device) * blocks
    beam = (place // blocks).repeat_interleave(BLOCK, dim=1)  # [B, C * 16]
    word = ((place % blocks)[..., None] + offsets).flatten(1)
    if size % BLOCK:  # the words beyond the last full block
        rest = torch.arange(beams * (size % BLOCK), device=place.device).expand(batch, -1)
        beam = torch.cat((beam, rest % beams), dim=1)
        word = torch.cat((word, blocks * BLOCK + rest // beams), dim=1)
    totals = logits.flatten(1).gather(1, beam * size + word) + scores.gather(1, beam)
    best, order = totals.topk(count, dim=1)
    return best, beam.gather(1, order), word.gather(1, order)


def sample_words(logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Sample a word per beam by inverting the cumulative distribution at `uniform`; [B, K, V] -> [B, K].

    Args:
        logits: logits of the model, -inf for forbidden words.
        uniform: [B, K], random numbers in [0, 1).
        temperature: divides the logits.
        top_k: sample from the `top_k` most probable words only; 0 for all.
        top_p: sample from the smallest set of words with this total probability.
    """
    values, words = logits.float() / temperature, None
    if top_k or top_p < 1:
        values, words = values.topk(min(top_k or values.shape[-1], values.shape[-1]), dim=-1)
    probabilities = values.softmax(dim=-1)
    if top_p < 1:
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    sums = probabilities.cumsum(dim=-1)
    total = sums[..., -1:]
    # Keep the target below the total: a rounding error could otherwise select a word of probability 0.
    wanted = (uniform[..., None] * total).minimum(total * (1 - 1e-6))
    drawn = torch.searchsorted(sums, wanted, right=True).clamp(max=sums.shape[-1] - 1)
    return (drawn if words is None else words.gather(-1, drawn)).squeeze(-1)


def random_streams(seeds: Sequence[int], samples: int, length: int) -> Tensor:
    """Draw the random numbers of each image from its seed: [B, samples, length], uniform in [0, 1)."""
    drawn = [torch.rand(samples, length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)
