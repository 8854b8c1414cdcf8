import dataclasses

import pytest
import torch

from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.extended_vocabulary import extended_model, extended_vocabulary
from glied.captioner.model import CaptionerConfig
from glied.regions import RegionBatch
from glied.text.vocabulary import BOS, Vocabulary

CONFIGS = [
    CaptionerConfig(architecture="glied", width=16, heads=2, dropout=0.0, tied=True, geometry=True),
    CaptionerConfig(architecture="glied", width=16, heads=2, dropout=0.0),
    CaptionerConfig(architecture="up_down", width=16, attention_width=8, dropout=0.0),
]


def captioner(config: CaptionerConfig) -> Captioner:
    torch.manual_seed(0)
    vocabulary = Vocabulary(["a", "dog", "runs"])
    return Captioner(build_model(config, feature_size=6, vocabulary_size=len(vocabulary)), vocabulary)


def test_new_words_follow_the_known_ones() -> None:
    found = extended_vocabulary(Vocabulary(["a", "dog"]), ["cat", "a", "bird", "cat"])
    assert found.to_json() == ["a", "dog", "cat", "bird"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.architecture}-{config.tied}")
def test_known_words_have_the_logits_that_they_had(config) -> None:
    start = captioner(config)
    vocabulary = extended_vocabulary(start.vocabulary, ["cat", "bird"])
    model = extended_model(start, vocabulary, dataclasses.replace(config, dropout=0.3)).eval()
    regions = RegionBatch(
        torch.randn(2, 3, 6), torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 2)
    )
    attributes, mask = torch.tensor([[4, 5], [5, 6]]), torch.ones(2, 2, dtype=torch.bool)
    tokens = torch.tensor([[BOS, 4, 5], [BOS, 5, 6]])
    with torch.no_grad():
        before = start.model(regions, attributes, mask, tokens)
        after = model(regions, attributes, mask, tokens)
    assert after.shape[-1] == before.shape[-1] + 2
    torch.testing.assert_close(after[..., :-2], before)
    assert model.config.dropout == 0.3


def test_vocabulary_of_another_captioner_is_refused() -> None:
    with pytest.raises(ValueError, match="must be the first"):
        extended_model(captioner(CONFIGS[0]), Vocabulary(["dog", "a", "runs", "cat"]))
