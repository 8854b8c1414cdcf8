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

With `stack.blocks` above 1, which is ours, the decoder block, from t~ to c~, is applied that many times: x of
a block is c~ of the one before it. I~ is the same for all blocks. With `stack.region_layers` above 1, also
ours, the line of I~ is applied that many times, each with its own weights.

Details that the equations leave open and that are ours: region features are layer-normalized before they are
projected to I, since detectors differ in scale; word embeddings are multiplied by sqrt(D); dropout is also
applied to x and I; attention and W_c have no biases.

Shapes: B images, R regions, N attributes, C captions (or beams) per image, T words, D width, H heads,
V vocabulary.
"""

from typing import cast

import torch
from torch import Tensor, nn

from glied.captioner.attention import AddNorm, KeyValues, LayerCaches, MultiHead, Packing, Positions
from glied.captioner.model import CaptionerConfig, CaptioningModel, EncoderOutput, Trace
from glied.regions import RegionBatch


class Glied(CaptioningModel[LayerCaches]):
    """The Base or GLIED model.

    Attributes:
        blocks: the suffix of the names of each block's layers, in order; equal where weights are shared.
        tables: in a frozen model, keys and values of every word by name of the attention, [V, 2D].
    """

    tables: dict[str, Tensor] | None = None

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """`feature_size` is the size of the region features; `vocabulary_size` includes special tokens."""
        super().__init__(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
        width = config.width
        self.attentions = nn.ModuleDict(
            {
                name: MultiHead(width=width, heads=config.heads, feed_forward=config.feed_forward)
                for name in attention_names(config)
            }
        )
        self.wraps = nn.ModuleDict(
            {name: AddNorm(width=width, dropout=config.dropout) for name in add_norm_names(config)}
        )
        self.blocks = block_suffixes(config)
        self.positions = Positions(width)
        self._finish()

    def _attention(self, name: str) -> MultiHead:
        return cast(MultiHead, self.attentions[name])

    def _add_norm(self, name: str) -> AddNorm:
        return cast(AddNorm, self.wraps[name])

    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Encode the images, once for all their captions.

        Args:
            regions: features [B, R, F], boxes and mask; padded regions never change a result.
            attributes: [B, N] int64, ids of attribute words.
            attribute_mask: [B, N], True for real attributes; for images without any, attention to the
                attributes returns zero vectors.
            trace: receives the weights of H_vd [B, H, R, R] (and of H_ad [B, H, N, N] without the pivot).
        """
        names = self.attentions.keys()
        sources: dict[str, KeyValues] = {}
        if {"H_v", "H_vl"} & names:
            image = self._image(regions)
            distilled = image
            for layer in region_layers(self.config):
                distilled = self._distill(layer, distilled, regions.mask, trace)
            for kind, source in (("H_v", distilled), ("H_vl", image)):
                for name in self._all(kind):
                    sources[name] = self._attention(name).project(source, regions.mask)
        if {"H_a", "H_ad", "H_al"} & names:
            sources |= self._attribute_sources(attributes, attribute_mask, trace)
        return EncoderOutput(sources, len(attributes))

    def _all(self, kind: str) -> list[str]:
        """Return the names of the attentions of a kind such as "H_v", one per block with its own weights."""
        names = (kind + suffix for suffix in dict.fromkeys(self.blocks))
        return [name for name in names if name in self.attentions]

    def _distill(self, name: str, source: Tensor, mask: Tensor, trace: Trace | None) -> Tensor:
        """Distill a source with self-attention: G(H(S, S, S), S)."""
        attention = self._attention(f"H_{name}")
        attended = attention(source, attention.project(source, mask), trace, f"H_{name}")
        return self._add_norm(name)(attended, source)

    def _attribute_sources(
        self, attributes: Tensor, mask: Tensor, trace: Trace | None
    ) -> dict[str, KeyValues]:
        """Project the attributes to keys and values, each distinct word of the batch at most once."""
        if attributes.shape[1] == 0:
            attributes, mask = attributes.new_zeros(len(attributes), 1), mask.new_zeros(len(mask), 1)
        tables, index = self.tables, attributes
        if tables is None:
            unique, index = torch.unique(attributes, return_inverse=True)
            tables = self.word_tables(unique)
        sources = {name: self._attention(name).look_up(table, index, mask) for name, table in tables.items()}
        if self.config.ablation.no_pivot:
            distilled = self._distill("ad", self._embed(attributes), mask, trace)
            for name in self._all("H_a"):
                sources[name] = self._attention(name).project(distilled, mask)
        return sources

    def word_tables(self, words: Tensor) -> dict[str, Tensor]:
        """Project `words` [U] (ids) to the keys and values [U, 2D] of each attention to the attributes."""
        kinds = ("H_al",) if self.config.ablation.no_pivot else ("H_a", "H_ad", "H_al")
        embedded = self._embed(words)
        return {
            name: self._attention(name).word_table(embedded) for kind in kinds for name in self._all(kind)
        }

    def tabulate(self) -> None:
        """Precompute keys and values of every word as an attribute, for lookups in `encode`; join H_x."""
        for name in self._all("H_x"):
            self._attention(name).join()
        self.tables = self.word_tables(
            torch.arange(self.vocabulary_size, device=self.embedding.weight.device)
        )

    def logits(
        self, encoded: EncoderOutput, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Return the logits of the word after each of `tokens` (teacher forcing).

        Args:
            encoded: encoder output of B images, shared by all captions of an image.
            tokens: [B, C, T] or [B, T] int64, begin token first, padding at the end.
            mask: shape of `tokens`, True for real tokens; None if there is no padding. Padding costs little
                time.
            trace: receives the weights of each attention, [B, H, C, T, S] (of H_x [B * C, H, T, T]); of
                blocks with shared weights, those of the last.

        Returns:
            [*tokens.shape, V], or [M, V] for the M True positions of `mask`, in order.
        """
        captions = tokens if tokens.ndim == 3 else tokens[:, None]
        real = torch.ones_like(captions, dtype=torch.bool) if mask is None else mask.view_as(captions)
        packing = Packing.of(real)
        x = packing.pack(self._words(captions, 0))  # [M, D]
        for block in self.blocks:
            x, name = self._pivot(block, x, encoded, trace, packing), f"H_x{block}"
            x = self._add_norm(f"x{block}")(self._attention(name).causal(x, trace, name, packing), x)
            x = self._combine(block, x, encoded, trace, packing)
        logits = self.classifier(x)
        return logits.view(*tokens.shape, -1) if mask is None else logits

    def start(self, batch: int, captions: int, maximum_length: int) -> LayerCaches:
        """Return an empty cache for `captions` beams per image of `maximum_length` tokens."""
        blocks, heads = len(self.blocks), self.config.heads
        return LayerCaches.empty(blocks, batch, captions, maximum_length, heads, like=self.embedding.weight)

    def step(
        self, encoded: EncoderOutput, tokens: Tensor, cache: LayerCaches, trace: Trace | None = None
    ) -> Tensor:
        """Advance by one word: return the logits [B, C, V] after `tokens` [B, C] and extend the cache."""
        x = self._words(tokens[..., None], cache.layers[0].steps).squeeze(2)  # [B, C, D]
        for block, words in zip(self.blocks, cache.layers, strict=True):
            x, name = self._pivot(block, x, encoded, trace), f"H_x{block}"
            queries, new = self._attention(name).project_self(x)
            attended = self._attention(name).look(queries, words.extend(new), trace, name)
            x = self._combine(block, self._add_norm(f"x{block}")(attended, x), encoded, trace)
        return self.classifier(x)

    def _words(self, tokens: Tensor, start: int) -> Tensor:
        """Compute x, embedding plus position, [..., T] -> [..., T, D]."""
        places = self.positions(start, start + tokens.shape[-1])
        return self.dropout(self._embed(tokens) + places)

    def _pivot(
        self,
        block: str,
        x: Tensor,
        encoded: EncoderOutput,
        trace: Trace | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return t~, or x for models without attribute distilling by pivot."""
        name = f"H_ad{block}"
        if name not in encoded.sources:
            return x
        return self._add_norm(f"ad{block}")(
            self._attention(name)(x, encoded.sources[name], trace, name, packing), x
        )

    def _combine(
        self,
        block: str,
        x: Tensor,
        encoded: EncoderOutput,
        trace: Trace | None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Compute c~ from x~: the global aspect vector (in Base the only vector), then local distilling."""
        for add_norm, kinds in (("v", ("H_v", "H_a")), ("l", ("H_vl", "H_al"))):
            attended = [
                self._attention(name)(x, encoded.sources[name], trace, name, packing)
                for name in (kind + block for kind in kinds)
                if name in encoded.sources
            ]
            if attended:
                x = self._add_norm(add_norm + block)(
                    attended[0] if len(attended) == 1 else attended[0] + attended[1], x
                )
        return x


def block_suffixes(config: CaptionerConfig) -> list[str]:
    """Return the suffix of the names of each block's layers, in order; the last block has none."""
    stack = config.stack
    if stack.shared:
        return [""] * stack.blocks
    return [f"_{number}" for number in range(1, stack.blocks)] + [""]


def region_layers(config: CaptionerConfig) -> list[str]:
    """Return the names of the layers of visual distilling, in order; the last has no number."""
    layers = config.stack.region_layers if config.distills_regions else 0
    return [*(f"vd_{number}" for number in range(1, layers)), "vd"][:layers]


def attention_names(config: CaptionerConfig) -> list[str]:
    """Return the names of a configuration's attentions in the order of the data flow."""
    kinds = _block_attentions(config)
    once = [f"H_{layer}" for layer in region_layers(config)]
    once += ["H_ad"] if config.ablation.no_pivot else []
    suffixes = dict.fromkeys(block_suffixes(config))
    return once + [kind + suffix for suffix in suffixes for kind in kinds]


def _block_attentions(config: CaptionerConfig) -> list[str]:
    """Return the attentions of a decoder block, in the order of the data flow."""
    if config.architecture == "base":
        return ["H_x", "H_v", "H_a"]
    off = config.ablation
    pivot = not (off.no_attribute_distilling or off.no_pivot or off.vision_only)
    present = {
        "H_ad": pivot,
        "H_x": True,
        "H_v": not off.attributes_only,
        "H_a": off.no_pivot,
        "H_vl": not (off.no_local_distilling or off.attributes_only),
        "H_al": not (off.no_local_distilling or off.vision_only),
    }
    return [name for name, is_present in present.items() if is_present]


def add_norm_names(config: CaptionerConfig) -> list[str]:
    """Return the names of a configuration's AddNorms; attentions that are added share one."""
    parts = (name.removeprefix("H_").partition("_") for name in attention_names(config))
    return list(dict.fromkeys(_ADD_NORMS[kind] + line + number for kind, line, number in parts))


_ADD_NORMS = {"vd": "vd", "ad": "ad", "x": "x", "v": "v", "a": "v", "vl": "l", "al": "l"}
