"""Variants of the reward CLIP-S + grammar on the demo world, which differ in one thing each.

benchmarks/claims.py trains each of them from the same GLIED (XE), with the config
configs/scst/clip_s_grammar_demo.yaml and the `settings` of the variant. Those whose CLIP does not ship need
it first. The commands are run in the root of the repository; costs are estimates for one core (AMD EPYC).

Scenes of the CLIP, 15 minutes, and a CLIP that knows hard negatives, 20 minutes:

    .venv/bin/python jobs/make_scenes.py --out data/scenes_clip/train --split train --seed 1 --count 40000
    .venv/bin/python jobs/make_scenes.py --out data/scenes_clip/val --split val --seed 1 --count 1000
    .venv/bin/python jobs/train_clip.py --config configs/clip/hard_negatives_demo.yaml

Its grammar head, 13 minutes, and the vectors of its images, a few minutes:

    .venv/bin/python jobs/finetune_grammar.py --config configs/grammar/hard_negatives_demo.yaml
    .venv/bin/python jobs/extract_regions.py --config configs/extract/clip_demo.yaml \\
        --regions.clip.checkpoint runs/clip_hard/best --output.uri runs/clip_features_hard/train
    .venv/bin/python jobs/extract_regions.py --config configs/extract/clip_demo.yaml \\
        --regions.clip.checkpoint runs/clip_hard/best --output.uri runs/clip_features_hard/val \\
        --input.uri data/scenes/val/images

Images without captions, 16,000 scenes, 20 minutes:

    .venv/bin/python jobs/make_scenes.py --out data/scenes_uncaptioned --split train --seed 5 --count 16000
    .venv/bin/python jobs/extract_regions.py --config configs/extract/demo.yaml \\
        --regions.checkpoint glied/weights/demo/regions --input.uri data/scenes_uncaptioned/images \\
        --output.uri runs/features/uncaptioned
    .venv/bin/python jobs/extract_regions.py --config configs/extract/clip_demo.yaml \\
        --regions.clip.checkpoint runs/clip_hard/best --input.uri data/scenes_uncaptioned/images \\
        --output.uri runs/clip_features_hard/uncaptioned

Bad captions of the captioner that CLIP-S alone has spoiled (benchmarks/claims.py --full with --variants glied
clip_s --seeds 0 trains it), 10 minutes:

    .venv/bin/python jobs/caption_dataset.py --config configs/caption/demo.yaml \\
        --input.uri data/scenes/train/images --captioner.checkpoint runs/claims/clip_s-0/best \\
        --output.uri runs/captions/clip_s --decoding.method sample --decoding.n_best 5
    .venv/bin/python jobs/select_negatives.py --captions runs/captions/clip_s --out runs/bad_captions.jsonl \\
        --scenes data/scenes/train/annotations.jsonl

A grammar head that knows them, 12 minutes:

    .venv/bin/python jobs/finetune_grammar.py --config configs/grammar/bad_captions_demo.yaml
"""

from typing import Literal

from benchmarks.claims_variants import Claim, Variant

GRAMMAR = Variant(name="GLIED, CLIP-S + grammar", reward="clip_s_grammar")
NORMALIZED = {"sampling.baseline": "normalized"}
DICO = {"loss.name": "dico"}


def clip_of(name: str, features: str = "runs/clip_features") -> dict[str, str]:
    """Return the settings of a CLIP with its grammar head, and of the stores of its image vectors."""
    return {
        "reward.clip.checkpoint": f"runs/{name}/best",
        "train.clip_features": f"{features}/train",
        "validation.clip_features": f"{features}/val",
    }


def differing(text: str, **settings: str) -> Variant:
    """Return CLIP-S + grammar with other settings."""
    return Variant(name=f"{GRAMMAR.name}, {text}", reward=GRAMMAR.reward, settings=settings)


HARD_NEGATIVES = clip_of("grammar_hard", "runs/clip_features_hard") | {"reward.grammar_accuracy": "80"}
LIKELIHOOD = {"reward.likelihood": "2.0"}
UNCAPTIONED = {
    "train.features": "runs/features/uncaptioned",
    "train.captions": "",
    "train.clip_features": "runs/clip_features_hard/uncaptioned",
}
WEIGHTS = {"reward.clip_s": "6.0", "reward.distinct": "2.0"}
REWARDS = {
    "normalized": differing("parts normalized separately (GDPO)", **NORMALIZED),
    "bad_captions": differing("the captioner's bad captions as negatives", **clip_of("grammar_bad")),
    "hard_negatives": differing("CLIP with hard negatives", **HARD_NEGATIVES),
    "dico": differing("DiCO's loss", **DICO),
    "likelihood": differing("parts normalized, likelihood by XE", **NORMALIZED, **LIKELIHOOD),
    "together": differing("together", **HARD_NEGATIVES, **NORMALIZED, **LIKELIHOOD, **WEIGHTS),
    "uncaptioned": differing(
        "uncaptioned",
        **(HARD_NEGATIVES | NORMALIZED | WEIGHTS | UNCAPTIONED | {"reward.likelihood": "4.0"}),
    ),
}
"""The variants by name. "together" has what helped on val (docs/research/claims.md), "uncaptioned" the same
with more weight for the likelihood, on images that XE has not seen."""

AIMS = {"repeated bigrams": 1, "precision objects": -1, "precision colors": -1, "precision relations": 0}
"""What a reward must not spoil: figure, and by how much it may change from XE."""


def aims(name: str) -> list[Claim]:
    """Return the claims that a reward finds images better than CIDEr does, and spoils nothing."""
    title = REWARDS[name].name
    found = Claim(f"{title}: finds images better than the CIDEr reward", name, "cider", "judge R@1", 10)
    kept = [
        Claim(f"{title}: {figure} as after XE", name, "glied", figure, bound, _side(bound))
        for figure, bound in AIMS.items()
    ]
    return [found, *kept]


def _side(bound: float) -> Literal["at least", "at most"]:
    return "at most" if bound > 0 else "at least"
