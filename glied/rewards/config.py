"""Which rewards are summed. This module imports little: open_clip would take seconds."""

from dataclasses import dataclass

from glied.clip.config import ClipConfig
from glied.errors import UsageError

LIKELIHOOD = "likelihood"
"""The part that the training task computes, because it needs the regions."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A weighted sum of rewards; a part of weight 0 is never computed."""

    cider: float = 0.0
    """Weight of CIDEr-D, which is 0 to 10."""
    bleu: float = 0.0
    """Weight of the smoothed sentence BLEU-4, which is 0 to 1."""
    clip_s: float = 0.0
    """Weight of CLIP-S, which is 0 to 2.5."""
    ref_clip_s: float = 0.0
    """Weight of RefCLIP-S, which is 0 to 2.5."""
    grammar: float = 0.0
    """Weight of the probability that a caption is grammatical, 0 to 1."""
    distinct: float = 0.0
    """Weight of the share of a caption's bigrams that differ (distinct-2), which is 0 to 1."""
    likelihood: float = 0.0
    """Weight of the mean log-probability of a caption's words by the captioner that training starts from,
    which is below 0, beside other rewards. It keeps what that captioner has learned from references."""
    grammar_accuracy: float = 90.0
    """Balanced accuracy in percent that the grammar head must have reached on every corruption; 0 takes every
    head. The corruptions of free captions can be grammatical, so a head for them stays below 90."""
    frequencies: str = ""
    """Folder (path or URI) of the document frequencies, as jobs/prepare_cider.py writes it; for cider."""
    clip: ClipConfig | None = None
    """The CLIP of clip_s, ref_clip_s and grammar, on the device of the training; grammar needs one that
    jobs/finetune_grammar.py wrote."""

    def __post_init__(self) -> None:
        """Refuse weights that are all 0, negative, or lack what they need."""
        if not 0 <= self.grammar_accuracy <= 100:
            raise UsageError(f"reward.grammar_accuracy: {self.grammar_accuracy:g} is not between 0 and 100")
        for name, weight in self.weights.items():
            if weight < 0:
                raise UsageError(f"reward.{name}: {weight} is negative")
        others = [name for name in self.weights if name != LIKELIHOOD]
        if not any(self.weights[name] for name in others):
            raise UsageError(f"reward: give at least one of {', '.join(others)} a weight above 0")
        needs = (
            ("cider", "frequencies", self.frequencies),
            ("clip_s", "clip", self.clip),
            ("ref_clip_s", "clip", self.clip),
            ("grammar", "clip", self.clip),
        )
        for name, key, value in needs:
            if self.weights[name] and not value:
                raise UsageError(f"reward.{name} needs reward.{key}")

    @property
    def weights(self) -> dict[str, float]:
        """Weight by part."""
        parts = ("cider", "bleu", "clip_s", "ref_clip_s", "grammar", "distinct", LIKELIHOOD)
        return {name: getattr(self, name) for name in parts}

    @property
    def needs_references(self) -> bool:
        """Whether a part compares with reference captions."""
        return bool(self.cider or self.bleu or self.ref_clip_s)

    @property
    def needs_images(self) -> bool:
        """Whether a part looks at the images."""
        return bool(self.clip_s or self.ref_clip_s)
