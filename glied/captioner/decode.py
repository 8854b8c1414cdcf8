"""Greedy decoding, sampling and beam search over a captioning model.

The memory of an image is shared by its beams, the cache of the words so far is never reordered (only who
descends from whom is), and finished images leave the batch. An image never sees another one, so a caption
does not depend on the batch it was in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from glied.captioner.config import DecodingConfig
from glied.captioner.inference import freeze
from glied.captioner.model import CaptioningModel, Memory
from glied.captioner.search import Candidates, Hypothesis, Search
from glied.captioner.token_selection import best_words, block_repeats, log_normalizers, sample_words, streams
from glied.errors import UsageError
from glied.text.vocabulary import BOS, EOS, PAD, UNK

STEPS_PER_CHECK = {"cpu": 1, "cuda": 4}
"""Steps between two looks at which images are done; on a GPU a look waits for all that is queued."""
COMPACTION = 0.2
"""Finished images leave the batch when they are this share of it: to move the others costs time too."""

NEVER_WORDS = (PAD, BOS, UNK)
"""Tokens that no caption holds, whatever the model says."""


@torch.inference_mode()
def decode(
    model: CaptioningModel,
    memory: Memory,
    config: DecodingConfig,
    *,
    suppressed: Sequence[int] | None = None,
    seeds: Sequence[int] | torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Find captions for every image of `memory`.

    Beams: a caption that ends among the best `beam_size` candidates of its step enters the image's pool; at
    the maximum length what is still alive is cut and enters too. An image has fewer than `n_best` captions
    only where the vocabulary does not allow more, or where the groups found the same ones.

    Args:
        model: the model that encoded `memory`, or its frozen copy (see `inference.freeze`), which saves the
            time to make one here.
        memory: of B images.
        config: what to search.
        suppressed: ids of the words that never occur; needed where `config.suppress` names any.
        seeds: for sampling, one per image, so that what is drawn for an image depends on nothing else; or a
            generator to draw them from. Without, every image has the seed of the config.

    Returns:
        Each image's `n_best` captions, the best first, or its samples in the order drawn.

    Raises:
        UsageError: words to suppress without their ids.
    """
    model = model if model.frozen else freeze(model, tables=False)
    device = model.embedding.weight.device
    given = Given.of(config, memory.batch_size, suppressed=suppressed, seeds=seeds, device=device)
    search = start(model, memory, config, queued=device.type != "cpu")
    for steps in stretches(config, STEPS_PER_CHECK.get(device.type, 1)):
        walk(model, search, config, given, steps)
        if steps.stop == config.max_length or not _compact(search):
            break
    return merged(search, config)


@dataclass(frozen=True)
class Given:
    """What a search reads, besides the memory of the images.

    Attributes:
        forbidden: ids of the words that never occur.
        uniform: random numbers for sampling [B, samples, T], or None.
    """

    forbidden: Tensor
    uniform: Tensor | None

    @classmethod
    def of(
        cls,
        config: DecodingConfig,
        batch: int,
        *,
        suppressed: Sequence[int] | None,
        seeds: Sequence[int] | torch.Generator | None,
        device: torch.device,
    ) -> "Given":
        """From the arguments of `decode`."""
        if config.suppress and suppressed is None:
            raise UsageError("suppress: words are suppressed by Captioner, which knows their ids")
        forbidden = torch.tensor([*NEVER_WORDS, *(suppressed or ())], device=device)
        uniform = _uniform(config, batch, seeds).to(device) if config.method == "sample" else None
        return cls(forbidden, uniform)


def stretches(config: DecodingConfig, every: int) -> list[range]:
    """The steps of a search, in the parts between two looks at which images are done."""
    longest = config.max_length
    return [range(first, min(first + every, longest)) for first in range(0, longest, every)]


def start(model: CaptioningModel, memory: Memory, config: DecodingConfig, *, queued: bool) -> Search:
    """A search before its first step; `queued` as in `Search`."""
    groups = config.chains or config.groups
    beams = 1 if config.chains else config.beam_size // groups
    return Search(
        model,
        memory,
        groups=groups,
        beams=beams,
        n_best=config.n_best if groups == 1 else beams,  # a double in another group lets the next one in
        max_length=config.max_length,
        length_penalty=config.length_penalty,
        stop="full" if config.chains else config.stop,
        queued=queued,
    )


def walk(model: CaptioningModel, search: Search, config: DecodingConfig, given: Given, steps: range) -> None:
    """Go on by `steps`; at the maximum length what is alive is cut. What is queued depends on no value."""
    for _ in steps:
        logits = model.step(search.memory, search.words, search.cache)  # [B, K, V]
        before = search.scores - log_normalizers(logits)  # plus a word's logit: the caption's log-probability
        _forbid(logits, search, config, given.forbidden)
        search.advance(_choose(logits, before, search, config, given.uniform))
    if steps.stop == config.max_length:
        search.cut()


def merged(search: Search, config: DecodingConfig) -> list[list[Hypothesis]]:
    """What `decode` returns of a search."""
    return [_merge(groups, config) for groups in search.results()]


def _uniform(config: DecodingConfig, batch: int, seeds: Sequence[int] | torch.Generator | None) -> Tensor:
    """The random numbers [B, samples, T] of the images."""
    if isinstance(seeds, torch.Generator):
        seeds = torch.randint(2**62, (batch,), generator=seeds, device=seeds.device).tolist()
    seeds = [config.seed] * batch if seeds is None else seeds
    if len(seeds) != batch:
        raise UsageError(f"seeds: {len(seeds)} for {batch} images")
    return streams(seeds, config.n_best, config.max_length)


def _forbid(logits: Tensor, search: Search, config: DecodingConfig, words: Tensor) -> None:
    """Set to -inf, in place, what must not come next; [B, K, V]."""
    logits.index_fill_(2, words, -math.inf)
    if search.step < config.min_length:
        logits[..., EOS] = -math.inf
    if config.blocked:
        block_repeats(logits, search.histories(), config.blocked)


def _choose(
    logits: Tensor, before: Tensor, search: Search, config: DecodingConfig, uniform: Tensor | None
) -> Candidates:
    """The candidates of each group.

    Args:
        logits: [B, K, V], or [B, 1, V] at the first step.
        before: [B, K], what makes a logit the log-probability of the caption.
        search: the captions so far.
        config: of the search.
        uniform: random numbers for sampling.
    """
    if config.groups > 1 and not config.chains:
        return _diverse(logits, before, search, config)
    if not config.chains:
        found = best_words(logits, before, 2 * config.beam_size)
        scores, parents, words = (part[:, None] for part in found)  # [B, 1, C]
        return Candidates(scores, scores, parents, words)
    if uniform is None:
        words = logits.argmax(dim=-1)
    else:
        logits = logits.expand(-1, config.chains, -1)
        words = sample_words(
            logits,
            uniform[search.images, :, search.step],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
    scores = before + logits.gather(2, words[..., None]).squeeze(2)  # [B, K]
    own = torch.arange(search.words.shape[1], device=words.device).expand_as(words)
    return Candidates(scores[..., None], scores[..., None], own[..., None], words[..., None])


def _diverse(logits: Tensor, before: Tensor, search: Search, config: DecodingConfig) -> Candidates:
    """Group after group; a word costs `diversity` for each beam of the earlier groups that has taken it."""
    taken = torch.zeros_like(logits[:, :1], dtype=torch.float32)  # [B, 1, V]
    found = []
    for group in range(config.groups):
        first = 0 if search.step == 0 else group * search.beams
        beams = slice(first, first + search.beams)
        keys, parents, words = best_words(
            logits[:, beams] - config.diversity * taken,
            before[:, beams],
            2 * search.beams,
        )
        penalties = config.diversity * taken[:, 0].gather(1, words)
        parts = (keys, keys + penalties, first + parents, words)
        candidates = Candidates(*(part[:, None] for part in parts))  # [B, 1, C]
        found.append(candidates)
        live = search.live(candidates).words.flatten(1)
        taken[:, 0].scatter_add_(1, live, torch.ones_like(live, dtype=taken.dtype))
    return Candidates(
        *(torch.cat(parts, dim=1) for parts in zip(*(vars(c).values() for c in found), strict=True))
    )


def _compact(search: Search) -> bool:
    """Drop finished images where they are many; whether there are others."""
    active, batch = search.active(), len(search.images)
    if batch - len(active) >= max(1, COMPACTION * batch) and len(active):
        search.keep(active)
    return bool(len(active))


def _merge(groups: list[list[Hypothesis]], config: DecodingConfig) -> list[Hypothesis]:
    """The captions of an image: the samples as drawn, else one of each group in turn, without doubles."""
    if config.chains:
        return list(chain.from_iterable(groups))
    merged: dict[tuple[int, ...], Hypothesis] = {}
    for rank in range(max(len(group) for group in groups)):
        here = [group[rank] for group in groups if rank < len(group)]
        for one in sorted(here, key=lambda one: -one.score(config.length_penalty)):
            merged.setdefault(one.tokens, one)
    return list(merged.values())[: config.n_best]
