"""A reference decoder without caches, batches or tensors of beams, which the engine must equal."""

import dataclasses
import math

import torch
from torch.nn import functional as F

from glied.captioner.decode import Hypothesis
from glied.captioner.token_selection import random_streams
from glied.text.vocabulary import BOS, EOS, PAD, UNK


def pick(inputs, row):
    """Return one image of (regions, attribute ids, attribute mask), without its padding."""
    regions, ids, mask = inputs
    real = regions.mask[row]
    one = dataclasses.replace(
        regions,
        features=regions.features[row, real][None],
        boxes=regions.boxes[row, real][None],
        mask=regions.mask[row, real][None],
        sizes=regions.sizes[row : row + 1],
    )
    return one, ids[row, mask[row]][None], mask[row, mask[row]][None]


def padded(regions):
    """Add four padding regions, which must not change any result."""
    return dataclasses.replace(
        regions,
        features=F.pad(regions.features, (0, 0, 0, 4), value=math.nan),
        boxes=F.pad(regions.boxes, (0, 0, 0, 4), value=7.0),
        mask=F.pad(regions.mask, (0, 4)),
    )


@torch.no_grad()
def greedy(model, memory, images, length):
    """Decode each image greedily, with a full pass over all captions for each word."""
    tokens = torch.full((images, 1), BOS)
    for _ in range(length):
        logits = model.logits(memory, tokens)[:, -1]
        logits[:, [PAD, BOS, UNK]] = -math.inf
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    rows = tokens[:, 1:].tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


@torch.no_grad()
def next_words(model, image, words):
    """Return the log-probabilities of the word after `words`, by a pass over the whole caption."""
    return model(*image, torch.tensor([[BOS, *words]]))[0, -1].float().log_softmax(-1)


def recompute(model, inputs, row, words, finished):
    """Return the log-probability of a caption by teacher forcing."""
    tokens = [BOS, *words, EOS] if finished else [BOS, *words]
    with torch.no_grad():
        logits = model(*pick(inputs, row), torch.tensor([tokens[:-1]]))[0].float()
    table = logits.log_softmax(-1)
    return sum(table[t, word].item() for t, word in enumerate(tokens[1:]))


def allowed(word, words, config, suppressed):
    size = config.blocked
    if word in (PAD, BOS, UNK, *suppressed) or (word == EOS and len(words) < config.min_length):
        return False
    grams = {words[i : i + size] for i in range(len(words) - size + 1)}
    return not (size and word != EOS and (*words, word)[-size:] in grams)


def continuations(model, image, beams, config, suppressed, penalty=None):
    """Return every allowed continuation of the beams as (key, score, words), the best first."""
    found = []
    for words, total in beams:
        for word, value in enumerate(next_words(model, image, words).tolist()):
            if allowed(word, words, config, suppressed):
                lost = (penalty or {}).get(word, 0)
                found.append((total + value - lost, total + value, (*words, word)))
    return sorted(found, key=lambda one: -one[0])


def beam_search(model, inputs, row, config, suppressed=()):
    """Search the captions of one image as `DecodingConfig` describes it; "exact" searches to the end."""
    image, beam_size = pick(inputs, row), config.beam_size // config.search.groups
    beams = [[((), 0.0)] for _ in range(config.search.groups)]
    pools = [[] for _ in range(config.search.groups)]
    full = config.search.stop == "full" or config.beam_size == 1
    for step in range(config.max_length):
        taken = {}
        for group in range(config.search.groups):
            penalty = {word: config.search.diversity * count for word, count in taken.items()}
            candidates = continuations(model, image, beams[group], config, suppressed, penalty)
            for _, total, words in candidates[:beam_size]:
                if words[-1] == EOS and not (full and len(pools[group]) >= beam_size):
                    pools[group].append(Hypothesis(words[:-1], total))
            # The other ones among the 2k best, of which k do not end.
            live = [(words, total) for _, total, words in candidates if words[-1] != EOS][:beam_size]
            for words, _ in live:
                taken[words[-1]] = taken.get(words[-1], 0) + 1
            beams[group] = live
        if full and all(len(pool) >= beam_size for pool in pools):
            break
        if step == config.max_length - 1:
            for pool, live in zip(pools, beams, strict=True):
                cut = [
                    Hypothesis(words, total, False) for words, total in sorted(live, key=lambda one: -one[1])
                ]
                pool += cut[: beam_size - len(pool)] if full else cut
    return merge(pools, config)


def merge(pools, config):
    """Merge the captions of the groups alternately, with as many per group as it has beams."""
    size, penalty = config.beam_size // config.search.groups, config.search.length_penalty
    ranked = [sorted(pool, key=lambda one: -one.score(penalty))[:size] for pool in pools]
    ranks = range(max(len(pool) for pool in ranked))
    turns = [[pool[rank] for pool in ranked if rank < len(pool)] for rank in ranks]
    ordered = [one for turn in turns for one in sorted(turn, key=lambda one: -one.score(penalty))]
    unique = {}
    for one in ordered:
        unique.setdefault(one.tokens, one)
    return list(unique.values())[: config.n_best]


def sample(model, inputs, row, config, seed, suppressed=()):
    """Sample captions of one image word by word, from sorted or unsorted probabilities."""
    image, found, temperature = pick(inputs, row), [], config.sampling.temperature
    for numbers in random_streams([seed], config.n_best, config.max_length)[0].tolist():
        words, total, finished = (), 0.0, False
        for number in numbers:
            table = next_words(model, image, words)
            scaled = [
                (value / temperature if allowed(word, words, config, suppressed) else -math.inf, word)
                for word, value in enumerate(table.tolist())
            ]
            word = draw(scaled, number, config)
            total += table[word].item()
            if word == EOS:
                finished = True
                break
            words = (*words, word)
        found.append(Hypothesis(words, total, finished))
    return found


def draw(scaled, number, config):
    """Invert the distribution function of (log-weight, word) pairs."""
    sampling = config.sampling
    if sampling.top_k or sampling.top_p < 1:
        scaled = sorted(scaled, key=lambda one: -one[0])[: sampling.top_k or None]
    weights = [(math.exp(value), word) for value, word in scaled]
    whole = sum(weight for weight, _ in weights)
    kept, before = [], 0.0
    for weight, word in weights:
        if sampling.top_p == 1 or before < sampling.top_p * whole:
            kept.append((weight, word))
        before += weight
    wanted, before = number * sum(weight for weight, _ in kept), 0.0
    for weight, word in kept:
        before += weight
        if before > wanted:
            return word
    return kept[-1][1]
