"""Multi-head attention and AddNorm as in GLIED's equations.

    attention   A_i(Q,K,V) = softmax(Q Wq_i (K Wk_i)^T / sqrt(d_k)) V Wv_i
    multi-head  H(Q,K,V)   = [A_1; ...; A_H] W
    AddNorm     G(y; s)    = LayerNorm(s + Dropout(y))

Keys and values are projected separately from queries, so those that are constant per image are projected only
once. Queries are [B, ..., D]: all words of all captions or beams of an image attend to the same keys, which
are never copied.

Shapes: B images, Q queries per image, S keys, D width, H heads, d = D / H.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class KeyValues:
    """Projected keys and values of an attention.

    Attributes:
        keys: [B, H, S, d].
        values: [B, H, S, d]; zero for an image without keys, so that its result is the zero vector.
        bias: [B, 1, 1, S], 0 for real keys and -inf for padding; None if there is no padding.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    def select(self, rows: Tensor) -> "KeyValues":
        """Return the images `rows` (int64 indices)."""
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return KeyValues(self.keys.index_select(0, rows), self.values.index_select(0, rows), bias)

    def contiguous(self) -> "KeyValues":
        """Return a contiguous copy; otherwise attention would copy the tensors at every step."""
        return KeyValues(self.keys.contiguous(), self.values.contiguous(), self.bias)

    def padded(self, multiple: int) -> "KeyValues":
        """Return a copy padded to a multiple of `multiple` keys; the padding is masked."""
        batch, _, size, _ = self.keys.shape
        more = -size % multiple
        bias = self.keys.new_zeros(batch, 1, 1, size) if self.bias is None else self.bias
        keys, values = (F.pad(part, (0, 0, 0, more)).contiguous() for part in (self.keys, self.values))
        return KeyValues(keys, values, F.pad(bias, (0, more), value=-math.inf))


@dataclass
class WordCache:
    """Keys and values of the previous words, for the self-attention among words.

    The words of all beams of an image are stored together, and the bias lets each beam attend only to the
    words that it descends from. Beams therefore share their common prefix, one matrix product serves all of
    them, and reordering the beams only reorders the bias.

    Attributes:
        keys: [B, H, S, d]; the first `filled` of S are in use.
        values: [B, H, S, d].
        bias: [B, C, S], 0 for words that the beam descends from, including its own, else -inf; None for one
            beam.
        own: [C, C], the bias among the words of one step.
        filled: number of stored words.
        steps: number of words per beam.
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
        """Create a cache for `captions` beams per image, `maximum_length` tokens and the width of `like`."""
        size = captions * maximum_length
        shape = (batch, heads, size, like.shape[-1] // heads)
        own = like.new_full((captions, captions), -math.inf).fill_diagonal_(0.0)
        bias = like.new_full((batch, captions, size), -math.inf) if captions > 1 else None
        return cls(like.new_empty(shape), like.new_empty(shape), bias, own)

    def extend(self, new: KeyValues) -> KeyValues:
        """Append one word per beam, [B, H, C, d]; return all words so far with the bias of the beams."""
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
        """Return the images `rows` (int64 indices), in that order."""
        keys, values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return WordCache(keys, values, bias, self.own, self.filled, self.steps)


@dataclass
class LayerCaches:
    """The word caches of all layers; the layers share one bias, which masks the words of other beams."""

    layers: list[WordCache]

    @classmethod
    def empty(
        cls, layers: int, batch: int, captions: int, maximum_length: int, heads: int, *, like: Tensor
    ) -> "LayerCaches":
        """Create the caches of `layers` layers, each as `WordCache.empty`."""
        return cls(
            [WordCache.empty(batch, captions, maximum_length, heads, like=like) for _ in range(layers)]
        )._sharing()

    def _sharing(self) -> "LayerCaches":
        for layer in self.layers:
            layer.bias = self.layers[0].bias
        return self

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""
        self.layers[0].follow(parents)
        self._sharing()

    def select(self, rows: Tensor) -> "LayerCaches":
        """Return the images `rows` (int64 indices), in that order."""
        return LayerCaches([layer.select(rows) for layer in self.layers])._sharing()


@dataclass(frozen=True)
class Packing:
    """Positions of the real words in padded captions; everything but attention skips the padding.

    Attributes:
        index: [M] int64, positions of the real words in B * C * T.
        shape: (B, C, T).
    """

    index: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, mask: Tensor) -> "Packing":
        """Create the packing of `mask` [B, C, T], True for real words."""
        batch, captions, length = mask.shape
        return cls(mask.flatten().nonzero().squeeze(1), (batch, captions, length))

    def pack(self, padded: Tensor) -> Tensor:
        """Select the real words: [B, C, T, D], with B, C and T in any grouping, -> [M, D]."""
        return padded.reshape(-1, padded.shape[-1]).index_select(0, self.index)

    def unpack(self, packed: Tensor) -> Tensor:
        """Restore the padded shape: [M, D] -> [B, C, T, D], zero in the padding."""
        padded = packed.new_zeros(math.prod(self.shape), packed.shape[-1])
        return padded.index_copy(0, self.index, packed).view(*self.shape, -1)


class MultiHead(nn.Module):
    """Multi-head attention H(Q, K, V) without biases, optionally with a feed-forward network.

    Attributes:
        joint: query, key and value as one layer, after `join`.
    """

    def __init__(self, *, width: int, heads: int, feed_forward: int = 0) -> None:
        """`feed_forward` is the inner width of y + W2 relu(W1 y), which is ours; 0 for none."""
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
        """Split the heads: [B, S, D] -> [B, H, S, d], a view."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, source: Tensor, mask: Tensor | None = None) -> KeyValues:
        """Project `source` [B, S, D] to keys and values; `mask` [B, S] is True where real."""
        return masked(self.split(self.key(source)), self.split(self.value(source)), mask)

    def join(self) -> None:
        """Join query, key and value into one layer for self-attention.

        The weights must not change afterwards.
        """
        weight = torch.cat([layer.weight.detach() for layer in (self.query, self.key, self.value)])
        joint = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        joint.weight = nn.Parameter(weight, requires_grad=False)
        self.joint = joint

    def project_self(self, x: Tensor) -> tuple[Tensor, KeyValues]:
        """Project `x` [B, Q, D] to queries [B, Q, D] and to keys and values, for self-attention."""
        if self.joint is None:
            return self.query(x), self.project(x)
        queries, keys, values = self.joint(x).chunk(3, dim=-1)
        return queries, KeyValues(self.split(keys), self.split(values))

    def word_table(self, words: Tensor) -> Tensor:
        """Project word embeddings [U, D] to concatenated keys and values [U, 2D]."""
        return torch.cat((self.key(words), self.value(words)), dim=-1)

    def look_up(self, table: Tensor, index: Tensor, mask: Tensor) -> KeyValues:
        """Look up the keys and values of words.

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
        """Attend from `query` [B, ..., D], or [M, D] with a `packing`, to `source`; keeps that shape.

        A `trace` receives the weights under `name` as [B, H, ..., S].
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
        """Attend as `forward` does, from queries that are already projected."""
        padded = projected if packing is None else packing.unpack(projected)
        shape = padded.shape
        queries = self.split(padded.reshape(shape[0], -1, shape[-1]))  # [B, H, Q, d]
        if trace is None:
            heads = attend_without_weights(queries, source)
        else:
            heads, weights = attend(queries, source)
            trace[name] = weights.view(*weights.shape[:2], *shape[1:-1], -1)
        joined = heads.transpose(1, 2).flatten(2)  # [B, Q, D]
        return self.finish(joined.view(shape) if packing is None else packing.pack(joined))

    def causal(self, words: Tensor, trace: dict[str, Tensor] | None, name: str, packing: Packing) -> Tensor:
        """Attend from each of the packed `words` [M, D] to itself and to the previous words of its caption.

        A `trace` receives the weights under `name` as [B * C, H, T, T].
        """
        queries, keys, values = (
            self.split(packing.unpack(layer(words)).flatten(0, 1))  # [B * C, H, T, d]
            for layer in (self.query, self.key, self.value)
        )
        if trace is None and not _prefers_plain_products(queries):
            heads = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            length = packing.shape[2]
            future = torch.full((length, length), -math.inf, device=words.device, dtype=queries.dtype).triu(1)
            heads, weights = attend(queries, KeyValues(keys, values, future[None, None]))
            if trace is not None:
                trace[name] = weights
        return self.finish(packing.pack(heads.transpose(1, 2).flatten(2)))

    def finish(self, joined: Tensor) -> Tensor:
        """Multiply the concatenated heads [..., D] by W and apply the feed-forward network, if any."""
        joined = self.output(joined)
        if self.inner is not None and self.outer is not None:
            joined = joined + self.outer(F.relu(self.inner(joined)))
        return joined


class AddNorm(nn.Module):
    """G(y; s) = LayerNorm(s + Dropout(y))."""

    def __init__(self, *, width: int, dropout: float) -> None:
        """`dropout` is the dropout probability."""
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, y: Tensor, s: Tensor) -> Tensor:
        """Return G(y; s); `y` and `s` have the same shape [..., D]."""
        return self.norm(s + self.dropout(y))


class Positions(nn.Module):
    """Sinusoidal positions of "Attention Is All You Need"; the table grows on demand."""

    table: Tensor

    def __init__(self, width: int) -> None:
        """`width` is even."""
        super().__init__()
        self.width = width
        self.register_buffer("table", sinusoids(64, width), persistent=False)

    def forward(self, start: int, end: int) -> Tensor:
        """Return positions `start` to `end`, [end - start, D]."""
        if end > len(self.table):
            self.table = sinusoids(2 * end, self.width).to(self.table)
        return self.table[start:end]


def masked(keys: Tensor, values: Tensor, mask: Tensor | None) -> KeyValues:
    """Attach `mask` [B, S] (True where real) as a bias; an image without real keys gets zero values."""
    if mask is None or bool(mask.all()):
        return KeyValues(keys, values)
    empty = ~mask.any(dim=1, keepdim=True)  # [B, 1]
    bias = torch.zeros(mask.shape, device=keys.device, dtype=keys.dtype)
    bias = bias.masked_fill(~mask & ~empty, -math.inf)  # a softmax over padding alone would be NaN
    return KeyValues(keys, values.masked_fill(empty[:, None, None], 0.0), bias[:, None, None])


def attend(queries: Tensor, source: KeyValues) -> tuple[Tensor, Tensor]:
    """Compute attention with plain products; return the heads [B, H, Q, d] and the weights [B, H, Q, S]."""
    scores = queries / math.sqrt(queries.shape[-1]) @ source.keys.transpose(-1, -2)
    weights = (scores if source.bias is None else scores + source.bias).softmax(dim=-1)
    return weights @ source.values, weights


def attend_without_weights(queries: Tensor, source: KeyValues) -> Tensor:
    """Compute attention without returning the weights, [B, H, Q, d].

    For the few queries of a decoding step the fused CPU kernel takes up to 1.7 times as long as plain
    products in float32, and 2 to 8 times as long in bfloat16.
    """
    if _prefers_plain_products(queries) or (queries.is_cpu and not torch.is_grad_enabled()):
        return attend(queries, source)[0]
    return F.scaled_dot_product_attention(queries, source.keys, source.values, source.bias)


def _prefers_plain_products(queries: Tensor) -> bool:
    """Whether plain products train faster than the fused kernel; in bfloat16 on a CPU they halve the time."""
    return queries.is_cpu and queries.dtype is not torch.float32


def sinusoids(length: int, width: int) -> Tensor:
    """Compute the sinusoidal positions [length, width] of "Attention Is All You Need"."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
