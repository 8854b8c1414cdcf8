"""The matrix products of the captioners at the paper's sizes, as bounds for the decoding engine."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from glied.captioner.architectures import PAPER_SIZES
from glied.captioner.inference import PackedLinear, can_pack

HEADS, REGIONS, FEATURES, ATTRIBUTES, WORDS, STEPS = 8, 36, 2048, 49, 9487, 20


@dataclass(frozen=True, kw_only=True)
class Products:
    """The matrix products of a model: linear layers as (inputs, outputs), and attentions."""

    encoding: list[tuple[int, int]]
    """Layers applied to each region, after the projection of its features."""
    image: list[tuple[int, int]]
    """Layers applied once per image."""
    step: list[tuple[int, int]]
    """Layers applied at each word, without the classifier."""
    cross_attentions: list[int]
    """Numbers of keys of the multi-head cross-attentions at each word."""
    self_attentions: int = 0
    """Number of self-attentions over the previous words at each word."""
    region_attentions: int = 0
    """Number of self-attentions of the regions."""
    additive: int = 0
    """Inner width of an additive attention over the regions at each word; 0 for none."""


def products_of(architecture: str) -> Products:
    """Return the matrix products of `architecture` at the paper's sizes."""
    config = PAPER_SIZES[architecture]
    width, inner, embedded = config.width, config.attention_width, config.embedded
    square, gates = (width, width), 4 * width
    if architecture == "base":
        return Products(
            encoding=[square] * 2,
            image=[],
            step=[square] * 8,
            cross_attentions=[REGIONS, ATTRIBUTES],
            self_attentions=1,
        )
    if architecture == "glied":
        cross_attentions = [REGIONS, ATTRIBUTES] * 2
        return Products(
            encoding=[square] * 8,
            image=[],
            step=[square] * 12,
            cross_attentions=cross_attentions,
            self_attentions=1,
            region_attentions=1,
        )
    if architecture == "ct":
        forward, layers = [(width, config.feed_forward), (config.feed_forward, width)], config.layers
        return Products(
            encoding=([square] * 6 + forward) * layers,
            image=[],
            step=([square] * 6 + forward) * layers,
            cross_attentions=[REGIONS] * layers,
            self_attentions=layers,
            region_attentions=layers,
        )
    if architecture == "lstm":
        return Products(
            encoding=[], image=[(width, gates)], step=[(embedded + width, gates)], cross_attentions=[]
        )
    lstms = [(embedded + 2 * width, gates)]
    image = []
    if architecture == "up_down":
        lstms, image = [*lstms, (3 * width, gates)], [(width, gates)]
    return Products(
        encoding=[(width, inner)],
        image=image,
        step=[(width, inner), *lstms],
        cross_attentions=[],
        additive=inner,
    )


def products(
    architecture: str, batch: int, beams: int, dtype: torch.dtype, *, packed: bool
) -> Callable[[], None]:
    """Return a function that computes all matrix products of encoding and 20 steps on random numbers.

    The first step has one beam. The tensors are on torch's default device.
    """
    model_products, width = products_of(architecture), PAPER_SIZES[architecture].width
    device = torch.get_default_device()

    @functools.cache
    def layer_input(size: int) -> Tensor:
        return torch.randn(batch * max(REGIONS, beams), size, dtype=dtype, device=device)

    def layer(size: int, out: int) -> Callable[[int], Tensor]:
        linear = torch.nn.Linear(size, out, bias=False, dtype=dtype)
        run_layer = PackedLinear(linear) if packed and can_pack(linear.weight) else linear
        return lambda rows: run_layer(layer_input(size)[:rows])

    # Each layer has its own weights, as in the model: shared ones would stay in the processor's cache.
    encoding = [layer(*sizes) for sizes in ((FEATURES, width), *model_products.encoding)]
    image = [layer(*sizes) for sizes in model_products.image]
    at_step = [layer(*sizes) for sizes in (*model_products.step, (width, WORDS + 1))]
    heads = batch * HEADS
    cross_attentions = [
        attention(heads, size, width // HEADS, dtype) for size in model_products.cross_attentions
    ]
    self_attentions = [
        [
            attention(heads, 1 + beams * step, width // HEADS, dtype)
            for _ in range(model_products.self_attentions)
        ]
        for step in range(STEPS)
    ]
    region_attentions = [
        attention(heads, REGIONS, width // HEADS, dtype) for _ in range(model_products.region_attentions)
    ]
    additive = (
        [scoring(batch, beams, width, model_products.additive, dtype)] if model_products.additive else []
    )

    @torch.inference_mode()
    def multiply() -> None:
        for one in encoding:
            one(batch * REGIONS)
        for one in image:
            one(batch)
        for attend in region_attentions:
            attend(REGIONS)
        for step in range(STEPS):
            count = beams if step else 1
            for one in at_step:
                one(batch * count)
            for attend in (*cross_attentions, *self_attentions[step], *additive):
                attend(count)

    return multiply


def scoring(images: int, beams: int, width: int, inner: int, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """Return the products of an additive attention, without its tanh and softmax."""
    hidden = torch.randn(images, beams, REGIONS, inner, dtype=dtype)
    score, values = torch.randn(inner, 1, dtype=dtype), torch.randn(images, REGIONS, width, dtype=dtype)
    return lambda count: (hidden[:, :count] @ score).squeeze(-1) @ values


def attention(pairs: int, keys: int, size: int, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """Return the two products of an attention, without its softmax; `pairs` counts images x heads."""
    q = torch.randn(pairs, REGIONS, size, dtype=dtype)
    k, v = torch.randn(2, pairs, keys, size, dtype=dtype)
    return lambda queries: torch.bmm(torch.bmm(q[:, :queries], k.transpose(1, 2)), v)
