import pytest
import torch

from glied.vision.average_precision import ap50, ap50_per_class


def item(boxes, labels, scores=None):
    found = {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.tensor(labels)}
    return found if scores is None else {**found, "scores": torch.tensor(scores)}


TRUTH = [item([[0, 0, 10, 10], [20, 0, 40, 30]], [1, 2]), item([[5, 5, 25, 25]], [1])]


def test_perfect_detections():
    found = [{**truth, "scores": torch.ones(len(truth["labels"]))} for truth in TRUTH]
    assert ap50(found, TRUTH, ["a", "b", "never seen"]) == pytest.approx(1)


def test_by_hand():
    # Class a: one of two detected, ranked first: precision 1 up to recall 0.5 (51 of 101 points).
    # Class b: its only box overlaps by 0.4.
    found = [item([[0, 0, 10, 10], [20, 0, 40, 12]], [1, 2], [0.9, 0.8]), item([], [], [])]
    values = ap50_per_class(found, TRUTH, ["a", "b"])
    assert values == {"a": pytest.approx(51 / 101), "b": 0}
    assert ap50(found, TRUTH, ["a", "b"]) == pytest.approx(51 / 202)


def test_nothing_detected_at_all():
    assert ap50([item([], [], []), item([], [], [])], TRUTH, ["a", "b"]) == 0
