"""The interface of the captioning models, and the types of the captioner layer.

`encode` turns images into an `EncoderOutput` once. `logits` scores whole captions (teacher forcing); `start`
and `step` advance by one word with a `Cache`. Both give the same logits. `glied.captioner.glied` implements
Base and GLIED, `glied.captioner.baselines` the models that the paper compares with, and `build_model` in
`glied.captioner.architectures` creates the model that a config names.

The other types: `KeyValues` and `WordCache` (attention), `DecodingConfig` (config), `DecodeInputs` (decode),
`Hypothesis` (search), `Caption` (captioner), `Explanation` (explain) and `Familiarity` (familiarity).

Shapes: B images, R regions, N attributes, C captions (or beams) per image, T words, D width, E width of the
word embeddings, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from glied.captioner.attention import KeyValues
from glied.config_checks import check_least, check_shares
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.text.vocabulary import BOS, EOS, PAD, UNK

Trace = dict[str, Tensor]
"""Attention weights by name of the attention, e.g. "H_v": [B, H, C, T, R]."""
REGIONS = "H_v"
"""The name of the attention from words to regions in every model."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """The paper's six ablations of GLIED; symbols as in `glied.captioner.glied`."""

    no_visual_distilling: bool = False
    """I~ = I."""
    no_attribute_distilling: bool = False
    """t~ = x."""
    no_pivot: bool = False
    """t~ = x; A~ = G(H_ad(A, A, A), A); c_g = G(H_v(x~, I~, I~) + H_a(x~, A~, A~), x~)."""
    no_local_distilling: bool = False
    """c~ = c_g."""
    vision_only: bool = False
    """t~ = x, and no H_al."""
    attributes_only: bool = False
    """c_g = x~, and no H_vl."""

    def __post_init__(self) -> None:
        """Reject combinations that exclude each other."""
        for one, other in _CONFLICTS:
            if getattr(self, one) and getattr(self, other):
                raise UsageError(f"{one} and {other} exclude each other")

    @property
    def chosen(self) -> list[str]:
        """The ablations that are switched on."""
        return [name for name in ABLATIONS if getattr(self, name)]


ABLATIONS = tuple(one.name for one in fields(AblationConfig))
_CONFLICTS = (
    ("vision_only", "attributes_only"),
    ("vision_only", "no_pivot"),
    ("vision_only", "no_attribute_distilling"),
    ("attributes_only", "no_pivot"),
    ("attributes_only", "no_visual_distilling"),
    ("attributes_only", "no_local_distilling"),
    ("no_attribute_distilling", "no_pivot"),
)


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """How often the parts of Base and GLIED are applied; in the equations, once each."""

    blocks: int = 1
    """How many times a decoder block is applied."""
    shared: bool = False
    """All blocks have the same weights, so that more of them add no parameters."""
    region_layers: int = 1
    """Number of layers of visual distilling, the attention among regions; each has its own weights."""

    def __post_init__(self) -> None:
        """Reject invalid values."""
        check_least(self, 1, "blocks", "region_layers")


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """Architecture of a captioner; the defaults are the paper's GLIED."""

    RENAMED: ClassVar[Mapping[str, str]] = {name: f"ablation.{name}" for name in ABLATIONS}

    architecture: Literal["base", "glied", "lstm", "soft_att", "up_down", "ct"] = "glied"
    """The paper's Base or GLIED, or one of the models it compares with: LSTM, SoftAtt, Up-Down, CT."""
    width: int = 512
    """D, the width of the model."""
    heads: int = 8
    """Number of attention heads; must divide the width. For base, glied and ct."""
    dropout: float = 0.1
    """Probability of dropout."""
    feed_forward: int = 0
    """Inner width of a feed-forward network after each attention (in ct: each layer); 0 for none, as in the
    equations. For base, glied and ct."""
    stack: StackConfig = field(default_factory=StackConfig)
    """More than one decoder block (for base and glied) or layer of visual distilling (for glied)."""
    tied: bool = False
    """Use the word embeddings as W_c."""
    geometry: bool = False
    """Append normalized box geometry (x1/W, y1/H, x2/W, y2/H, share of the area) to the region features."""
    embedding_width: int = 0
    """Width of the word embeddings; 0 uses the width of the model. For lstm, soft_att and up_down."""
    attention_width: int = 512
    """Inner width of the additive attention. For soft_att and up_down."""
    layers: int = 3
    """Number of encoder layers, and of decoder layers. For ct."""
    ablation: AblationConfig = field(default_factory=AblationConfig)
    """What is left out. For glied."""

    def __post_init__(self) -> None:
        """Reject invalid values and combinations."""
        self._check_owners()
        check_least(self, 1, "width", "heads", "attention_width", "layers")
        if self.stack.region_layers > 1 and not self.distills_regions:
            raise UsageError("stack.region_layers: this model has no visual distilling")
        check_least(self, 0, "feed_forward", "embedding_width")
        if self.architecture in _WITH_HEADS and (self.width % self.heads or self.width % 2):
            raise UsageError(f"width: {self.width} must be even and a multiple of heads ({self.heads})")
        check_shares(self, "dropout")
        if self.tied and self.embedded != self.width:
            raise UsageError(f"tied: embedding_width ({self.embedded}) must equal width ({self.width})")

    def _check_owners(self) -> None:
        """Reject settings of other architectures."""
        defaults = {one.name: one.default for one in fields(self)}
        owned = {name: owners for name, owners in _OWNERS.items() if getattr(self, name) != defaults[name]}
        owned |= {f"ablation.{name}": ("glied",) for name in self.ablation.chosen}
        owned |= {"stack.blocks": _WITH_BLOCKS} if self.stack.blocks > 1 else {}
        owned |= {"stack.region_layers": ("glied",)} if self.stack.region_layers > 1 else {}
        for name, owners in owned.items():
            if self.architecture not in owners:
                raise UsageError(
                    f"{name}: belongs to architecture {', '.join(owners)}, not {self.architecture}"
                )

    @property
    def embedded(self) -> int:
        """E, the width of the word embeddings."""
        return self.embedding_width or self.width

    @property
    def distills_regions(self) -> bool:
        """Whether the model has visual distilling."""
        off = self.ablation
        return self.architecture == "glied" and not (off.no_visual_distilling or off.attributes_only)

    @property
    def reads_attributes(self) -> bool:
        """Whether the captions depend on the attributes."""
        return self.architecture in ("base", "glied") and not self.ablation.vision_only


_WITH_HEADS = ("base", "glied", "ct")
_WITH_BLOCKS = ("base", "glied")
_OWNERS: dict[str, tuple[str, ...]] = {
    "heads": _WITH_HEADS,
    "feed_forward": _WITH_HEADS,
    "embedding_width": ("lstm", "soft_att", "up_down"),
    "attention_width": ("soft_att", "up_down"),
    "layers": ("ct",),
}
"""The architectures that a setting belongs to; the others reject any value but the default."""


@dataclass(frozen=True)
class EncoderOutput:
    """The encoded images, which stay constant while their captions are scored or generated.

    Attributes:
        sources: keys and values by the name of the attention that reads them.
        batch_size: B.
        vector: [B, 1, G], added by recurrent models to their gates at each word; None for other models.
    """

    sources: dict[str, KeyValues]
    batch_size: int
    vector: Tensor | None = None

    def select(self, rows: Tensor) -> "EncoderOutput":
        """Return the images `rows` (int64 indices), in that order."""
        sources = {name: source.select(rows) for name, source in self.sources.items()}
        vector = None if self.vector is None else self.vector.index_select(0, rows)
        return EncoderOutput(sources, len(rows), vector)

    def contiguous(self) -> "EncoderOutput":
        """Return a copy whose sources are contiguous."""
        sources = {name: source.contiguous() for name, source in self.sources.items()}
        return EncoderOutput(sources, self.batch_size, self.vector)

    def padded(self, multiple: int) -> "EncoderOutput":
        """Return a copy in which the length of each source is padded to a multiple of `multiple`."""
        sources = {name: source.padded(multiple) for name, source in self.sources.items()}
        return EncoderOutput(sources, self.batch_size, None if self.vector is None else self.vector.clone())

    def tensors(self) -> list[Tensor]:
        """Return all tensors in a fixed order."""
        parts = chain.from_iterable(vars(source).values() for source in self.sources.values())
        return [part for part in (*parts, self.vector) if part is not None]


class Cache(Protocol):
    """The state that a model keeps of the previous words, for all beams of B images."""

    def follow(self, parents: Tensor) -> None:
        """Make beam `c` of image `b` the continuation of beam `parents[b, c]`."""

    def select(self, rows: Tensor) -> "Cache":
        """Return the images `rows` (int64 indices), in that order."""


C = TypeVar("C", bound=Cache)


class StepModel(nn.Module, ABC, Generic[C]):
    """What a search needs of a model: the distribution of the next token of every beam.

    Attributes:
        frozen: whether this is an inference copy made by `glied.captioner.inference.freeze`.
        begin: id of the token that every caption begins with.
        end: id of the token that ends a caption.
        never: ids of the tokens that no caption contains.
    """

    frozen: bool = False
    begin: int = BOS
    end: int = EOS
    never: tuple[int, ...] = (PAD, BOS, UNK)
    embedding: nn.Embedding

    @abstractmethod
    def start(self, batch: int, captions: int, maximum_length: int) -> C:
        """Return an empty cache for `captions` beams per image of `maximum_length` tokens."""

    @abstractmethod
    def step(self, encoded: EncoderOutput, tokens: Tensor, cache: C, trace: Trace | None = None) -> Tensor:
        """Advance by one word: return the logits [B, C, V] after `tokens` [B, C] and update the cache."""

    def tabulate(self) -> None:
        """Precompute what depends on the weights alone; the weights must not change afterwards."""


class CaptioningModel(StepModel[C]):
    """Base class of models that turn regions and attributes into word distributions.

    A subclass creates its layers between `__init__` and `_finish`.
    """

    classifier: nn.Linear

    def __init__(self, config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> None:
        """`feature_size` is the size of the region features; `vocabulary_size` includes special tokens."""
        super().__init__()
        self.config, self.feature_size, self.vocabulary_size = config, feature_size, vocabulary_size
        self.embedding = nn.Embedding(vocabulary_size, config.embedded)
        self.region_norm = nn.LayerNorm(feature_size)
        self.region_projection = nn.Linear(feature_size + 5 * config.geometry, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def _finish(self) -> None:
        """Add W_c and initialize the weights of all layers."""
        config = self.config
        self.classifier = nn.Linear(config.width, self.vocabulary_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=config.embedded**-0.5)  # unit variance after sqrt(E)
        nn.init.normal_(self.classifier.weight, std=config.width**-0.5)
        if config.tied:
            self.classifier.weight = self.embedding.weight

    @abstractmethod
    def encode(
        self, regions: RegionBatch, attributes: Tensor, attribute_mask: Tensor, trace: Trace | None = None
    ) -> EncoderOutput:
        """Encode the images, once for all their captions.

        Args:
            regions: features [B, R, F], boxes and mask; padded regions never change a result.
            attributes: [B, N] int64, ids of attribute words.
            attribute_mask: [B, N], True for real attributes, False for padding.
            trace: receives the weights of attentions that depend on the image alone.
        """

    @abstractmethod
    def logits(
        self, encoded: EncoderOutput, tokens: Tensor, mask: Tensor | None = None, trace: Trace | None = None
    ) -> Tensor:
        """Return the logits of the word after each of `tokens` (teacher forcing).

        Args:
            encoded: encoder output of B images, shared by all captions of an image.
            tokens: [B, C, T] or [B, T] int64, begin token first, padding at the end.
            mask: shape of `tokens`, True for real tokens; None if there is no padding.
            trace: receives the weights of each attention, [B, H, C, T, S].

        Returns:
            [*tokens.shape, V], or [M, V] for the M True positions of `mask`, in order.
        """

    def forward(
        self,
        regions: RegionBatch,
        attributes: Tensor,
        attribute_mask: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run `encode` and `logits` in one call, which data-parallel training requires."""
        return self.logits(self.encode(regions, attributes, attribute_mask), tokens, mask)

    def _image(self, regions: RegionBatch) -> Tensor:
        """Return I [B, R, D]. Padding is set to zero first, because 0 * NaN is NaN."""
        features, boxes = regions.features.to(self.embedding.weight), regions.boxes
        if not regions.mask.all():
            padding = ~regions.mask[..., None]
            features, boxes = features.masked_fill(padding, 0.0), boxes.masked_fill(padding, 0.0)
        image = self.region_norm(features)
        if self.config.geometry:
            boxes = geometry(boxes, regions.sizes).to(image)
            image = torch.cat((image, boxes), dim=-1)
        return self.dropout(self.region_projection(image))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Embed word ids, [...] -> [..., E]."""
        return self.embedding(tokens) * math.sqrt(self.config.embedded)


def geometry(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Normalize boxes [B, R, 4] (xyxy, pixels) by image sizes [B, 2] (width, height) -> [B, R, 5], 0 to 1."""
    relative = boxes / sizes.repeat(1, 2)[:, None]
    area = (relative[..., 2:] - relative[..., :2]).prod(dim=-1, keepdim=True)
    return torch.cat((relative, area), dim=-1)
