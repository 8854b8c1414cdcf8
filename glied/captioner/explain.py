"""Explanations of captions: the attention weights of each word, and of the distilling attentions."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glied.captioner.model import CaptioningModel, Trace
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.text.vocabulary import BOS, EOS

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """Attention weights of a caption; None for attentions that the model does not have.

    A model with several blocks has those of the last one.

    T words, H heads, R regions, N attributes. Weights sum to 1 along the last axis, unless N is 0.

    Attributes:
        words: the caption; "<unk>" for words outside the vocabulary.
        attributes: the attribute words that the model received.
        boxes: [R, 4] xyxy, pixels of the upright image.
        log_probabilities: [T + 1], of each word and of the end token.
        regions_global: H_v [T, H, R], over the distilled regions (in Base over the regions themselves).
        regions_local: H_vl [T, H, R], over the regions themselves.
        attributes_global: H_a [T, H, N], of Base; without the pivot, over the distilled attributes.
        attributes_local: H_al [T, H, N].
        groupings: H_vd [H, R, R], the regions that each region is grouped with.
        collocations: H_ad [T, H, N], the attributes that go with the previous word (the pivot; for the first
            word the begin token).
        attribute_groupings: H_ad without the pivot [H, N, N], the attributes that go with each attribute.
    """

    words: list[str]
    attributes: list[str]
    boxes: Weights
    log_probabilities: Weights
    regions_global: Weights | None = None
    regions_local: Weights | None = None
    attributes_global: Weights | None = None
    attributes_local: Weights | None = None
    groupings: Weights | None = None
    collocations: Weights | None = None
    attribute_groupings: Weights | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields with lists in place of arrays."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Explanation":
        """Rebuild an explanation from `to_json`; arrays over zero attributes lose their other dimensions."""
        values = {field.name: data[field.name] for field in fields(cls)}
        for name, value in values.items():
            if value is not None and name not in ("words", "attributes"):
                values[name] = np.asarray(value, dtype=np.float32)
        return cls(**values)


_PER_WORD = {
    "H_v": "regions_global",
    "H_vl": "regions_local",
    "H_a": "attributes_global",
    "H_al": "attributes_local",
}


@torch.inference_mode()
def explain(
    model: CaptioningModel,
    regions: RegionBatch,
    attributes: Tensor,
    tokens: list[int],
    *,
    words: list[str],
    attribute_words: list[str],
) -> Explanation:
    """Explain a caption of one image in one teacher-forced pass.

    Args:
        model: a model with attention, in evaluation mode.
        regions: the regions of the image, without padding.
        attributes: [1, N] int64, ids of `attribute_words`.
        tokens: ids of `words`, without begin and end.
        words: the caption.
        attribute_words: the attributes.

    Raises:
        UsageError: the model has no attention.
    """
    device, trace = attributes.device, Trace()
    encoded = model.encode(regions, attributes, torch.ones_like(attributes, dtype=torch.bool), trace)
    inputs = torch.tensor([[BOS, *tokens]], device=device)
    log_probabilities = model.logits(encoded, inputs, trace=trace)[0].float().log_softmax(dim=-1)
    if not trace:
        raise UsageError(
            f"architecture {model.config.architecture} has no attention: its captions cannot be explained"
        )
    targets = torch.tensor([*tokens, EOS], device=device)
    sizes = {"H_v": regions.boxes.shape[1], "H_a": attributes.shape[1]}  # also of H_vl and H_al
    weights: dict[str, Any] = {
        name: _per_word(trace[key], sizes[key[:3]]) for key, name in _PER_WORD.items() if key in trace
    }
    if "H_vd" in trace:
        weights["groupings"] = _array(trace["H_vd"][0])
    if "H_ad" in trace and model.config.ablation.no_pivot:
        count = attributes.shape[1]
        weights["attribute_groupings"] = _array(trace["H_ad"][0, :, :count, :count])
    elif "H_ad" in trace:
        weights["collocations"] = _per_word(trace["H_ad"], attributes.shape[1])
    return Explanation(
        words=words,
        attributes=attribute_words,
        boxes=_array(regions.boxes[0]),
        log_probabilities=_array(log_probabilities.gather(1, targets[:, None])[:, 0]),
        **weights,
    )


def _per_word(weights: Tensor, size: int) -> Weights:
    """[1, H, 1, T + 1, S] -> [T, H, size]; drops the row of the end token. S is 1 if `size` is 0."""
    return _array(weights[0, :, 0, :-1, :size].transpose(0, 1))


def _array(values: Tensor) -> Weights:
    return values.float().cpu().numpy()
