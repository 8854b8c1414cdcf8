"""Greedy decoding, sampling and beam search over a captioning model.

All beams of an image share its encoder output. The cache of previous words is never reordered (only the
ancestry of the beams is), and finished images leave the batch. Images do not interact, so a caption does not
depend on the batch that its image was in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from glied.captioner.config import DecodingConfig
from glied.captioner.inference import freeze
from glied.captioner.model import CaptioningModel, EncoderOutput, StepModel
from glied.captioner.search_state import Candidates, Hypothesis, Search
from glied.captioner.token_selection import (
    best_words,
    block_repeats,
    log_normalizers,
    random_streams,
    sample_words,
)
from glied.errors import UsageError

STEPS_PER_CHECK = {"cpu": 1, "cuda": 4}
"""Steps between two checks for finished images; on a GPU a check waits for all queued work."""
COMPACTION = 0.2
"""Finished images leave the batch once they are this share of it; moving the others takes time too."""

NEVER_WORDS = CaptioningModel.never
"""Tokens that never occur in a caption."""


@torch.inference_mode()
def decode(
    model: StepModel,
    encoded: EncoderOutput,
    config: DecodingConfig,
    *,
    suppressed: Sequence[int] | None = None,
    seeds: Sequence[int] | torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Generate captions for every image of `encoded`.

    In beam search, a caption that ends among the best `beam_size` candidates of its step is finished. Beams
    that are still live at the maximum length are truncated and count as finished too. An image gets fewer
    than `n_best` captions only if the vocabulary does not allow more, or if several groups found the same.

    Args:
        model: the model that produced `encoded`, or its frozen copy (see `inference.freeze`), which avoids
            making a copy here.
        encoded: encoder output of B images.
        config: the search settings.
        suppressed: ids of words that must not occur; required if `config.suppress` names any.
        seeds: for sampling, one seed per image, so that the samples of an image depend on nothing else; or a
            generator to draw the seeds from. By default every image uses the seed of the config.

    Returns:
        The `n_best` captions of each image, best first, or its samples in the order in which they were drawn.

    Raises:
        UsageError: the config names words to suppress, but their ids are missing.
    """
    model = model if model.frozen else freeze(model, tables=False)
    device = model.embedding.weight.device
    inputs = DecodeInputs.of(
        config, encoded.batch_size, suppressed=suppressed, seeds=seeds, device=device, never=model.never
    )
    search = start(model, encoded, config, no_sync=device.type != "cpu")
    for steps in step_blocks(config, STEPS_PER_CHECK.get(device.type, 1)):
        run_steps(model, search, config, inputs, steps)
        if steps.stop == config.max_length or not _compact(search):
            break
    return collect_results(search, config)


@dataclass(frozen=True)
class DecodeInputs:
    """The inputs of a search besides the encoder output.

    Attributes:
        forbidden: ids of the words that must not occur.
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
        never: tuple[int, ...] = NEVER_WORDS,
    ) -> "DecodeInputs":
        """Build the inputs from the arguments of `decode`; `never` as in `StepModel`."""
        if config.suppress and suppressed is None:
            raise UsageError("suppress: words are suppressed by Captioner, which knows their ids")
        forbidden = torch.tensor([*never, *(suppressed or ())], device=device)
        uniform = _uniform(config, batch, seeds).to(device) if config.method == "sample" else None
        return cls(forbidden, uniform)


def step_blocks(config: DecodingConfig, every: int) -> list[range]:
    """Split the steps of a search into blocks; finished images are checked for between two blocks."""
    longest = config.max_length
    return [range(first, min(first + every, longest)) for first in range(0, longest, every)]


def start(model: StepModel, encoded: EncoderOutput, config: DecodingConfig, *, no_sync: bool) -> Search:
    """Create the search in its state before the first step; `no_sync` as in `Search`."""
    groups = config.chains or config.search.groups
    beams = 1 if config.chains else config.beam_size // groups
    return Search(
        model,
        encoded,
        groups=groups,
        beams=beams,
        n_best=config.n_best if groups == 1 else beams,  # duplicates of other groups are skipped
        max_length=config.max_length,
        length_penalty=config.search.length_penalty,
        stop="full" if config.chains else config.search.stop,
        no_sync=no_sync,
    )


def run_steps(
    model: StepModel, search: Search, config: DecodingConfig, inputs: DecodeInputs, steps: range
) -> None:
    """Run `steps` of a search and truncate the live beams at the maximum length.

    With `no_sync`, the work that is queued does not depend on any computed value.
    """
    for _ in steps:
        logits = model.step(search.encoded, search.words, search.cache)  # [B, K, V]
        before = search.scores - log_normalizers(logits)  # adding a logit gives the caption's log-probability
        _mask_forbidden(logits, search, config, inputs.forbidden)
        search.advance(_select_tokens(logits, before, search, config, inputs.uniform))
    if steps.stop == config.max_length:
        search.truncate()


def collect_results(search: Search, config: DecodingConfig) -> list[list[Hypothesis]]:
    """Return the results of a search in the form that `decode` returns."""
    return [_merge_groups(groups, config) for groups in search.results()]


def _uniform(config: DecodingConfig, batch: int, seeds: Sequence[int] | torch.Generator | None) -> Tensor:
    """Draw the random numbers [B, samples, T] of the images."""
    if isinstance(seeds, torch.Generator):
        seeds = torch.randint(2**62, (batch,), generator=seeds, device=seeds.device).tolist()
    seeds = [config.sampling.seed] * batch if seeds is None else seeds
    if len(seeds) != batch:
        raise UsageError(f"seeds: {len(seeds)} for {batch} images")
    return random_streams(seeds, config.n_best, config.max_length)


def _mask_forbidden(logits: Tensor, search: Search, config: DecodingConfig, words: Tensor) -> None:
    """Set the logits of words that must not come next to -inf, in place; [B, K, V]."""
    logits.index_fill_(2, words, -math.inf)
    if search.step < config.min_length:
        logits[..., search.end] = -math.inf
    if config.blocked:
        block_repeats(logits, search.histories(), config.blocked)


def _select_tokens(
    logits: Tensor, before: Tensor, search: Search, config: DecodingConfig, uniform: Tensor | None
) -> Candidates:
    """Select the candidates of each group.

    Args:
        logits: [B, K, V], or [B, 1, V] at the first step.
        before: [B, K], added to a logit to give the log-probability of the caption.
        search: the captions so far.
        config: the search settings.
        uniform: random numbers for sampling.
    """
    if config.search.groups > 1 and not config.chains:
        return _diverse(logits, before, search, config)
    if not config.chains:
        best = best_words(logits, before, 2 * config.beam_size)
        scores, parents, words = (part[:, None] for part in best)  # [B, 1, C]
        return Candidates(scores, scores, parents, words)
    if uniform is None:
        words = logits.argmax(dim=-1)
    else:
        logits = logits.expand(-1, config.chains, -1)
        words = sample_words(
            logits,
            uniform[search.images, :, search.step],
            temperature=config.sampling.temperature,
            top_k=config.sampling.top_k,
            top_p=config.sampling.top_p,
        )
    scores = before + logits.gather(2, words[..., None]).squeeze(2)  # [B, K]
    own = torch.arange(search.words.shape[1], device=words.device).expand_as(words)
    return Candidates(scores[..., None], scores[..., None], own[..., None], words[..., None])


def _diverse(logits: Tensor, before: Tensor, search: Search, config: DecodingConfig) -> Candidates:
    """Select candidates group by group; a word costs `diversity` per beam of earlier groups that took it."""
    taken = torch.zeros_like(logits[:, :1], dtype=torch.float32)  # [B, 1, V]
    selected = []
    for group in range(config.search.groups):
        first = 0 if search.step == 0 else group * search.beams
        beams = slice(first, first + search.beams)
        keys, parents, words = best_words(
            logits[:, beams] - config.search.diversity * taken,
            before[:, beams],
            2 * search.beams,
        )
        penalties = config.search.diversity * taken[:, 0].gather(1, words)
        parts = (keys, keys + penalties, first + parents, words)
        candidates = Candidates(*(part[:, None] for part in parts))  # [B, 1, C]
        selected.append(candidates)
        live = search.live(candidates).words.flatten(1)
        taken[:, 0].scatter_add_(1, live, torch.ones_like(live, dtype=taken.dtype))
    return Candidates(
        *(torch.cat(parts, dim=1) for parts in zip(*(vars(c).values() for c in selected), strict=True))
    )


def _compact(search: Search) -> bool:
    """Drop finished images if there are enough of them; return whether any image is still active."""
    active, batch = search.active(), len(search.images)
    if batch - len(active) >= max(1, COMPACTION * batch) and len(active):
        search.keep(active)
    return bool(len(active))


def _merge_groups(groups: list[list[Hypothesis]], config: DecodingConfig) -> list[Hypothesis]:
    """Merge the groups of an image: all samples in order, or one caption per group in turn, unique."""
    if config.chains:
        return list(chain.from_iterable(groups))
    merged: dict[tuple[int, ...], Hypothesis] = {}
    for rank in range(max(len(group) for group in groups)):
        of_rank = [group[rank] for group in groups if rank < len(group)]
        for one in sorted(of_rank, key=lambda one: -one.score(config.search.length_penalty)):
            merged.setdefault(one.tokens, one)
    return list(merged.values())[: config.n_best]
