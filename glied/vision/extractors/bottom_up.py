"""Proposals and region selection of bottom-up attention (Anderson et al. 2018).

This module uses plain torch and is tested without detectron2. The published features come from a Caffe
network, which counts pixels where other implementations measure distances: a box spans from its first pixel
to its last, and its width is `x2 - x1 + 1`.

Shapes: ``B`` images, ``P`` proposals per image, ``C`` classes without the background, ``A`` anchors per
position of the feature map.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import nms

STRIDE = 16
"""Stride of the feature map in pixels of the resized image."""
_ANCHOR_SCALES, _ANCHOR_RATIOS = (4, 8, 16, 32), (0.5, 1.0, 2.0)
_BEFORE_SUPPRESSION, _AFTER_SUPPRESSION = 6000, 300
_PROPOSAL_OVERLAP = 0.7
_LEAST_SIDE = 16  # in pixels of the original image
_MOST_GROWTH = math.log(1000 / 16)


def class_confidence(boxes: Tensor, scores: Tensor, overlap: float, *, pixels: bool) -> Tensor:
    """Return the best score of each proposal after class-wise non-maximum suppression.

    In each class, in descending order of scores, a proposal suppresses those that overlap it by more than
    `overlap`. A proposal's confidence is its highest score among the classes in which it is kept, or 0.

    Args:
        boxes: [B, P, 4] xyxy, shared by all classes; zero for padding.
        scores: [B, P, C], without the background; 0 for padding.
        overlap: IoU threshold of the suppression.
        pixels: count pixels as Caffe does.

    Returns:
        [B, P]
    """
    batch, proposals, classes = scores.shape
    suppresses = _iou(boxes, extra=float(pixels)) > overlap  # [B, P, P]
    order = scores.argsort(dim=1, descending=True, stable=True)  # [B, P, C]
    gone = torch.zeros(batch, classes, proposals, dtype=torch.bool, device=scores.device)
    kept = torch.zeros_like(gone)
    images = torch.arange(batch, device=scores.device)[:, None]
    for rank in range(proposals):  # all classes of all images at once
        best = order[:, rank]  # [B, C]
        stays = ~gone.gather(2, best[..., None])  # [B, C, 1]
        kept.scatter_(2, best[..., None], stays)
        gone |= suppresses[images, best] & stays
    return (scores * kept.transpose(1, 2)).amax(dim=2)


def _iou(boxes: Tensor, *, extra: float) -> Tensor:
    """Compute pairwise IoU, [B, P, 4] -> [B, P, P]; adds `extra` to all widths and heights."""
    area = (boxes[..., 2:] - boxes[..., :2] + extra).prod(dim=-1)
    corners = torch.stack(
        [boxes[..., :2], -boxes[..., 2:]]
    )  # the maximum of both gives the corners of the overlap
    corners = torch.maximum(corners[:, :, :, None], corners[:, :, None, :])  # [2, B, P, P, 2]
    shared = (extra - corners[0] - corners[1]).clamp(min=0).prod(dim=-1)
    return shared / (area[:, :, None] + area[:, None, :] - shared).clamp(min=1e-9)


def choose(confidence: Tensor, *, threshold: float, minimum: int, maximum: int) -> Tensor:
    """Return the indices of the proposals to keep, most confident first: [P] -> [R].

    Keeps proposals with a confidence of at least `threshold`, but at least the best `minimum` and at most
    `maximum` of them (10 and 100, or 36 and 36, in the published features).
    """
    count = min(max(int((confidence >= threshold).sum()), minimum), maximum)
    return confidence.argsort(descending=True, stable=True)[:count]


def anchors(*, by_ratio: bool = True) -> Tensor:
    """Return the anchors [A, 4] at the first position of the feature map, as in the Caffe network.

    The sides of a box of 16 pixels at each ratio (height / width) are rounded before they are scaled.

    Args:
        by_ratio: group anchors by ratio (Caffe) instead of by scale (detectron2).
    """
    rows = []
    for ratio in _ANCHOR_RATIOS:
        width = round(math.sqrt(STRIDE * STRIDE / ratio))
        height = round(width * ratio)
        for scale in _ANCHOR_SCALES:
            half = torch.tensor([width * scale - 1, height * scale - 1]) / 2
            center = torch.full((2,), (STRIDE - 1) / 2)
            rows.append(torch.cat([center - half, center + half]))
    table = torch.stack(rows)
    if by_ratio:
        return table
    return table.view(len(_ANCHOR_RATIOS), len(_ANCHOR_SCALES), 4).transpose(0, 1).reshape(-1, 4)


def propose(
    objectness: Tensor,
    deltas: Tensor,
    cell: Tensor,
    *,
    size: tuple[int, int],
    scale: float,
    most: int = _AFTER_SUPPRESSION,
) -> Tensor:
    """Return the proposals of one image, best first, in pixels of the resized image: [P, 4], possibly empty.

    Args:
        objectness: [A, h, w], objectness score of each anchor.
        deltas: [4 A, h, w], predicted offsets of each anchor.
        cell: [A, 4], the anchors at the first position.
        size: height and width of the resized image without padding.
        scale: scale of the resized image relative to the original image.
        most: maximum of P.
    """
    count, height, width = objectness.shape
    boxes = _decode(_grid(cell, height, width), deltas.view(count, 4, height, width).permute(2, 3, 0, 1))
    scores = objectness.permute(1, 2, 0).flatten()
    limits = boxes.new_tensor([size[1] - 1, size[0] - 1]).repeat(2)
    boxes = boxes.clamp(min=0).minimum(limits)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    large = ((sides >= _LEAST_SIDE * scale) & (sides > 1)).all(dim=1)
    boxes, scores = boxes[large], scores[large]
    scores, order = scores.sort(descending=True, stable=True)
    boxes, scores = boxes[order[:_BEFORE_SUPPRESSION]], scores[:_BEFORE_SUPPRESSION]
    ends = boxes + boxes.new_tensor([0, 0, 1, 1])  # counted pixels are distances to the next pixel
    return boxes[nms(ends, scores, _PROPOSAL_OVERLAP)[:most]]


def _grid(cell: Tensor, height: int, width: int) -> Tensor:
    """Shift the anchors to all positions, [A, 4] -> [h, w, A, 4]."""
    down = torch.arange(height, device=cell.device)[:, None].expand(height, width)
    right = torch.arange(width, device=cell.device)[None].expand(height, width)
    shifts = torch.stack([right, down, right, down], dim=-1) * STRIDE
    return shifts[:, :, None] + cell


def _decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Apply deltas (x, y, log width, log height) to boxes, [h, w, A, 4] -> [h w A, 4]."""
    sides = boxes[..., 2:] - boxes[..., :2] + 1
    center = boxes[..., :2] + sides / 2 + deltas[..., :2] * sides
    half = sides * deltas[..., 2:].clamp(max=_MOST_GROWTH).exp() / 2
    return torch.cat([center - half, center + half], dim=-1).reshape(-1, 4)
