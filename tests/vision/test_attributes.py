import pytest
import torch

from glied import checkpoint
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.vision.attributes import AttributePredictor, load_attributes, noisy_or_loss, save_attributes

WORDS = ["dog", "red", "beach", "kite"]


@pytest.fixture
def predictor() -> AttributePredictor:
    torch.manual_seed(0)
    model = AttributePredictor(WORDS, feature_size=6)
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def batch() -> RegionBatch:
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    return RegionBatch(torch.rand(2, 3, 6), torch.rand(2, 3, 4), mask, torch.full((2, 2), 50.0))


def test_noisy_or_equals_its_definition(predictor):
    regions = batch()
    one = torch.sigmoid(predictor.classifier(predictor.norm(regions.features)))
    expected = torch.stack([1 - (1 - one[0]).prod(dim=0), one[1, 0]])
    torch.testing.assert_close(predictor.probabilities(regions.features, regions.mask), expected)


def test_padding_changes_nothing(predictor):
    regions = batch()
    plain = predictor(regions.features, regions.mask)
    filled = torch.where(regions.mask[..., None], regions.features, torch.full_like(regions.features, 1e4))
    assert torch.equal(predictor(filled, regions.mask), plain)
    alone = predictor(regions.features[1:, :1], regions.mask[1:, :1])
    torch.testing.assert_close(alone[0], plain[1])


def test_loss_is_binary_cross_entropy(predictor):
    regions = batch()
    targets = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    probabilities = predictor.probabilities(regions.features, regions.mask)
    expected = torch.nn.functional.binary_cross_entropy(probabilities, targets, reduction="sum") / 2
    loss = noisy_or_loss(predictor(regions.features, regions.mask), targets)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("log_absent", [0.0, -1e-12, -1e-3, -0.6931, -0.6932, -20.0, -200.0, -5000.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_loss_and_gradient_are_finite_at_the_extremes(log_absent, target):
    x = torch.tensor([[log_absent]], requires_grad=True)
    loss = noisy_or_loss(x, torch.tensor([[target]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_initial_probability_is_the_frequency():
    frequencies = [0.5, 0.1, 0.01, 0.9]
    model = AttributePredictor(WORDS, feature_size=6, frequencies=frequencies, typical_regions=8)
    torch.nn.init.zeros_(model.classifier.weight)
    found = model.probabilities(torch.rand(1, 8, 6), torch.ones(1, 8, dtype=torch.bool))
    torch.testing.assert_close(found[0], torch.tensor(frequencies))


def test_top_is_sorted_and_truncated(predictor):
    regions = batch()
    probabilities = predictor.probabilities(regions.features, regions.mask)
    for row, found in zip(probabilities, predictor.top(regions, 3), strict=True):
        order = row.argsort(descending=True)[:3].tolist()
        assert [word for word, _ in found] == [WORDS[index] for index in order]
        assert [value for _, value in found] == pytest.approx(row[order].tolist(), rel=1e-5)
    assert len(predictor.top(regions, 100)[0]) == len(WORDS)


def test_top_orders_words_with_probabilities_near_one(predictor):
    torch.nn.init.zeros_(predictor.classifier.weight)
    with torch.no_grad():
        predictor.classifier.bias.copy_(torch.tensor([30.0, 50.0, 40.0, 60.0]))
    assert [word for word, _ in predictor.top(batch(), 4)[0]] == ["kite", "red", "beach", "dog"]


def test_checkpoint_round_trip(predictor, tmp_path):
    save_attributes(predictor, str(tmp_path), half=False)
    loaded = load_attributes(str(tmp_path))
    assert loaded.words == WORDS
    assert loaded.top(batch(), 4) == predictor.top(batch(), 4)


def test_another_checkpoint_is_refused(tmp_path):
    checkpoint.save(str(tmp_path), {"x": torch.zeros(1)}, {"kind": "other"})
    with pytest.raises(UsageError, match="of kind other, not attributes"):
        load_attributes(str(tmp_path))
