"""Images, variants, figures and claims of benchmarks/claims.py for each of its worlds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.claims_rewards import GRAMMAR, REWARDS, aims
from benchmarks.claims_variants import (
    ABLATED,
    ABLATION_CLAIMS,
    ABOVE_BASE,
    ABOVE_WIDE_BASE,
    ABOVE_XE,
    BASE,
    CIDER,
    GLIED,
    RECURRENT,
    SIZES,
    WIDE_BASE,
    Claim,
    Variant,
    compared,
)
from glied.metrics.text_metrics import Metric


@dataclass(frozen=True, kw_only=True)
class World:
    """A set of captioned images with the variants that are trained and compared on it.

    Attributes:
        title: title of the report.
        variants: variants by name; variants with a reward come after "glied".
        seeds: number of seeds of each variant.
        short: variants of the short form.
        claims: claims to decide.
        figures: columns of the tables; a figure that no run has is left out.
        configs: default of the option --configs, which completes the next two names.
        captioner: XE config below configs/; `name` is "glied".
        reward: reward config below configs/; `name` is the reward.
        xe: trainer settings for XE that differ from the config.
        rewarded: trainer settings for rewards that differ from the config.
        metrics: text metrics.
        beam: number of beams of a second set of captions beside the greedy ones; 0 for none.
        scenes: whether the images are scenes of the demo world, with complete annotations.
        needs_judge: whether training with a reward requires a good judge.
        test: folder of the test images' captions.json.
        images: folder of the test images, relative to `test`.
        features: feature store of the test images.
        clip: checkpoint of the CLIP used as reward; empty for none.
        judge: training run of the CLIP used as judge; empty for none.
        runs: folder of the training runs.
        results: folder of the result files below benchmarks/results.
    """

    title: str
    variants: Mapping[str, Variant]
    seeds: int
    short: tuple[str, ...]
    claims: tuple[Claim, ...]
    figures: tuple[str, ...]
    configs: str
    captioner: str
    reward: str
    xe: Mapping[str, Any]
    rewarded: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    beam: int = 0
    scenes: bool = False
    needs_judge: bool = False
    test: str
    images: str
    features: str
    clip: str = ""
    judge: str = ""
    runs: str
    results: str


DEMO = World(
    title="The papers' claims on the demo world",
    variants={
        "base": BASE,
        "base_wide": WIDE_BASE,
        "glied": GLIED,
        **ABLATED,
        **SIZES,
        **RECURRENT,
        "cider": CIDER,
        "clip_s": Variant(name="GLIED, CLIP-S", reward="clip_s"),
        "ref_clip_s": Variant(name="GLIED, RefCLIP-S", reward="ref_clip_s"),
        "cider_clip_s": Variant(name="GLIED, CIDEr + CLIP-S", reward="cider_clip_s"),
        "clip_s_grammar": GRAMMAR,
        **REWARDS,
    },
    seeds=5,
    short=("base", "glied", "cider"),
    claims=(
        ABOVE_BASE,
        ABOVE_WIDE_BASE,
        ABOVE_XE,
        Claim(
            "The CLIP-S reward finds images better than the CIDEr reward",
            *("clip_s", "cider", "judge R@1"),
            10,
        ),
        Claim("CLIP-S alone makes captions repeat themselves", "clip_s", "glied", "repeated bigrams", 5),
        Claim(
            "With grammar they repeat themselves as little as after XE",
            *("clip_s_grammar", "glied", "repeated bigrams"),
            1,
            kind="at most",
        ),
        *aims("together"),
        *aims("uncaptioned"),
        *ABLATION_CLAIMS,
        compared("glied", "ct_small", "GLIED against CT of its size"),
        compared("glied_twice", "ct_small", "GLIED, block applied twice, against CT of its size"),
        compared(
            "glied_feed_forward_small",
            "ct_small",
            "GLIED with feed-forward against CT, at GLIED's parameters",
        ),
        *(
            compared(name, other, f"{SIZES[name].name.removesuffix(', XE')} against {title}")
            for other, title in (("glied", "GLIED"), ("ct", "CT"))
            for name in SIZES
            if name.startswith("glied")
        ),
    ),
    figures=(
        *("parameters, millions", "images/s"),
        *("CIDEr", "BLEU-4", "METEOR"),
        *("CIDEr, beam 3", "BLEU-4, beam 3", "METEOR, beam 3"),
        *("clip CLIP-S", "clip R@1", "clip R@5", "clip R@10"),
        *("judge CLIP-S", "judge R@1", "judge R@5", "judge R@10"),
        *("recall background", "recall object", "recall relation"),
        *("precision objects", "precision colors", "precision relations"),
        *("repeated bigrams", "cut", "p(grammatical)", "length"),
        *("CIDEr val", "CIDEr val at equal CPU", "CPU minutes"),
    ),
    configs="demo",
    captioner="captioner/{name}_{configs}.yaml",
    reward="scst/{name}_{configs}.yaml",
    xe={},
    rewarded={"max_steps": 300},
    metrics=("CIDEr", "BLEU", "METEOR"),
    beam=3,
    scenes=True,
    needs_judge=True,
    test="data/scenes/test",
    images="images",
    features="runs/features/test",
    clip="glied/weights/demo/grammar",
    judge="runs/judge",
    runs="runs/claims",
    results="claims_demo",
)

PHOTOGRAPHS = World(
    title="The papers' claims on photographs",
    variants={
        "base": BASE,
        "base_wide": WIDE_BASE,
        "glied": GLIED,
        **ABLATED,
        "up_down": Variant(
            name="Up-Down with GLIED's parameters, XE",
            model={"architecture": "up_down", "attention_width": 128},
            sized="width",
        ),
        "ct": Variant(
            name="CT with GLIED's parameters, XE",
            model={"architecture": "ct", "width": 160},
            sized="feed_forward",
        ),
        "cider": CIDER,
    },
    seeds=3,
    short=("base_wide", "glied", "ct", "cider"),
    claims=(
        ABOVE_BASE,
        ABOVE_WIDE_BASE,
        ABOVE_XE,
        compared("glied", "up_down", "GLIED against Up-Down of its size"),
        compared("glied", "ct", "GLIED against CT of its size"),
        *ABLATION_CLAIMS,
    ),
    figures=(
        *("parameters, millions", "images/s"),
        *("CIDEr", "BLEU-4", "ROUGE-L"),
        *("CIDEr, beam 5", "BLEU-4, beam 5", "ROUGE-L, beam 5"),
        *("judge CLIP-S", "judge R@1", "judge R@5", "judge R@10"),
        *("repeated bigrams", "cut", "length"),
        *("CIDEr val", "CPU minutes"),
    ),
    configs="photographs",
    captioner="captioner/{configs}.yaml",
    reward="scst/{configs}.yaml",
    # 6 epochs of XE, 3 with the reward, one view of each photograph: a run takes 5 minutes on one core.
    xe={"epochs": 6, "max_steps": 558, "monitoring.validate_every_epochs": 3, "optimizer.ema_decay": 0.99},
    rewarded={
        "epochs": 3,
        "max_steps": 279,
        "monitoring.validate_every_epochs": 1,
        "monitoring.validate_every_steps": "null",
    },
    metrics=("CIDEr", "BLEU", "ROUGE-L"),
    beam=5,
    test="data/flickr8k/test",
    images="../photographs",
    features="runs/photographs/features/test",
    runs="runs/photographs/claims",
    results="claims_photographs",
)

WORLDS = {"demo": DEMO, "photographs": PHOTOGRAPHS}
"""Worlds by their names in the option --world."""
