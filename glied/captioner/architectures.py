"""The captioning models by the names that configs and checkpoints give them."""

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


def build_model(config: CaptionerConfig, *, feature_size: int, vocabulary_size: int) -> CaptioningModel:
    """The untrained model that `config` describes.

    Args:
        config: names the architecture.
        feature_size: F, of the region features.
        vocabulary_size: V, the special tokens included.
    """
    model = _ARCHITECTURES[config.architecture]
    return model(config, feature_size=feature_size, vocabulary_size=vocabulary_size)
