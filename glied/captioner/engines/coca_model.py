"""The text side of open_clip's CoCa (Yu et al. 2022, arXiv 2205.01917) a token at a time, for our search.

    words   x = x + A(LN(x), LN(X), LN(X));  x = x + F(LN(x))     X: tokens so far (causal)
    image   x = x + A(LN(x), LN(I), LN(I));  x = x + F(LN(x))     I: tokens of the vision tower's pooler
    text tower      x = E(token) + position; words, L times
    decoder         words, then image, M times
    p = softmax(W LN(x))

open_clip recomputes every prefix in full; here keys and values are cached, those of the image once per image
and those of the tokens so far. The weights are open_clip's own tensors, not copies.

Shapes: B images, S image tokens, C captions (or beams) of an image, D width, V vocabulary.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from glied.captioner.attention import KeyValues, MultiHead, WordCache
from glied.captioner.baselines.transformer import LayerCaches, cached_self_attention
from glied.captioner.model import EncoderOutput, StepModel, Trace
from glied.errors import UsageError

START, END = 49406, 49407
"""Start and end of text in CLIP's vocabulary."""
PADDING = 0
"""open_clip pads with this token, which is also "!". Its training leaves padding out of the captioning loss,
so no model has learned when to say it."""
_BLOCK = "ResidualAttentionBlock"


class Block(nn.Module):
    """One residual attention block of open_clip."""

    def __init__(self, block: Any) -> None:
        """Take over the weights of open_clip's `ResidualAttentionBlock`."""
        super().__init__()
        self.attention = _multi_head(block.attn)
        self.norm, self.attention_scale = block.ln_1, block.ls_1
        self.source_norm = getattr(block, "ln_1_kv", None)
        self.feed_forward_norm, self.feed_forward, self.feed_forward_scale = block.ln_2, block.mlp, block.ls_2

    def project(self, source: Tensor) -> KeyValues:
        """Keys and values of the image tokens [B, S, D]."""
        assert self.source_norm is not None, "only blocks that attend to the image have this layer"
        return self.attention.project(self.source_norm(source))

    def words(self, x: Tensor, cache: WordCache) -> Tensor:
        """Let new tokens [B, C, D] attend to themselves and to those before them."""
        return self._rest(x, cached_self_attention(cache)(self.attention, self.norm(x)))

    def image(self, x: Tensor, source: KeyValues) -> Tensor:
        """Let tokens [B, C, D] attend to the image."""
        return self._rest(x, self.attention(self.norm(x), source, None, ""))

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention_scale(attended)
        return x + self.feed_forward_scale(self.feed_forward(self.feed_forward_norm(x)))


class CocaDecoder(StepModel[LayerCaches]):
    """Tokens so far and an image in, the distribution of the next token out."""

    begin, end = START, END
    never = (PADDING, START)

    def __init__(self, coca: Any) -> None:
        """Take over the text tower and the decoder of an `open_clip.CoCa`.

        Raises:
            UsageError: its text tower is not open_clip's own, or not causal.
        """
        super().__init__()
        text, decoder = coca.text, coca.text_decoder
        _check(text, decoder)
        self.embedding = text.token_embedding
        self.positions = nn.Parameter(text.positional_embedding.detach(), requires_grad=False)
        self.context_length = int(min(text.context_length, decoder.context_length))
        self.text = nn.ModuleList(Block(block) for block in text.transformer.resblocks)
        self.text_norm = text.ln_final if text.cls_emb is None else nn.Identity()
        self.words = nn.ModuleList(Block(block) for block in decoder.resblocks)
        self.image = nn.ModuleList(Block(block) for block in decoder.cross_attn)
        self.norm = decoder.ln_final
        self.classifier = _linear(decoder.text_projection.detach().T, None)

    def encode(self, tokens: Tensor) -> EncoderOutput:
        """Project the tokens of the vision tower [B, S, D] for each layer that attends to them, once."""
        sources = {str(n): cast(Block, layer).project(tokens) for n, layer in enumerate(self.image)}
        return EncoderOutput(sources, len(tokens))

    def check_length(self, length: int) -> None:
        """Refuse captions of more tokens than the model has positions for.

        Raises:
            UsageError: there are fewer positions.
        """
        if length > self.context_length:
            raise UsageError(
                f"decoding.max_length: {length}, but this CoCa reads {self.context_length} tokens at most"
            )

    def start(self, batch: int, captions: int, maximum_length: int) -> LayerCaches:
        """As `StepModel.start`.

        Raises:
            UsageError: the model has no positions for so many tokens.
        """
        self.check_length(maximum_length)
        caches = [
            WordCache.empty(
                batch, captions, maximum_length, cast(Block, layer).attention.heads, like=self.positions
            )
            for layer in (*self.text, *self.words)
        ]
        for cache in caches:
            cache.bias = caches[0].bias
        return LayerCaches(caches)

    def step(
        self, encoded: EncoderOutput, tokens: Tensor, cache: LayerCaches, trace: Trace | None = None
    ) -> Tensor:
        """One token further: the logits [B, C, V] after `tokens` [B, C]; the cache grows in place."""
        x = self.embedding(tokens) + self.positions[cache.layers[0].steps]  # [B, C, D]
        caches = iter(cache.layers)
        for layer in self.text:
            x = cast(Block, layer).words(x, next(caches))
        x = self.text_norm(x)
        for words, image, source in zip(self.words, self.image, encoded.sources.values(), strict=True):
            x = cast(Block, image).image(cast(Block, words).words(x, next(caches)), source)
        return self.classifier(self.norm(x))


def _check(text: Any, decoder: Any) -> None:
    """Refuse text towers that cannot be run a token at a time."""
    if not hasattr(text, "token_embedding"):
        raise UsageError("this CoCa's text tower is a Hugging Face model; only open_clip's own can be used")
    if text.attn_mask is None:
        raise UsageError("this CoCa's text tower looks at later tokens, so it cannot write captions")
    blocks = (*text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn)
    if odd := {type(block).__name__ for block in blocks} - {_BLOCK}:
        raise UsageError(f"this CoCa is made of {sorted(odd)[0]}; only open_clip's {_BLOCK} is known here")


def _multi_head(attention: nn.MultiheadAttention) -> MultiHead:
    """torch's attention as ours; its query, key and value weights are one tensor [3D, D]."""
    with torch.device("meta"):  # the weights come next
        found = MultiHead(width=attention.embed_dim, heads=attention.num_heads)
    weights = attention.in_proj_weight.detach().chunk(3)
    biases = attention.in_proj_bias.detach().chunk(3)
    found.query, found.key, found.value = map(_linear, weights, biases)
    found.output = _linear(attention.out_proj.weight.detach(), attention.out_proj.bias.detach())
    return found


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of the given tensors, [out, in] and [out]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
