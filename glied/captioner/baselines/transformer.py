"""CT: the plain Transformer as a captioner (Vaswani et al. 2017; used for captioning by Sharma et al. 2018).

    encoder layer   I = G(H(I, I, I), I);  I = G(F(I), I)
    decoder layer   x = G(H(x, X, X), x);  x = G(H_v(x, I, I), x);  x = G(F(x), x)
    p = softmax(W_c x),  F(y) = W2 relu(W1 y),  G(y; s) = LayerNorm(s + Dropout(y)),  X: words so far (causal)

The paper's "6 layers" does not say how layers are counted. With D 512, F of 2048, tied embeddings, V = 9,488
and 2048 region features, three encoder and three decoder layers have 28.0M parameters, six of each 50.0M; the
paper reports 27.5M, so the default is three. Regions have no positions; with `geometry` their boxes are part
of the features.

Shapes: B images, R regions, C captions (or beams) per image, T words, D width, H heads, V vocabulary.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glied.captioner.attention import (
    AddNorm,
    KeyValues,
    LayerCaches,
    MultiHead,
    Packing,
    Positions,
    WordCache,
)
from glied.captioner.model import REGIONS, CaptionerConfig, CaptioningModel, EncoderOutput, Trace
from glied.regions import RegionBatch


class FeedForward(nn.Module):
    """The feed-forward block G(F(x), x), or the identity if the inner width is 0."""

    def __init__(self, *, width: int, inner: int, dropout: float) -> None:
        """`inner` is the inner width, 0 for none."""
        super().__init__()
        self.inner = nn.Linear(width, inner) if inner else None
        self.outer = nn.Linear(inner, width) if inner else None
        self.wrap = AddNorm(width=width, dropout=dropout) if inner else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [..., D] -> [..., D]."""
        if self.inner is None or self.outer is None or self.wrap is None:
            return x
        return self.wrap(self.outer(F.relu(self.inner(x))), x)


class EncoderLayer(nn.Module):
    """An encoder layer: self-attention among regions and a feed-forward block."""

    def __init__(self, config: CaptionerConfig) -> None:
        """Create the layer with the sizes of `config`."""
        super().__init__()
        self.among = MultiHead(width=config.width, heads=config.heads)
        self.wrap = AddNorm(width=config.width, dropout=config.dropout)
        self.feed_forward = feed_forward(config)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Encode `image` [B, R, D] with `mask` [B, R] (True where real) -> [B, R, D]."""
        attended = self.among(image, self.among.project(image, mask), None, "")
        return self.feed_forward(self.wrap(attended, image))


class DecoderLayer(nn.Module):
    """A decoder layer: self-attention among words, attention to the regions, and a feed-forward block."""

    def __init__(self, config: CaptionerConfig) -> None:
        """Create the layer with the sizes of `config`."""
        super().__init__()
        self.words = MultiHead(width=config.width, heads=config.heads)
        self.words_wrap = AddNorm(width=config.width, dropout=config.dropout)
        self.regions = MultiHead(width=config.width, heads=config.heads)
        self.regions_wrap = AddNorm(width=config.width, dropout=config.dropout)
        self.feed_forward = feed_forward(config)

    def forward(
        self,
        x: Tensor,
        self_attend: Callable[[MultiHead, Tensor], Tensor],
        source: KeyValues,
        trace: Trace | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Decode [B, C, D] or packed [M, D] -> the same shape.

        `self_attend` applies the attention among words.
        """
        x = self.words_wrap(self_attend(self.words, x), x)
        # All layers write to the same entry of the trace, so it holds the weights of the last layer.
        x = self.regions_wrap(self.regions(x, source, trace, REGIONS, packing), x)
        return self.feed_forward(x)


class Transformer(CaptioningModel[LayerCaches]):
    """The plain Transformer captioner over regions."""

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """As `CaptioningModel`."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.positions = Positions(config.width)
        self._finish()

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Encode the regions and project them to keys and values of each decoder layer.

        Ignores attributes.
        """
        image = self._image(regions)
        for layer in self.encoder:
            image = layer(image, regions.mask)
        sources = {
            str(number): cast(DecoderLayer, layer).regions.project(image, regions.mask)
            for number, layer in enumerate(self.decoder)
        }
        return EncoderOutput(sources, len(image))

    def logits(
        self, encoded: EncoderOutput, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Score captions with teacher forcing; as in `CaptioningModel.logits`."""
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        real = torch.ones_like(captions, dtype=torch.bool) if mask is None else mask.view_as(captions)
        packing = Packing.of(real)
        x = packing.pack(self._words(captions, 0))  # [M, D]
        for layer, source in zip(self.decoder, encoded.sources.values(), strict=True):
            x = layer(x, lambda words, y: words.causal(y, None, "", packing), source, trace, packing)
        logits = self.classifier(x)
        return logits.view(*tokens.shape, -1) if mask is None else logits

    def start(self, batch: int, captions: int, maximum_length: int) -> LayerCaches:
        """Return an empty cache for `captions` beams per image of `maximum_length` tokens."""
        return LayerCaches.empty(
            len(self.decoder),
            batch,
            captions,
            maximum_length,
            self.config.heads,
            like=self.embedding.weight,
        )

    def step(
        self, encoded: EncoderOutput, tokens: Tensor, cache: LayerCaches, trace: Trace | None = None
    ) -> Tensor:
        """Advance by one word: return the logits [B, C, V] after `tokens` [B, C] and extend the cache."""
        x = self._words(tokens[..., None], cache.layers[0].steps).squeeze(2)  # [B, C, D]
        for layer, words, source in zip(self.decoder, cache.layers, encoded.sources.values(), strict=True):
            x = layer(x, cached_self_attention(words), source, trace)
        return self.classifier(x)

    def tabulate(self) -> None:
        """Join the projections of the attentions among words."""
        for layer in self.decoder:
            cast(DecoderLayer, layer).words.join()

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """Compute embedding plus position, [..., T] -> [..., T, D]."""
        places = self.positions(start, start + tokens.shape[-1])
        return self.dropout(self._embed(tokens) + places)


def cached_self_attention(cache: WordCache) -> Callable[[MultiHead, Tensor], Tensor]:
    """Return the attention of a word [B, C, D] to itself and to the previous words in the cache."""

    def self_attend(words: MultiHead, x: Tensor) -> Tensor:
        queries, new = words.project_self(x)
        return words.look(queries, cache.extend(new), None, "")

    return self_attend


def feed_forward(config: CaptionerConfig) -> FeedForward:
    """Create the feed-forward block of a layer."""
    return FeedForward(width=config.width, inner=config.feed_forward, dropout=config.dropout)
