import pytest
import torch

from glied import checkpoint
from glied.errors import UsageError
from glied.vision.extractors.small_detector import Detector, DetectorConfig, load_detector, save_detector
from tests.vision.scenes import TINY

CLASSES = ["tower", "car"]
ATTRIBUTES = {"color": ["red", "green", "blue"], "size": ["big"]}


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(TINY, classes=CLASSES, attributes=ATTRIBUTES)


def target(boxes, labels, attributes):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "attributes": torch.tensor(attributes, dtype=torch.int64).reshape(-1, 2),
    }


def test_default_size_fits_the_shipped_budget():
    model = Detector(DetectorConfig(), classes=["x"] * 52, attributes={"a": ["x"] * 11, "b": ["x"] * 6})
    assert sum(tensor.numel() for tensor in model.state_dict().values()) * 2 < 7.2e6


def test_training_gives_losses_and_gradients_for_every_parameter(detector):
    images = [torch.rand(3, 64, 96), torch.rand(3, 80, 70)]
    targets = [target([[4, 4, 40, 50]], [1], [[1, 0]]), target([[10, 10, 60, 40]], [2], [[3, 1]])]
    losses = detector.train()(images, targets)
    assert set(losses) == {
        "loss_classifier", "loss_box_reg", "loss_attributes", "loss_objectness", "loss_rpn_box_reg"
    }  # fmt: skip
    sum(losses.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_images_without_objects_train(detector):
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    losses = detector.train()(images, [target([], [], []), target([], [], [])])
    assert losses["loss_attributes"] == 0
    assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    assert torch.isfinite(detector.roi_heads.attribute_head.logits.weight.grad).all()


def test_attribute_loss_sees_only_foreground_and_the_true_class(detector):
    heads = detector.roi_heads
    features, labels = torch.rand(3, 24), torch.tensor([0, 1, 2])
    truth = torch.tensor([[1, 1], [2, 0], [3, 1]])
    logits = heads.attribute_head(features[1:], labels[1:])
    expected = sum(
        torch.nn.functional.cross_entropy(group, truth[1:, index]) for index, group in enumerate(logits)
    )
    torch.testing.assert_close(
        heads._attribute_loss(features, labels, truth), TINY.attribute_weight * expected
    )


def test_detections_carry_features_and_attributes(detector):
    detector.eval().roi_heads.score_thresh = 0.0
    with torch.no_grad():
        found = detector([torch.rand(3, 64, 96)])[0]
    count = len(found["boxes"])
    assert 0 < count <= TINY.detections
    assert found["features"].shape == (count, TINY.representation_size)
    assert found["features"].min() >= 0
    assert found["attributes"].shape == (count, 2)
    assert found["boxes"][:, 2].max() <= 96
    assert found["boxes"][:, 3].max() <= 64


def test_attribute_words(detector):
    assert detector.attribute_words([2, 1]) == ["green", "big"]
    assert detector.attribute_words([0, 0]) == []


def test_checkpoint_round_trip(detector, tmp_path):
    save_detector(detector, str(tmp_path), half=False)
    loaded, digest = load_detector(str(tmp_path))
    assert len(digest) == 64
    assert not loaded.training
    assert loaded.config == TINY
    assert loaded.classes == CLASSES
    assert loaded.attributes == ATTRIBUTES
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        detector.eval()
        torch.testing.assert_close(loaded([image])[0]["boxes"], detector([image])[0]["boxes"])


def test_another_checkpoint_is_refused(tmp_path):
    checkpoint.save(str(tmp_path), {"x": torch.zeros(1)}, {"kind": "other"})
    with pytest.raises(UsageError, match="of kind other, not detector"):
        load_detector(str(tmp_path))


@pytest.mark.parametrize("change", [{"short_side": 16}, {"short_side": 400}, {"anchor_sizes": ((8,), (16,))}])
def test_config_refuses(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        DetectorConfig(**change)
