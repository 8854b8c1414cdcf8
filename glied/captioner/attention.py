"""Multi-head attention and its wrap, as GLIED's equations have them.

    attention   A_i(Q,K,V) = softmax(Q Wq_i (K Wk_i)^T / sqrt(d_k)) V Wv_i
    multi-head  H(Q,K,V)   = [A_1; ...; A_H] W
    wrap        G(y; s)    = LayerNorm(s + Dropout(y))

Keys and values are projected apart from the queries, so that what is constant per image is projected once.
Queries are [B, ..., D]: all words of all captions or beams of an image attend to that image's keys together,
which are never copied.

Shapes: B images, Q queries of an image, S things attended to, D width, H heads, d = D / H.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class KeyValues:
    """What an attention looks at, projected once.

    Attributes:
        keys: [B, H, S, d].
        values: [B, H, S, d]; zero for an image with nothing to attend to: its result is the zero vector.
        bias: [B, 1, 1, S], 0 where real and -inf where padded; None when nothing is padded.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    def select(self, rows: Tensor) -> "KeyValues":
        """Keep the images `rows` (int64 indices)."""
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return KeyValues(self.keys.index_select(0, rows), self.values.index_select(0, rows), bias)

    def contiguous(self) -> "KeyValues":
        """The same in one piece, which attention would otherwise make of it at every step."""
        return KeyValues(self.keys.contiguous(), self.values.contiguous(), self.bias)

    def padded(self, multiple: int) -> "KeyValues":
        """A copy with padding, which nothing attends to, up to a multiple of `multiple` things."""
        batch, _, size, _ = self.keys.shape
        more = -size % multiple
        bias = self.keys.new_zeros(batch, 1, 1, size) if self.bias is None else self.bias
        keys, values = (F.pad(part, (0, 0, 0, more)).contiguous() for part in (self.keys, self.values))
        return KeyValues(keys, values, F.pad(bias, (0, more), value=-math.inf))


@dataclass
class WordCache:
    """Keys and values of the words so far, for the attention among words.

    The words of all beams of an image lie together, and each beam sees those that it descends from. So beams
    share their common past, one product serves them all, and when they are reordered only the bias is.

    Attributes:
        keys: [B, H, S, d], the first `filled` of S in use.
        values: [B, H, S, d].
        bias: [B, C, S], 0 where the beam descends from the word or is it, else -inf; None for a single beam.
        own: [C, C], the bias among the words of one step.
        filled: number of words.
        steps: number of words of each beam.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None
    own: Tensor
    filled: int = 0
    steps: int = 0

    @classmethod
    def empty(
        cls, batch: int, captions: int, maximum_length: int, heads: int, *, like: Tensor
    ) -> "WordCache":
        """For `captions` beams of each image, of `maximum_length` tokens, of the width of `like` [..., D]."""
        size = captions * maximum_length
        shape = (batch, heads, size, like.shape[-1] // heads)
        own = like.new_full((captions, captions), -math.inf).fill_diagonal_(0.0)
        bias = like.new_full((batch, captions, size), -math.inf) if captions > 1 else None
        return cls(like.new_empty(shape), like.new_empty(shape), bias, own)

    def extend(self, new: KeyValues) -> KeyValues:
        """Append a word per beam, [B, H, C, d]; returns all words so far, as the beams see them."""
        count = new.keys.shape[2]
        start, end = self.filled, self.filled + count
        self.keys[:, :, start:end], self.values[:, :, start:end] = new.keys, new.values
        self.filled, self.steps = end, self.steps + 1
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        if self.bias is None:
            return KeyValues(keys, values)
        self.bias[:, :count, start:end] = self.own[:count, :count]
        return KeyValues(keys, values, self.bias[:, None, :count, :end])

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""
        if self.bias is not None:
            batch, count, size = self.bias.shape
            rows = parents + torch.arange(batch, device=parents.device)[:, None] * count
            self.bias = self.bias.view(-1, size).index_select(0, rows.flatten()).view(batch, -1, size)

    def select(self, rows: Tensor) -> "WordCache":
        """Keep the images `rows` (int64 indices), in that order."""
        keys, values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return WordCache(keys, values, bias, self.own, self.filled, self.steps)


@dataclass(frozen=True)
class Packing:
    """Where the real words of padded captions stand, so that only attention itself works on padding.

    Attributes:
        index: [M] int64, places of the real words in B * C * T.
        shape: (B, C, T).
    """

    index: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, mask: Tensor) -> "Packing":
        """The packing of `mask` [B, C, T], True where real."""
        batch, captions, length = mask.shape
        return cls(mask.flatten().nonzero().squeeze(1), (batch, captions, length))

    def pack(self, padded: Tensor) -> Tensor:
        """[B, C, T, ...] in any grouping of B, C and T -> [M, D]."""
        return padded.reshape(-1, padded.shape[-1]).index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """[M, D] -> [B, C, T, D], zero in the padding."""
        padded = packed.new_zeros(math.prod(self.shape), packed.shape[-1])
        return padded.index_copy(0, self.index, packed).view(*self.shape, -1)


class MultiHead(nn.Module):
    """H(Q, K, V), without biases as in the equations; a feed-forward network may follow (ours).

    Attributes:
        joint: after `join`, query, key and value as one layer.
    """

    def __init__(self, *, width: int, heads: int, feed_forward: int = 0) -> None:
        """`feed_forward` is the inner width of y + W2 relu(W1 y), or 0 for none."""
        super().__init__()
        self.joint: nn.Linear | None = None
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.inner = nn.Linear(width, feed_forward, bias=False) if feed_forward else None
        self.outer = nn.Linear(feed_forward, width, bias=False) if feed_forward else None

    def split(self, projected: Tensor) -> Tensor:
        """[B, S, D] -> [B, H, S, d], a view."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, source: Tensor, mask: Tensor | None = None) -> KeyValues:
        """Keys and values of `source` [B, S, D]; `mask` [B, S] is True where real."""
        return masked(self.split(self.key(source)), self.split(self.value(source)), mask)

    def join(self) -> None:
        """Make one layer of query, key and value, for what attends to itself; the weights are final."""
        weight = torch.cat([layer.weight.detach() for layer in (self.query, self.key, self.value)])
        joint = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        joint.weight = nn.Parameter(weight, requires_grad=False)
        self.joint = joint

    def project_self(self, x: Tensor) -> tuple[Tensor, KeyValues]:
        """Queries [B, Q, D], keys and values of the same things `x` [B, Q, D]."""
        if self.joint is None:
            return self.query(x), self.project(x)
        queries, keys, values = self.joint(x).chunk(3, dim=-1)
        return queries, KeyValues(self.split(keys), self.split(values))

    def word_table(self, words: Tensor) -> Tensor:
        """Keys and values of word embeddings [U, D], side by side: [U, 2D]."""
        return torch.cat((self.key(words), self.value(words)), dim=-1)

    def look_up(self, table: Tensor, index: Tensor, mask: Tensor) -> KeyValues:
        """Keys and values of words.

        Args:
            table: [U, 2D], from `word_table`.
            index: [B, S] int64, rows of the table.
            mask: [B, S], True where real.
        """
        keys, values = F.embedding(index, table).chunk(2, dim=-1)  # [B, S, D] each
        return masked(self.split(keys), self.split(values), mask)

    def forward(
        self,
        query: Tensor,
        source: KeyValues,
        trace: dict[str, Tensor] | None,
        name: str,
        packing: Packing | None = None,
    ) -> Tensor:
        """Attend from `query` [B, ..., D], or [M, D] with a `packing`, to `source`; returns its shape.

        With a `trace`, the weights are left in it under `name` as [B, H, ..., S].
        """
        return self.look(self.query(query), source, trace, name, packing)

    def look(
        self,
        projected: Tensor,
        source: KeyValues,
        trace: dict[str, Tensor] | None,
        name: str,
        packing: Packing | None = None,
    ) -> Tensor:
        """`forward` from projected queries on."""
        padded = projected if packing is None else packing.unpack(projected)
        shape = padded.shape
        queries = self.split(padded.reshape(shape[0], -1, shape[-1]))  # [B, H, Q, d]
        if trace is None:
            heads = attend_unseen(queries, source)
        else:
            heads, weights = attend(queries, source)
            trace[name] = weights.view(*weights.shape[:2], *shape[1:-1], -1)
        joined = heads.transpose(1, 2).flatten(2)  # [B, Q, D]
        return self.finish(joined.view(shape) if packing is None else packing.pack(joined))

    def causal(self, words: Tensor, trace: dict[str, Tensor] | None, name: str, packing: Packing) -> Tensor:
        """Attend from each of the packed `words` [M, D] to itself and those before it in its caption.

        With a `trace`, the weights are left in it as [B * C, H, T, T].
        """
        queries, keys, values = (
            self.split(packing.unpack(layer(words)).flatten(0, 1))  # [B * C, H, T, d]
            for layer in (self.query, self.key, self.value)
        )
        if trace is None and not _plainly(queries):
            heads = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            length = packing.shape[2]
            future = torch.full((length, length), -math.inf, device=words.device, dtype=queries.dtype).triu(1)
            heads, weights = attend(queries, KeyValues(keys, values, future[None, None]))
            if trace is not None:
                trace[name] = weights
        return self.finish(packing.pack(heads.transpose(1, 2).flatten(2)))

    def finish(self, joined: Tensor) -> Tensor:
        """Multiply the joined heads [..., D] by W and apply the feed-forward network if any."""
        joined = self.output(joined)
        if self.inner is not None and self.outer is not None:
            joined = joined + self.outer(F.relu(self.inner(joined)))
        return joined


class Wrap(nn.Module):
    """G(y; s) = LayerNorm(s + Dropout(y))."""

    def __init__(self, *, width: int, dropout: float) -> None:
        """`dropout` is the probability of a zero."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, y: Tensor, s: Tensor) -> Tensor:
        """`y` and `s` have the same shape [..., D]."""
        return self.norm(s + self.dropout(y))


class Positions(nn.Module):
    """Sinusoidal positions of "Attention Is All You Need", as many as are asked for."""

    table: Tensor

    def __init__(self, width: int) -> None:
        """`width` is even."""
        super().__init__()
        self.width = width
        self.register_buffer("table", sinusoids(64, width), persistent=False)

    def forward(self, start: int, end: int) -> Tensor:
        """Places `start` to `end`, [end - start, D]."""
        if end > len(self.table):
            self.table = sinusoids(2 * end, self.width).to(self.table)
        return self.table[start:end]


def masked(keys: Tensor, values: Tensor, mask: Tensor | None) -> KeyValues:
    """Attach `mask` [B, S] (True where real) as a bias; an image without anything real gets zero values."""
    if mask is None or bool(mask.all()):
        return KeyValues(keys, values)
    empty = ~mask.any(dim=1, keepdim=True)  # [B, 1]
    bias = torch.zeros(mask.shape, device=keys.device, dtype=keys.dtype)
    bias = bias.masked_fill(~mask & ~empty, -math.inf)  # softmax over nothing would be NaN
    return KeyValues(keys, values.masked_fill(empty[:, None, None], 0.0), bias[:, None, None])


def attend(queries: Tensor, source: KeyValues) -> tuple[Tensor, Tensor]:
    """Plain attention that also returns its weights: ([B, H, Q, d], [B, H, Q, S])."""
    scores = queries / math.sqrt(queries.shape[-1]) @ source.keys.transpose(-1, -2)
    weights = (scores if source.bias is None else scores + source.bias).softmax(dim=-1)
    return weights @ source.values, weights


def attend_unseen(queries: Tensor, source: KeyValues) -> Tensor:
    """Attention without its weights, [B, H, Q, d].

    For the few queries of a decoding step the CPU's fused kernel takes up to 1.7 times as long as plain
    products in float32, and 2 to 8 times in bfloat16.
    """
    if _plainly(queries) or (queries.is_cpu and not torch.is_grad_enabled()):
        return attend(queries, source)[0]
    return F.scaled_dot_product_attention(queries, source.keys, source.values, source.bias)


def _plainly(queries: Tensor) -> bool:
    """Whether plain products train faster than the fused kernel: in bfloat16 on a CPU a step takes half."""
    return queries.is_cpu and queries.dtype is not torch.float32


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions [length, width] of "Attention Is All You Need"."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
