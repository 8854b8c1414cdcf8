"""Variants and claims of benchmarks/claims.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train a captioner: with cross-entropy (XE), or with a reward starting from XE.

    Attributes:
        name: name of its row in the table.
        model: model settings (XE) that differ from GLIED's config.
        sized: model setting that is chosen so that the model has as many parameters as `size_of`; or empty.
        size_of: the variant whose number of parameters that is.
        reward: reward for training that starts from the GLIED trained with XE and the same seed; or empty.
        settings: settings of that training that differ from the reward's config, by dotted key.
    """

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    sized: str = ""
    size_of: str = "glied"
    reward: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A claim about the difference between two variants in one figure.

    Attributes:
        says: text of the claim.
        better: variant that the claim is about.
        other: variant that it is compared with.
        figure: name of the figure.
        bound: the difference that the claim is about.
        kind: "above": the difference is at least `bound`, and above 0 beyond chance. "at least", "at most":
            beyond chance, the difference is not below or not above `bound`. "compared": there is no claim;
            the verdict says which variant is higher beyond chance.
    """

    says: str
    better: str
    other: str
    figure: str
    bound: float = 0
    kind: Literal["above", "at least", "at most", "compared"] = "above"


ABOVE_BASE = Claim("GLIED is above Base", "glied", "base", "CIDEr", 2)
ABOVE_WIDE_BASE = Claim("GLIED is above a Base of its size", "glied", "base_wide", "CIDEr", 2)
ABOVE_XE = Claim("The CIDEr reward is above XE", "cider", "glied", "CIDEr", 5)
"""The claims that both worlds share."""

BASE = Variant(name="Base, XE", model={"architecture": "base"})
WIDE_BASE = Variant(name="Base with GLIED's parameters, XE", model={"architecture": "base"}, sized="width")
GLIED = Variant(name="GLIED, XE")
CIDER = Variant(name="GLIED, CIDEr", reward="cider")


ABLATIONS = {
    "no_visual_distilling": " without visual distilling",
    "no_attribute_distilling": " without attribute distilling",
    "no_pivot": " without pivot",
    "no_local_distilling": " without local distilling",
    "vision_only": ", vision only",
    "attributes_only": ", attributes only",
}
"""What each ablation switch does to GLIED."""
ABLATED = {
    setting: Variant(name=f"GLIED{name}, XE", model={f"ablation.{setting}": True})
    for setting, name in ABLATIONS.items()
}
"""GLIED with each of them."""


def compared(better: str, other: str, says: str) -> Claim:
    """Compare the CIDEr of two variants."""
    return Claim(says, better, other, "CIDEr", kind="compared")


ABLATION_CLAIMS = tuple(
    compared("glied", name, f"GLIED against GLIED{left}") for name, left in ABLATIONS.items()
)
"""What GLIED loses by each ablation."""


def deeper(name: str, *, sized: str = "", size_of: str = "glied", **model: Any) -> Variant:
    """Return a GLIED with other settings than the paper's; underscores in their names stand for dots."""
    settings = {key.replace("__", "."): value for key, value in model.items()}
    return Variant(name=f"{name}, XE", model=settings, sized=sized, size_of=size_of)


CT = {"architecture": "ct", "feed_forward": 1024, "tied": True}
"""The plain Transformer of configs/captioner/ct_demo.yaml."""
SIZES = {
    "ct": Variant(name="CT, XE", model=CT),
    "ct_small": Variant(
        name="CT with GLIED's parameters, XE", model={**CT, "width": 160}, sized="feed_forward"
    ),
    "glied_twice": deeper("GLIED, block applied twice", stack__blocks=2, stack__shared=True),
    "glied_deep": deeper("GLIED with CT's parameters by depth", stack__blocks=4),
    "glied_wide": deeper("GLIED with CT's parameters by width", sized="width", size_of="ct"),
    "glied_feed_forward": deeper("GLIED with feed-forward", feed_forward=1024),
    "glied_feed_forward_small": deeper(
        "GLIED with feed-forward at GLIED's parameters", sized="width", feed_forward=512
    ),
    "glied_feed_forward_large": deeper(
        "GLIED with feed-forward at CT's parameters", sized="feed_forward", size_of="ct", feed_forward=1024
    ),
    "glied_feed_forward_twice": deeper(
        "GLIED with feed-forward, block applied twice",
        stack__blocks=2,
        stack__shared=True,
        feed_forward=1024,
    ),
    "glied_region_layers": deeper("GLIED, 3 layers among regions", stack__region_layers=3),
    "glied_region_feed_forward": deeper(
        "GLIED, 3 layers among regions, feed-forward, at CT's parameters",
        sized="feed_forward",
        size_of="ct",
        stack__region_layers=3,
        feed_forward=1024,
    ),
}
"""One factor at a time: depth with the same weights, depth, width, feed-forward, attention among regions;
then feed-forward at equal sizes, with depth and with attention among regions."""
RECURRENT = {
    "lstm": Variant(name="LSTM, XE", model={"architecture": "lstm", "embedding_width": 150}),
    "soft_att": Variant(
        name="SoftAtt, XE", model={"architecture": "soft_att", "embedding_width": 150, "attention_width": 256}
    ),
    "up_down": Variant(
        name="Up-Down, XE", model={"architecture": "up_down", "width": 500, "attention_width": 256}
    ),
}
"""The recurrent models of Table 2 with the sizes of their configs."""
