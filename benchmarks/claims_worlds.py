"""What benchmarks/claims.py trains, measures and claims in each of its worlds. Plain Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glied.metrics.text_metrics import Metric


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train a captioner: under cross-entropy (XE), or after that with a reward.

    Attributes:
        name: row of the table.
        model: settings of the model under XE that differ from those of GLIED's config.
        sized: setting of the model that is chosen so that it has as many parameters as GLIED.
        reward: the reward it is trained with, from GLIED under XE of the same seed.
    """

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    sized: str = ""
    reward: str = ""


@dataclass(frozen=True)
class Claim:
    """One variant's figure against another's.

    Attributes:
        says: the claim.
        better: variant of which it is claimed.
        other: variant that it is compared with.
        figure: which of the world's figures.
        least: how much higher it must be; or with `within`, how much higher it may be.
        beyond_spread: it must also be higher by more than the seeds of either variant differ.
        within: the claim is that the difference is small.
        compared: nothing is claimed; the verdict says which is higher by more than the seeds differ.
    """

    says: str
    better: str
    other: str
    figure: str
    least: float = 0
    beyond_spread: bool = False
    within: bool = False
    compared: bool = False


@dataclass(frozen=True, kw_only=True)
class World:
    """Images with captions, and what is compared on them.

    Attributes:
        title: of the report.
        variants: by the names that cells and options have; a reward comes after "glied".
        short: variants of the short form.
        claims: what gets a verdict.
        figures: columns of the table; one that no cell has is left out.
        configs: default of the option that completes the next two.
        captioner: config under XE below configs/; `name` is "glied".
        reward: config of a reward below configs/; `name` is that of the reward.
        xe: settings of each training under XE that differ from its config's.
        rewarded: the same for trainings with a reward.
        metrics: text metrics.
        beam: number of beams of a second set of captions, beside the greedy ones; 0 for none.
        scenes: the images are scenes, of which all that is there is known.
        needs_judge: rewards are not trained without a judge that is fit.
        test: folder of the test images' captions.json.
        images: folder of the test images, from `test`.
        features: feature store of the test images.
        clip: checkpoint of the CLIP that rewards; empty for none.
        judge: training run of the CLIP that judges; empty for none.
        runs: folder of the runs.
        results: folder of the cells, below benchmarks/results.
    """

    title: str
    variants: Mapping[str, Variant]
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


ABOVE_BASE = Claim("GLIED is above Base", "glied", "base", "CIDEr", 2, beyond_spread=True)
ABOVE_WIDE_BASE = Claim(
    "GLIED is above a Base of its size", "glied", "base_wide", "CIDEr", 2, beyond_spread=True
)
ABOVE_XE = Claim("The CIDEr reward is above XE", "cider", "glied", "CIDEr", 5)
"""Claims of both worlds, with the same bounds."""

BASE = Variant(name="Base, XE", model={"architecture": "base"})
WIDE_BASE = Variant(name="Base with GLIED's parameters, XE", model={"architecture": "base"}, sized="width")
GLIED = Variant(name="GLIED, XE")
CIDER = Variant(name="GLIED, CIDEr", reward="cider")


def ablation(setting: str, name: str) -> Variant:
    """GLIED without one of its parts."""
    return Variant(name=f"GLIED{name}, XE", model={setting: True})


DEMO = World(
    title="The papers' claims on the demo world",
    variants={
        "base": BASE,
        "base_wide": WIDE_BASE,
        "glied": GLIED,
        "no_visual_distilling": ablation("no_visual_distilling", " without visual distilling"),
        "no_attribute_distilling": ablation("no_attribute_distilling", " without attribute distilling"),
        "no_pivot": ablation("no_pivot", " without pivot"),
        "no_local_distilling": ablation("no_local_distilling", " without local distilling"),
        "vision_only": ablation("vision_only", ", vision only"),
        "attributes_only": ablation("attributes_only", ", attributes only"),
        "cider": CIDER,
        "clip_s": Variant(name="GLIED, CLIP-S", reward="clip_s"),
        "ref_clip_s": Variant(name="GLIED, RefCLIP-S", reward="ref_clip_s"),
        "cider_clip_s": Variant(name="GLIED, CIDEr + CLIP-S", reward="cider_clip_s"),
        "clip_s_grammar": Variant(name="GLIED, CLIP-S + grammar", reward="clip_s_grammar"),
    },
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
            within=True,
        ),
    ),
    figures=(
        "parameters, millions",
        *("CIDEr", "BLEU-4", "METEOR"),
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
    xe={"epochs": 8, "validate_every_epochs": 1},  # 1,000 steps, at most 17 minutes on one core
    rewarded={"max_steps": 300},  # at most 12 minutes
    metrics=("CIDEr", "BLEU", "METEOR"),
    scenes=True,
    needs_judge=True,
    test="data/scenes/test",
    images="images",
    features="runs/features/test",
    clip="glied/weights/demo/grammar",
    judge="runs/judge",
    runs="runs/claims",
    results="claims",
)

PHOTOGRAPHS = World(
    title="The papers' claims on photographs",
    variants={
        "base": BASE,
        "base_wide": WIDE_BASE,
        "glied": GLIED,
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
    short=("base_wide", "glied", "ct", "cider"),
    claims=(
        ABOVE_BASE,
        ABOVE_WIDE_BASE,
        ABOVE_XE,
        Claim("GLIED against Up-Down of its size", "glied", "up_down", "CIDEr", compared=True),
        Claim("GLIED against CT of its size", "glied", "ct", "CIDEr", compared=True),
    ),
    figures=(
        "parameters, millions",
        *("CIDEr", "BLEU-4", "ROUGE-L"),
        *("CIDEr, beam 5", "BLEU-4, beam 5", "ROUGE-L, beam 5"),
        *("judge CLIP-S", "judge R@1", "judge R@5", "judge R@10"),
        *("repeated bigrams", "cut", "length"),
        *("CIDEr val", "CPU minutes"),
    ),
    configs="photographs",
    captioner="captioner/{configs}.yaml",
    reward="scst/{configs}.yaml",
    # 6 epochs, then 3, of one view of each photograph: 18 cells in 95 minutes on one core.
    xe={"epochs": 6, "max_steps": 558, "validate_every_epochs": 3, "ema_decay": 0.99},
    rewarded={"epochs": 3, "max_steps": 279, "validate_every_epochs": 1, "validate_every_steps": "null"},
    metrics=("CIDEr", "BLEU", "ROUGE-L"),
    beam=5,
    test="data/flickr8k/test",
    images="../photographs",
    features="runs/photographs/features/test",
    runs="runs/photographs/claims",
    results="claims_photographs",
)

WORLDS = {"demo": DEMO, "photographs": PHOTOGRAPHS}
"""By the names that the option --world has."""
