from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from glied.captioner.architectures import build_model
from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.regions import RegionBatch
from tests.flat_settings import flat

FEATURES, VOCABULARY = 12, 30


@pytest.fixture
def make_model() -> Callable[..., CaptioningModel]:
    """Make small models with random weights in evaluation mode."""

    def make(
        vocabulary_size: int = VOCABULARY, seed: int = 0, sharp: float = 1.0, **options
    ) -> CaptioningModel:
        torch.manual_seed(seed)
        config = flat(CaptionerConfig, **{"width": 16, **heads(options), **options})
        model = build_model(config, feature_size=FEATURES, vocabulary_size=vocabulary_size).eval()
        with torch.no_grad():
            model.classifier.weight.mul_(sharp)  # peaked distributions like those of trained models
        return model

    return make


@pytest.fixture
def make_inputs() -> Callable[..., tuple[RegionBatch, Tensor, Tensor]]:
    """Make random inputs of `batch` images: (regions, attribute ids, attribute mask)."""

    def make(
        batch: int = 3,
        regions: int = 6,
        attributes: int = 5,
        vocabulary_size: int = VOCABULARY,
        seed: int = 1,
    ):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(batch, regions, 2, generator=generator) * 100
        batch_of_regions = RegionBatch(
            features=torch.randn(batch, regions, FEATURES, generator=generator),
            boxes=torch.cat((corner, corner + 50), dim=-1),
            mask=torch.ones(batch, regions, dtype=torch.bool),
            sizes=torch.tensor([[200.0, 160.0]] * batch),
        )
        ids = torch.randint(4, vocabulary_size, (batch, attributes), generator=generator)
        return batch_of_regions, ids, torch.ones_like(ids, dtype=torch.bool)

    return make


def heads(options: dict) -> dict:
    """Return four heads if the architecture has heads."""
    return {} if options.get("architecture") in ("lstm", "soft_att", "up_down") else {"heads": 4}
