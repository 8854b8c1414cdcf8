"""How the next words are chosen: what must not come, the best of beam x vocabulary, and sampling.

Pure functions of tensors. Shapes: B images, K beams (k in a group), V vocabulary, C candidates.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 16
"""Words whose maximum is taken together in the search for the best ones."""
ROWS = 16
"""Distributions normalized together on a CPU: of 10,000 words 0.6 MB, which stays in its cache."""


def log_normalizers(logits: Tensor) -> Tensor:
    """The logarithm of each distribution's sum of exponentials, in float32; [B, K, V] -> [B, K].

    What a log_softmax would subtract, without writing all of it down: one word tells. On a CPU a few
    rows are taken at a time, so that what is thrown away stays in the cache.
    """
    rows = logits.flatten(0, 1)
    parts = rows.split(ROWS) if logits.is_cpu else (rows,)
    found = [part[:, 0].float() - part.log_softmax(-1, dtype=torch.float32)[:, 0] for part in parts]
    return torch.cat(found).view(logits.shape[:2])


def block_repeats(logits: Tensor, history: Tensor, size: int) -> None:
    """Set to -inf, in place, the words that would repeat `size` words; [B, K, V], histories [B, K, T]."""
    if history.shape[2] < size:
        return
    windows = history.unfold(2, size, 1)  # [B, K, T - size + 1, size]
    current = history[:, :, None, history.shape[2] - size + 1 :]
    repeated = (windows[..., :-1] == current).all(dim=-1)
    blocked = logits.new_zeros(repeated.shape).masked_fill(repeated, -math.inf)
    logits.scatter_add_(2, windows[..., -1], blocked)


def best_words(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of an image's beams, without sorting or copying beam x vocabulary.

    The `count` best lie in the `count` best blocks of words, ranked by their best word: no others are looked
    into.

    Args:
        logits: [B, K, V].
        scores: [B, K] float32, added to those of its beam.
        count: C.

    Returns:
        Totals (the best first), beams and words, each [B, C]; totals of -inf where there are no more.
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
    if size % BLOCK:  # those that fill no block
        rest = torch.arange(beams * (size % BLOCK), device=place.device).expand(batch, -1)
        beam = torch.cat((beam, rest % beams), dim=1)
        word = torch.cat((word, blocks * BLOCK + rest // beams), dim=1)
    found = logits.flatten(1).gather(1, beam * size + word) + scores.gather(1, beam)
    best, order = found.topk(count, dim=1)
    return best, beam.gather(1, order), word.gather(1, order)


def sample_words(logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw a word per beam by inverting the distribution function at `uniform` [B, K]; [B, K, V] -> [B, K].

    Args:
        logits: of the model, -inf where forbidden.
        uniform: in [0, 1).
        temperature: divides the logits.
        top_k: draw from the `top_k` most probable words only; 0 for all.
        top_p: draw from the fewest most probable words that hold this much probability together.
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
    # Strictly below the total, or a rounding error would draw a word that has no probability.
    wanted = (uniform[..., None] * total).minimum(total * (1 - 1e-6))
    drawn = torch.searchsorted(sums, wanted, right=True).clamp(max=sums.shape[-1] - 1)
    return (drawn if words is None else words.gather(-1, drawn)).squeeze(-1)


def streams(seeds: Sequence[int], samples: int, length: int) -> Tensor:
    """The random numbers of each image, from its seed alone: [B, samples, length], uniform in [0, 1)."""
    drawn = [torch.rand(samples, length, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(drawn)
