"""Grammar head on a CLIP text encoder that predicts p(grammatical) (Cho et al. 2022, arXiv 2205.13115, 3.2).

The head is stored in the folder `grammar` of the CLIP checkpoint with which it was trained, together with its
accuracy on each kind of corruption, so that training with a grammar reward can reject an inaccurate head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glied import checkpoint, storage
from glied.clip.config import ClipConfig
from glied.clip.scorer import ClipScorer, load_clip
from glied.clip.text_encoder import text_width
from glied.errors import UsageError

KIND = "grammar"
FOLDER = "grammar"
CORRUPTIONS = ("repeat", "remove", "insert", "swap", "shuffle", "duplicate", "loop")
"""Kinds of ungrammatical captions used in training; see glied.training.tasks.corruptions."""
REQUIRED = 90.0
"""Balanced accuracy in percent, on each corruption, below which a head is unreliable."""


class GrammarHead(nn.Module):
    """Linear - ReLU - Linear(2) without biases, as published: pooled features [B, W] -> logits [B, 2]."""

    def __init__(self, *, width: int, hidden: int) -> None:
        """Create a head for features of size `width`; column 1 of the logits is "grammatical"."""
        super().__init__()
        self.width, self.hidden = width, hidden
        self.layers = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, 2, bias=False)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the logits of "ungrammatical" and "grammatical"."""
        return self.layers(pooled)


class GrammarScorer:
    """Computes p(grammatical) of captions, with the prompt of its CLIP.

    Attributes:
        clip: the CLIP with the finetuned text encoder; it also computes CLIP-S.
        figures: measured accuracies of the head, in percent.
        digest: SHA-256 of the head's files.
    """

    def __init__(
        self, head: GrammarHead, clip: ClipScorer, figures: Mapping[str, float], *, digest: str = ""
    ) -> None:
        """Take ownership of `head`: it is put into evaluation mode on the device of `clip`."""
        self.clip, self.figures, self.digest = clip, dict(figures), digest
        self._head = head.eval().float().to(clip.device)

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return p(grammatical) of each caption, [n] float32; raises as `ClipScorer.encode_texts`."""
        return self.score(captions)[0]

    @torch.no_grad()
    def score(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return p(grammatical) [n] and the unit vectors [n, E] that CLIP-S needs, from one forward pass."""
        vectors, pooled = self.clip.encode_and_pool_texts(captions)
        with torch.autocast(self.clip.device.type, enabled=False):
            return self._head(pooled).softmax(dim=-1)[:, 1], vectors


def unfit(figures: Mapping[str, float], required: float = REQUIRED) -> list[str]:
    """List the corruptions on which a head with these figures is below `required`, each with its accuracy."""
    accuracies = {kind: figures.get(f"accuracy_{kind}") for kind in CORRUPTIONS}
    return [
        f"{kind} {'not measured' if value is None else f'{value:.1f} %'}"
        for kind, value in accuracies.items()
        if value is None or not value >= required
    ]


def save_grammar(folder_uri: str, head: GrammarHead, figures: Mapping[str, float]) -> None:
    """Write the head into the existing CLIP checkpoint at `folder_uri`."""
    metadata = {
        "kind": KIND,
        "width": head.width,
        "hidden": head.hidden,
        "clip_sha256": checkpoint.load(folder_uri).digest,
        "figures": dict(figures),
    }
    checkpoint.save(storage.join(folder_uri, FOLDER), head.state_dict(), metadata, half=True)


def has_grammar(config: ClipConfig) -> bool:
    """Whether the CLIP that `config` names has a grammar head."""
    return bool(config.checkpoint) and storage.exists(
        storage.join(config.checkpoint, FOLDER, checkpoint.METADATA)
    )


def load_grammar(config: ClipConfig, *, required: float = 0.0) -> GrammarScorer:
    """Load the scorer of a CLIP checkpoint with a grammar head, which jobs/finetune_grammar.py writes.

    Args:
        config: names the checkpoint.
        required: reject a head whose accuracy in percent is lower on any corruption; 0 takes every head.

    Raises:
        UsageError: there is no head, it belongs to other weights, or it is too inaccurate.
    """
    if not has_grammar(config):
        place = config.checkpoint or config.model
        raise UsageError(f"{place} has no grammar head: jobs/finetune_grammar.py makes a CLIP with one")
    stored = checkpoint.load(storage.join(config.checkpoint, FOLDER), KIND)
    metadata: dict[str, Any] = stored.metadata
    if metadata["clip_sha256"] != checkpoint.load(config.checkpoint).digest:
        raise UsageError(f"{config.checkpoint}: its grammar head belongs to another CLIP; finetune it again")
    if required and (weak := unfit(metadata["figures"], required)):
        raise UsageError(
            f"{config.checkpoint}: its grammar head is not accurate enough for a reward, {required:g} % are "
            f"needed: {', '.join(weak)}; train it longer with jobs/finetune_grammar.py, or accept it with a "
            "lower reward.grammar_accuracy"
        )
    clip = load_clip(config)
    head = GrammarHead(width=metadata["width"], hidden=metadata["hidden"])
    if metadata["width"] != text_width(clip.model):
        raise UsageError(
            f"{config.checkpoint}: the head reads {metadata['width']} features, its CLIP has another number"
        )
    head.load_state_dict(stored.tensors)
    return GrammarScorer(head, clip, metadata["figures"], digest=stored.digest)
