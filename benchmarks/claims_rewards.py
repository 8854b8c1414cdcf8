"""Variants of the reward CLIP-S + grammar on the demo world, which differ in one thing each.

Each goes on from the same GLIED (XE) with configs/scst/clip_s_grammar_demo.yaml and the `settings` of its
variant. Variants whose CLIP does not ship need it first. The commands are run in the root of the repository;
the costs are estimates for one core (AMD EPYC).

Scenes of the CLIP, 15 minutes, and a CLIP that knows hard negatives, 20 minutes:

    .venv/bin/python jobs/make_scenes.py --out data/scenes_clip/train --split train --seed 1 --count 40000
    .venv/bin/python jobs/make_scenes.py --out data/scenes_clip/val --split val --seed 1 --count 1000
    .venv/bin/python jobs/train_clip.py --config configs/clip/hard_negatives_demo.yaml

Its grammar head, an hour, and the vectors of its images, a few minutes:

    .venv/bin/python jobs/finetune_grammar.py --config configs/grammar/hard_negatives_demo.yaml
    .venv/bin/python jobs/extract_regions.py --config configs/extract/clip_demo.yaml \\
        --regions.clip.checkpoint runs/clip_hard/best --output.uri runs/clip_features_hard/train
    .venv/bin/python jobs/extract_regions.py --config configs/extract/clip_demo.yaml \\
        --regions.clip.checkpoint runs/clip_hard/best --output.uri runs/clip_features_hard/val \\
        --input.uri data/scenes/val/images

Bad captions of the captioner that CLIP-S alone has spoiled (benchmarks/claims.py --full with --variants glied
clip_s --seeds 0 trains it), 10 minutes:

    .venv/bin/python jobs/caption_dataset.py --config configs/caption/demo.yaml \\
        --input.uri data/scenes/train/images --captioner.checkpoint runs/claims/clip_s-0/best \\
        --output.uri runs/captions/clip_s --decoding.method sample --decoding.n_best 5
    .venv/bin/python jobs/select_negatives.py --captions runs/captions/clip_s --out runs/bad_captions.jsonl \\
        --scenes data/scenes/train/annotations.jsonl

A grammar head that knows them, 12 minutes, and one for the CLIP with hard negatives as well, an hour:

    .venv/bin/python jobs/finetune_grammar.py --config configs/grammar/bad_captions_demo.yaml
    .venv/bin/python jobs/finetune_grammar.py --config configs/grammar/hard_negatives_demo.yaml \\
        --bad_captions.captions runs/bad_captions.jsonl --trainer.output runs/grammar_both
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIG = "scst/clip_s_grammar_demo.yaml"
"""What all variants start from, below configs/."""


@dataclass(frozen=True, kw_only=True)
class RewardVariant:
    """A reward, or a way to learn from it.

    Attributes:
        title: name of its row in a table.
        clip: checkpoint of the CLIP with its grammar head.
        clip_features: folder with the stores train and val of the CLIP's image vectors.
        options: other settings of jobs/train_scst.py.
    """

    title: str
    clip: str = "glied/weights/demo/grammar"
    clip_features: str = "runs/clip_features"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of jobs/train_scst.py by dotted key, beside those of `CONFIG`."""
        return {
            "reward.clip.checkpoint": self.clip,
            "train.clip_features": f"{self.clip_features}/train",
            "validation.clip_features": f"{self.clip_features}/val",
            **self.options,
        }


NORMALIZED = {"sampling.baseline": "normalized"}
DICO = {"loss.name": "dico"}
HARD_FEATURES = "runs/clip_features_hard"

REWARDS: Mapping[str, RewardVariant] = {
    "clip_s_grammar": RewardVariant(title="CLIP-S + grammar"),
    "normalized": RewardVariant(title="parts normalized separately (GDPO)", options=NORMALIZED),
    "bad_captions": RewardVariant(
        title="grammar head knows the captioner's bad captions", clip="runs/grammar_bad/best"
    ),
    "hard_negatives": RewardVariant(
        title="CLIP knows hard negatives", clip="runs/grammar_hard/best", clip_features=HARD_FEATURES
    ),
    "dico": RewardVariant(title="DiCO's loss", options=DICO),
    "together": RewardVariant(
        title="all together",
        clip="runs/grammar_both/best",
        clip_features=HARD_FEATURES,
        options=NORMALIZED | DICO,
    ),
}
"""The variants by name; "together" is a placeholder, which takes the best ones once they are measured."""
