"""CT: the plain Transformer as a captioner (Vaswani et al. 2017; Sharma et al. 2018 caption with it).

    encoder layer   I = G(H(I, I, I), I);  I = G(F(I), I)
    decoder layer   x = G(H(x, X, X), x);  x = G(H_v(x, I, I), x);  x = G(F(x), x)
    p = softmax(W_c x),  F(y) = W2 relu(W1 y),  G(y; s) = LayerNorm(s + Dropout(y)),  X: words so far (causal)

"6 layers" leaves open how they are counted. At D 512, F of 2048, tied embeddings, V = 9,488 and regions of
2048, three encoder and three decoder layers have 28.0M parameters, six of each 50.0M; the paper says 27.5M,
so three is the default. Regions have no positions; with `geometry` their boxes are part of the features.

Shapes: B images, R regions, C captions (or beams) of an image, T words, D width, H heads, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glied.captioner.attention import KeyValues, MultiHead, Packing, Positions, WordCache, Wrap
from glied.captioner.model import REGIONS, CaptionerConfig, CaptioningModel, Memory, Trace
from glied.regions import RegionBatch


@dataclass
class LayerCaches:
    """The words so far in each layer; the layers share one bias, which says what each beam sees."""

    layers: list[WordCache]

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""
        first, *others = self.layers
        first.follow(parents)
        for other in others:
            other.bias = first.bias

    def select(self, rows: Tensor) -> "LayerCaches":
        """Keep the images `rows` (int64 indices), in that order."""
        selected = LayerCaches([layer.select(rows) for layer in self.layers])
        for layer in selected.layers:
            layer.bias = selected.layers[0].bias
        return selected


class FeedForward(nn.Module):
    """G(F(x), x), or x where there is no inner width."""

    def __init__(self, *, width: int, inner: int, dropout: float) -> None:
        """`inner` is the inner width, 0 for none."""
        super().__init__()
        self.inner = nn.Linear(width, inner) if inner else None
        self.outer = nn.Linear(inner, width) if inner else None
        self.wrap = Wrap(width=width, dropout=dropout) if inner else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if self.inner is None or self.outer is None or self.wrap is None:
            return x
        return self.wrap(self.outer(F.relu(self.inner(x))), x)


class EncoderLayer(nn.Module):
    """Regions among themselves."""

    def __init__(self, config: CaptionerConfig) -> None:
        """Of the sizes of `config`."""
        super().__init__()
        self.among = MultiHead(width=config.width, heads=config.heads)
        self.wrap = Wrap(width=config.width, dropout=config.dropout)
        self.feed_forward = feed_forward(config)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """[B, R, D] and the mask [B, R] -> [B, R, D]."""
        attended = self.among(image, self.among.project(image, mask), None, "")
        return self.feed_forward(self.wrap(attended, image))


class DecoderLayer(nn.Module):
    """Words among themselves, then at the regions."""

    def __init__(self, config: CaptionerConfig) -> None:
        """Of the sizes of `config`."""
        super().__init__()
        self.words = MultiHead(width=config.width, heads=config.heads)
        self.words_wrap = Wrap(width=config.width, dropout=config.dropout)
        self.regions = MultiHead(width=config.width, heads=config.heads)
        self.regions_wrap = Wrap(width=config.width, dropout=config.dropout)
        self.feed_forward = feed_forward(config)

    def forward(
        self,
        x: Tensor,
        among: Callable[[MultiHead, Tensor], Tensor],
        source: KeyValues,
        trace: Trace | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """[B, C, D] or packed [M, D] -> the same; `among` lets the words look at themselves."""
        x = self.words_wrap(among(self.words, x), x)
        # Of all layers' weights the last layer's stay in the trace.
        x = self.regions_wrap(self.regions(x, source, trace, REGIONS, packing), x)
        return self.feed_forward(x)


class Transformer(CaptioningModel[LayerCaches]):
    """The plain Transformer over regions."""

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.positions = Positions(config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> Memory:
        """Keys and values of the encoded regions for each decoder layer; attributes are not looked at."""
        image = self._image(regions)
        for layer in self.encoder:
            image = layer(image, regions.mask)
        sources = {
            str(number): cast(DecoderLayer, layer).regions.project(image, regions.mask)
            for number, layer in enumerate(self.decoder)
        }
        return Memory(sources, len(image))

    def logits(
        self, memory: Memory, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Teacher forcing; as in `CaptioningModel.logits`."""
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        real = torch.ones_like(captions, dtype=torch.bool) if mask is None else mask.view_as(captions)
        packing = Packing.of(real)
        x = packing.pack(self._words(captions, 0))  # [M, D]
        for layer, source in zip(self.decoder, memory.sources.values(), strict=True):
            x = layer(x, lambda words, y: words.causal(y, None, "", packing), source, trace, packing)
        logits = self.classifier(x)
        return logits.view(*tokens.shape, -1) if mask is None else logits

    def start(self, batch: int, captions: int, maximum_length: int) -> LayerCaches:
        """An empty cache for `captions` beams of each image, of `maximum_length` tokens, begin included."""
        caches = [
            WordCache.empty(batch, captions, maximum_length, self.config.heads, like=self.embedding.weight)
            for _ in self.decoder
        ]
        for cache in caches:
            cache.bias = caches[0].bias
        return LayerCaches(caches)

    def step(self, memory: Memory, tokens: Tensor, cache: LayerCaches, trace: Trace | None = None) -> Tensor:
        """One word further: the logits [B, C, V] after `tokens` [B, C]; the cache grows in place."""
        x = self._words(tokens[..., None], cache.layers[0].steps).squeeze(2)  # [B, C, D]
        for layer, words, source in zip(self.decoder, cache.layers, memory.sources.values(), strict=True):
            x = layer(x, looking_back(words), source, trace)
        return self.classifier(x)

    def tabulate(self) -> None:
        """Join the attentions among words."""
        for layer in self.decoder:
            cast(DecoderLayer, layer).words.join()

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """Embedding plus position, [..., T] -> [..., T, D]."""
        places = self.positions(start, start + tokens.shape[-1])
        return self.dropout(self._embed(tokens) + places)


def looking_back(cache: WordCache) -> Callable[[MultiHead, Tensor], Tensor]:
    """The attention of a word [B, C, D] to itself and those before it, which are in the cache."""

    def among(words: MultiHead, x: Tensor) -> Tensor:
        queries, new = words.project_self(x)
        return words.look(queries, cache.extend(new), None, "")

    return among


def feed_forward(config: CaptionerConfig) -> FeedForward:
    """The feed-forward network of a layer."""
    return FeedForward(width=config.width, inner=config.feed_forward, dropout=config.dropout)
