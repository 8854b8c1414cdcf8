"""Registry of the captioning models by the names used in configs and checkpoints."""

from glied.captioner.baselines.recurrent import ShowAndTell, ShowAttendTell, UpDown
from glied.captioner.baselines.transformer import Transformer
from glied.captioner.glied import Glied
from glied.captioner.model import CaptionerConfig, CaptioningModel

_ARCHITECTURES: dict[str, type[CaptioningModel]] = {
    "base": Glied,
    "glied": Glied,
    "lstm": ShowAndTell,
    "soft_att": ShowAttendTell,
    "up_down": UpDown,
    "ct": Transformer,
}


PAPER_SIZES = {
    "base": CaptionerConfig(architecture="base"),
    "glied": CaptionerConfig(architecture="glied"),
    "lstm": CaptionerConfig(architecture="lstm", embedding_width=300),
    "soft_att": CaptionerConfig(architecture="soft_att", embedding_width=300),
    "up_down": CaptionerConfig(architecture="up_down", width=1000),
    "ct": CaptionerConfig(architecture="ct", feed_forward=2048, tied=True),
}
"""Sizes that reproduce the parameter counts of the paper's Table 2 as closely as possible."""


def build_model(config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> CaptioningModel:
    """Build the untrained model that `config` describes.

    Args:
        config: the architecture and its sizes.
        feature_size: F, size of the region features.
        vocabulary_size: V, including the special tokens.
    """
    model = _ARCHITECTURES[config.architecture]
    return model(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
