"""Base and GLIED, the captioning models of arXiv 2002.12585, with the paper's six ablations.

    Base        x~  = G(H_x(x, X, X), x)                       X: words so far (causal)
                c~  = G(H_v(x~, I, I) + H_a(x~, A, A), x~)
                p   = softmax(W_c c~)

    GLIED       I~  = G(H_vd(I, I, I), I)                      global visual distilling, once per image
                t~  = G(H_ad(x, A, A), x)                      global attribute distilling: x the pivot
                x~  = G(H_x(t~, T~, T~), t~)                   T~: the t~ of all words so far (causal)
                c_g = G(H_v(x~, I~, I~), x~)                   global aspect vector
                c~  = G(H_vl(c_g, I, I) + H_al(c_g, A, A), c_g)  local cross-modal distilling
                p   = softmax(W_c c~)

Ours, where the equations are silent: region features are layer-normalized before they are projected to I
(detectors differ in scale); word embeddings are multiplied by sqrt(D); dropout also on x and I; no biases in
attention and W_c.

Shapes: B images, R regions, N attributes, C captions (or beams) of an image, T words, D width, H heads,
V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from glied.captioner.attention import KeyValues, MultiHead, Packing, Wrap
from glied.errors import UsageError
from glied.vision.regions import RegionBatch

Trace = dict[str, Tensor]
"""Attention weights by the name of the attention, e.g. "H_v": [B, H, C, T, R]."""


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Architecture of a captioner; the defaults are the paper's GLIED."""

    architecture: Literal["base", "glied"] = "glied"
    """The baseline of the paper or GLIED."""
    width: int = 512
    """D, the width of the model."""
    heads: int = 8
    """Number of attention heads; divides the width."""
    dropout: float = 0.1
    """Probability of dropout."""
    feed_forward: int = 0
    """Inner width of a feed-forward network after each attention; 0 for none, as in the equations."""
    tied: bool = False
    """Use the word embeddings as W_c."""
    geometry: bool = False
    """Append normalized box geometry (x1/W, y1/H, x2/W, y2/H, share of the area) to the region features."""
    no_visual_distilling: bool = False
    """Ablation: I~ = I."""
    no_attribute_distilling: bool = False
    """Ablation: t~ = x."""
    no_pivot: bool = False
    """Ablation: t~ = x; A~ = G(H_ad(A, A, A), A); c_g = G(H_v(x~, I~, I~) + H_a(x~, A~, A~), x~)."""
    no_local_distilling: bool = False
    """Ablation: c~ = c_g."""
    vision_only: bool = False
    """Ablation: t~ = x, and no H_al."""
    attributes_only: bool = False
    """Ablation: c_g = x~, and no H_vl."""

    def __post_init__(self) -> None:
        """Refuse values and combinations that describe no model."""
        if self.heads < 1 or self.width < 2 or self.width % self.heads or self.width % 2:
            raise UsageError(f"width: {self.width} must be even and a multiple of heads ({self.heads})")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout: {self.dropout} is not in [0, 1)")
        if self.feed_forward < 0:
            raise UsageError(f"feed_forward: {self.feed_forward} is negative")
        if self.architecture == "base" and self.ablations:
            raise UsageError(f"{self.ablations[0]}: ablations belong to architecture glied")
        for one, other in _CONFLICTS:
            if getattr(self, one) and getattr(self, other):
                raise UsageError(f"{one} and {other} exclude each other")

    @property
    def ablations(self) -> list[str]:
        """Names of the ablations that are switched on."""
        return [name for name in ABLATIONS if getattr(self, name)]


ABLATIONS = (
    "no_visual_distilling",
    "no_attribute_distilling",
    "no_pivot",
    "no_local_distilling",
    "vision_only",
    "attributes_only",
)
_CONFLICTS = (
    ("vision_only", "attributes_only"),
    ("vision_only", "no_pivot"),
    ("vision_only", "no_attribute_distilling"),
    ("attributes_only", "no_pivot"),
    ("attributes_only", "no_visual_distilling"),
    ("attributes_only", "no_local_distilling"),
    ("no_attribute_distilling", "no_pivot"),
)


@dataclass(frozen=True)
class Memory:
    """What is constant per image, by the name of the attention that looks at it."""

    sources: dict[str, KeyValues]
    batch_size: int

    def select(self, rows: Tensor) -> "Memory":
        """Keep the images `rows` (int64 indices), in that order."""
        sources = {name: source.select(rows) for name, source in self.sources.items()}
        return Memory(sources, len(rows))

    def contiguous(self) -> "Memory":
        """The same, each tensor in one piece."""
        sources = {name: source.contiguous() for name, source in self.sources.items()}
        return Memory(sources, self.batch_size)


@dataclass
class Cache:
    """Keys and values of H_x for the words so far.

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

    def select(self, rows: Tensor) -> "Cache":
        """Keep the images `rows` (int64 indices), in that order."""
        keys, values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        bias = None if self.bias is None else self.bias.index_select(0, rows)
        return Cache(keys, values, bias, self.own, self.filled, self.steps)


class CaptioningModel(nn.Module):
    """Base or GLIED: regions and attributes in, word distributions out.

    Attributes:
        frozen: whether this is the copy for inference that `glied.captioner.inference.freeze` makes.
        tables: then, keys and values of every word, by the name of the attention: [V, 2D].
    """

    positions: Tensor
    frozen: bool = False
    tables: dict[str, Tensor] | None = None

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """`feature_size` is that of the region features, `vocabulary_size` includes the special tokens."""
        super().__init__()
        self.config, self.feature_size, self.vocabulary_size = config, feature_size, vocabulary_size
        width = config.width
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.region_norm = nn.LayerNorm(feature_size)
        self.region_projection = nn.Linear(feature_size + 5 * config.geometry, width)
        self.dropout = nn.Dropout(config.dropout)
        self.attentions = nn.ModuleDict(
            {
                name: MultiHead(width=width, heads=config.heads, feed_forward=config.feed_forward)
                for name in attention_names(config)
            }
        )
        self.wraps = nn.ModuleDict(
            {name: Wrap(width=width, dropout=config.dropout) for name in wrap_names(config)}
        )
        self.classifier = nn.Linear(width, vocabulary_size, bias=False)
        self.register_buffer("positions", sinusoids(64, width), persistent=False)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)  # unit variance after sqrt(D)
        nn.init.normal_(self.classifier.weight, std=self.config.width**-0.5)
        if self.config.tied:
            self.classifier.weight = self.embedding.weight

    def _attention(self, name: str) -> MultiHead:
        return cast(MultiHead, self.attentions[name])

    def _wrap(self, name: str) -> Wrap:
        return cast(Wrap, self.wraps[name])

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> Memory:
        """Project what is constant per image, once.

        Args:
            regions: features [B, R, F], boxes and mask; padded regions never change a result.
            attributes: [B, N] int64, ids of attribute words.
            attribute_mask: [B, N], True where real; an image without attributes gets a zero vector from them.
            trace: takes the weights of H_vd [B, H, R, R] (and of H_ad [B, H, N, N] without the pivot).
        """
        names = self.attentions.keys()
        sources: dict[str, KeyValues] = {}
        if {"H_v", "H_vl"} & names:
            image = self._image(regions)
            distilled = self._distill("vd", image, regions.mask, trace) if "H_vd" in names else image
            if "H_v" in names:
                sources["H_v"] = self._attention("H_v").project(distilled, regions.mask)
            if "H_vl" in names:
                sources["H_vl"] = self._attention("H_vl").project(image, regions.mask)
        if {"H_a", "H_ad", "H_al"} & names:
            sources |= self._attribute_sources(attributes, attribute_mask, trace)
        return Memory(sources, len(attributes))

    def _image(self, regions: RegionBatch) -> Tensor:
        """I [B, R, D]; padding is zeroed first, for 0 * NaN is NaN."""
        padding = ~regions.mask[..., None]
        image = self.region_norm(regions.features.to(self.embedding.weight).masked_fill(padding, 0.0))
        if self.config.geometry:
            boxes = geometry(regions.boxes, regions.sizes).to(image).masked_fill(padding, 0.0)
            image = torch.cat((image, boxes), dim=-1)
        return self.dropout(self.region_projection(image))

    def _distill(self, name: str, source: Tensor, mask: Tensor, trace: Trace | None) -> Tensor:
        """G(H(S, S, S), S): things of one kind distilled among themselves."""
        attention = self._attention(f"H_{name}")
        attended = attention(source, attention.project(source, mask), trace, f"H_{name}")
        return self._wrap(name)(attended, source)

    def _attribute_sources(
        self, attributes: Tensor, mask: Tensor, trace: Trace | None
    ) -> dict[str, KeyValues]:
        """Keys and values of the attributes; each distinct word of the batch is projected at most once."""
        if attributes.shape[1] == 0:
            attributes, mask = attributes.new_zeros(len(attributes), 1), mask.new_zeros(len(mask), 1)
        tables, index = self.tables, attributes
        if tables is None:
            unique, index = torch.unique(attributes, return_inverse=True)
            tables = self.word_tables(unique)
        sources = {name: self._attention(name).look_up(table, index, mask) for name, table in tables.items()}
        if self.config.no_pivot:
            distilled = self._distill("ad", self._embed(attributes), mask, trace)
            sources["H_a"] = self._attention("H_a").project(distilled, mask)
        return sources

    def word_tables(self, words: Tensor) -> dict[str, Tensor]:
        """Keys and values of `words` [U] (ids) for each attention to the attributes themselves: [U, 2D]."""
        names = ("H_al",) if self.config.no_pivot else ("H_a", "H_ad", "H_al")
        embedded = self._embed(words)
        return {name: self._attention(name).word_table(embedded) for name in names if name in self.attentions}

    def forward(
        self,
        regions: RegionBatch,
        attributes: Tensor,
        attribute_mask: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """`encode` and `logits` in one call, as data-parallel training needs it."""
        return self.logits(self.encode(regions, attributes, attribute_mask), tokens, mask)

    def logits(
        self, memory: Memory, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Teacher forcing: the logits of the word after each of `tokens`.

        Args:
            memory: of B images, shared by all captions of an image.
            tokens: [B, C, T] or [B, T] int64, begin token first, padding at the end.
            mask: like `tokens`, True where real; None for everywhere. Padding costs next to nothing.
            trace: takes the weights of each attention, [B, H, C, T, S] (of H_x [B * C, H, T, T]).

        Returns:
            [*tokens.shape, V], or [M, V] for the M real places of `mask`, in order.
        """
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        real = torch.ones_like(captions, dtype=torch.bool) if mask is None else mask.view_as(captions)
        packing = Packing.of(real)
        x = packing.pack(self._words(captions, 0))  # [M, D]
        x = self._pivot(x, memory, trace, packing)
        x = self._wrap("x")(self._attention("H_x").causal(x, trace, "H_x", packing), x)
        logits = self.classifier(self._combine(x, memory, trace, packing))
        return logits.view(*tokens.shape, -1) if mask is None else logits

    def start(self, batch: int, captions: int, maximum_length: int) -> Cache:
        """An empty cache for `captions` beams of each image, of `maximum_length` tokens, begin included."""
        config, weight = self.config, self.embedding.weight
        size = captions * maximum_length
        shape = (batch, config.heads, size, config.width // config.heads)
        own = weight.new_full((captions, captions), -math.inf).fill_diagonal_(0.0)
        bias = weight.new_full((batch, captions, size), -math.inf) if captions > 1 else None
        return Cache(weight.new_empty(shape), weight.new_empty(shape), bias, own)

    def step(self, memory: Memory, tokens: Tensor, cache: Cache, trace: Trace | None = None) -> Tensor:
        """One word further: the logits [B, C, V] after `tokens` [B, C]; the cache grows in place."""
        x = self._words(tokens[..., None], cache.steps).squeeze(2)  # [B, C, D]
        x = self._pivot(x, memory, trace)
        attention = self._attention("H_x")
        past = cache.extend(attention.project(x))
        x = self._wrap("x")(attention(x, past, trace, "H_x"), x)
        return self.classifier(self._combine(x, memory, trace))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Word embeddings of ids, [...] -> [..., D]."""
        return self.embedding(tokens) * math.sqrt(self.config.width)

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """x: embedding plus position, [..., T] -> [..., T, D]."""
        end = start + tokens.shape[-1]
        if end > len(self.positions):
            self.positions = sinusoids(2 * end, self.config.width).to(self.positions)
        return self.dropout(self._embed(tokens) + self.positions[start:end])

    def _pivot(
        self, x: Tensor, memory: Memory, trace: Trace | None, packing: Packing | None = None
    ) -> Tensor:
        """t~, or x where the word is no pivot."""
        if "H_ad" not in memory.sources:
            return x
        return self._wrap("ad")(self._attention("H_ad")(x, memory.sources["H_ad"], trace, "H_ad", packing), x)

    def _combine(
        self, x: Tensor, memory: Memory, trace: Trace | None, packing: Packing | None = None
    ) -> Tensor:
        """c~ from x~: the global aspect vector (or Base's only vector), then what is distilled locally."""
        for wrap, names in (("v", ("H_v", "H_a")), ("l", ("H_vl", "H_al"))):
            found = [
                self._attention(name)(x, memory.sources[name], trace, name, packing)
                for name in names
                if name in memory.sources
            ]
            if found:
                x = self._wrap(wrap)(found[0] if len(found) == 1 else found[0] + found[1], x)
        return x


def attention_names(config: CaptionerConfig) -> list[str]:
    """The attentions of a configuration, in the order of the data."""
    if config.architecture == "base":
        return ["H_x", "H_v", "H_a"]
    pivot = not (config.no_attribute_distilling or config.no_pivot or config.vision_only)
    present = {
        "H_vd": not (config.no_visual_distilling or config.attributes_only),
        "H_ad": pivot or config.no_pivot,
        "H_x": True,
        "H_v": not config.attributes_only,
        "H_a": config.no_pivot,
        "H_vl": not (config.no_local_distilling or config.attributes_only),
        "H_al": not (config.no_local_distilling or config.vision_only),
    }
    return [name for name, here in present.items() if here]


def wrap_names(config: CaptionerConfig) -> list[str]:
    """The wraps of a configuration: "l" is that of H_vl + H_al, the others have their attention's name."""
    names = attention_names(config)
    wraps = [name.removeprefix("H_") for name in names if name in ("H_vd", "H_ad", "H_x", "H_v")]
    return wraps + ["l"] * bool({"H_vl", "H_al"} & set(names))


def geometry(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, R, 4] (xyxy, pixels) and image sizes [B, 2] (width, height) -> [B, R, 5], all in 0 to 1."""
    relative = boxes / sizes.repeat(1, 2)[:, None]
    area = (relative[..., 2:] - relative[..., :2]).prod(dim=-1, keepdim=True)
    return torch.cat((relative, area), dim=-1)


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions [length, width] of "Attention Is All You Need"."""
    angles = torch.arange(length)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
