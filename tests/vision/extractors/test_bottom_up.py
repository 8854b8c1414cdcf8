"""Bottom-up attention's rules compared with plain loops that follow the authors' definitions."""

import math

import numpy as np
import pytest
import torch

from glied.vision.extractors import bottom_up


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corner = random.random((count, 2)) * 60
    return np.concatenate([corner, corner + 5 + random.random((count, 2)) * 40], axis=1).astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray, extra: float) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return shared / (sum(areas) - shared)


def kept_by_loop(boxes: np.ndarray, scores: np.ndarray, threshold: float, extra: float) -> list[int]:
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if all(overlap(boxes[index], boxes[other], extra) <= threshold for other in kept):
            kept.append(int(index))
    return kept


@pytest.mark.parametrize("pixels", [True, False])
def test_class_confidence_equals_suppression_class_by_class(pixels):
    random = np.random.default_rng(0)
    boxes = [random_boxes(random, 25), random_boxes(random, 18)]
    scores = [random.dirichlet(np.full(7, 0.3), 25)[:, :6], random.dirichlet(np.full(7, 0.3), 18)[:, :6]]
    padded_boxes, padded_scores = torch.zeros(2, 25, 4), torch.zeros(2, 25, 6)
    for place in range(2):
        padded_boxes[place, : len(boxes[place])] = torch.from_numpy(boxes[place])
        padded_scores[place, : len(boxes[place])] = torch.from_numpy(scores[place]).float()
    found = bottom_up.class_confidence(padded_boxes, padded_scores, 0.3, pixels=pixels)
    suppressed = 0
    for place in range(2):
        expected = np.zeros(len(boxes[place]))
        for column in scores[place].T:
            kept = kept_by_loop(boxes[place], column, 0.3, float(pixels))
            expected[kept] = np.maximum(expected[kept], column[kept])
        np.testing.assert_allclose(found[place, : len(expected)], expected, rtol=1e-6)
        suppressed += int((expected < scores[place].max(axis=1) - 1e-6).sum())
    assert suppressed > 3  # otherwise the rule would have had no effect
    assert found[1, 18:].tolist() == [0] * 7


@pytest.mark.parametrize(
    ("minimum", "maximum", "count"),
    [(1, 100, 4), (6, 100, 6), (1, 3, 3), (36, 36, 8), (2, 2, 2)],
)
def test_choose_takes_the_confident_within_bounds(minimum, maximum, count):
    confidence = torch.tensor([0.1, 0.9, 0.2, 0.0, 0.5, 0.19, 0.3, 0.0])
    kept = bottom_up.choose(confidence, threshold=0.2, minimum=minimum, maximum=maximum)
    assert kept.tolist() == [1, 4, 6, 2, 5, 0, 3, 7][:count]


def test_anchors_are_the_published_ones():
    """The anchors of py-faster-rcnn at scales 8, 16 and 32, which its source lists counted from 1."""
    listed = [
        [-83, -39, 100, 56],
        [-175, -87, 192, 104],
        [-359, -183, 376, 200],
        [-55, -55, 72, 72],
        [-119, -119, 136, 136],
        [-247, -247, 264, 264],
        [-35, -79, 52, 96],
        [-79, -167, 96, 184],
        [-167, -343, 184, 360],
    ]
    table = bottom_up.anchors()
    assert table.shape == (12, 4)
    larger = [row for row in range(12) if row % 4]  # the smallest scale is 4
    assert (table[larger] + 1).tolist() == listed
    by_scale = bottom_up.anchors(by_ratio=False)
    assert by_scale[1].tolist() == table[4].tolist()
    assert sorted(by_scale.tolist()) == sorted(table.tolist())


def proposals_by_loop(objectness, deltas, cell, size, scale, most):
    """Follow lib/rpn/proposal_layer.py, one box at a time."""
    height, width = objectness.shape[1:]
    found = []
    for y in range(height):
        for x in range(width):
            for anchor in range(len(cell)):
                x1, y1, x2, y2 = (float(v) + 16 * (x, y)[i % 2] for i, v in enumerate(cell[anchor]))
                w, h = x2 - x1 + 1, y2 - y1 + 1
                dx, dy, dw, dh = (float(v) for v in deltas[4 * anchor : 4 * anchor + 4, y, x])
                center_x, center_y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
                w, h = w * math.exp(dw), h * math.exp(dh)
                box = [center_x - w / 2, center_y - h / 2, center_x + w / 2, center_y + h / 2]
                box = [min(max(v, 0), (size[1], size[0])[i % 2] - 1) for i, v in enumerate(box)]
                if min(box[2] - box[0] + 1, box[3] - box[1] + 1) >= 16 * scale:
                    found.append((float(objectness[anchor, y, x]), box))
    found.sort(key=lambda pair: -pair[0])
    boxes = np.array([box for _, box in found])
    return boxes[kept_by_loop(boxes, -np.arange(len(boxes)), 0.7, 1.0)[:most]]


def test_proposals_equal_those_of_the_published_layer():
    generator = torch.Generator().manual_seed(0)
    objectness = torch.randn(12, 4, 6, generator=generator)
    deltas = torch.randn(48, 4, 6, generator=generator) * 0.3
    cell = bottom_up.anchors()
    arguments = {"size": (60, 90), "scale": 1.5, "most": 20}
    found = bottom_up.propose(objectness, deltas, cell, **arguments)
    expected = proposals_by_loop(objectness, deltas, cell, **arguments)
    assert len(expected) > 5
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_no_proposals_if_all_boxes_are_too_small():
    found = bottom_up.propose(
        torch.zeros(12, 1, 1), torch.zeros(48, 1, 1), bottom_up.anchors(), size=(9, 9), scale=9.0
    )
    assert found.shape == (0, 4)
