"""CLIP settings. This module imports neither torch nor, unless a `model` is named, open_clip."""

import difflib
from dataclasses import dataclass

from glied.errors import UsageError

PROMPT = "A photo depicts "


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The CLIP that scores captions, and its prompt."""

    model: str = ""
    """Architecture by open_clip's name, e.g. ViT-B-32; excludes `checkpoint`."""
    weights: str = ""
    """Weights of `model`: a published tag of open_clip, e.g. openai, or a local .safetensors or .pt file."""
    weights_tag: str = ""
    """Published tag that the file in `weights` belongs to; determines its preprocessing and activation."""
    checkpoint: str = ""
    """Folder (path or URI) of a CLIP that jobs/train_clip.py or jobs/finetune_grammar.py wrote; excludes
    `model`."""
    prompt: str = PROMPT
    """Text before every caption and reference, separated by a space; empty for none."""
    batch_size: int = 64
    """Images or captions to encode at once."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    allow_random: bool = False
    """Accept a `model` without `weights`. Its scores are meaningless; for tests."""

    def __post_init__(self) -> None:
        """Reject conflicts, unknown names and invalid values."""
        if bool(self.checkpoint) == bool(self.model):
            raise UsageError(
                "clip: give either checkpoint (a folder) or model (an architecture of open_clip)"
            )
        if self.weights and not self.model:
            raise UsageError(
                f"weights {self.weights!r} belong to an architecture of open_clip: name it in model"
            )
        if self.model:
            self._check_model()
        if self.batch_size < 1:
            raise UsageError(f"batch_size {self.batch_size}: must be at least 1")

    def _check_model(self) -> None:
        import open_clip

        names = {name.lower(): name for name in open_clip.list_models()}
        if self.model not in names.values():
            close = difflib.get_close_matches(self.model.lower(), names, n=5, cutoff=0.4)
            hint = ", ".join(names[name] for name in close) or "see open_clip.list_models()"
            raise UsageError(
                f"model {self.model!r} is not an architecture of open_clip; similar ones: {hint}"
            )
        if not self.weights and not self.allow_random:
            raise UsageError(f"model {self.model} needs weights: {known_tags(self.model)}, or a local file")
        if self.weights_tag and not open_clip.get_pretrained_cfg(self.model, self.weights_tag):
            raise UsageError(f"weights_tag {self.weights_tag!r}: {self.model} has {known_tags(self.model)}")


def known_tags(model: str) -> str:
    """Describe the published weights of an architecture, for messages."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    return f"the tags {', '.join(tags)}" if tags else "no published tags"
