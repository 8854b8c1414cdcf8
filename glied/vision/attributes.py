"""Attribute prediction from regions by multiple-instance learning with a noisy-OR.

Shapes: ``B`` images, ``R`` regions, ``F`` region feature size, ``W`` attribute words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glied import checkpoint
from glied.regions import RegionBatch

KIND = "attributes"


class AttributePredictor(nn.Module):
    """Predicts the attribute words of images: one logistic classifier per word, combined over regions.

    ``p_w = 1 - prod_r (1 - sigmoid(v_w . phi_r + u_w))`` (Zhang et al. 2006; Fang et al. 2015, section 3),
    where phi_r is the layer-normalized region feature. With `frequencies`, the initial probability of each
    word in an image of `typical_regions` regions is about its frequency.

    Attributes:
        extractor: fingerprint of the extractor whose regions it was trained on, if known.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        feature_size: int,
        frequencies: Sequence[float] | None = None,
        typical_regions: int = 16,
    ) -> None:
        """`frequencies` are the shares of images with each word; they only initialize the bias."""
        super().__init__()
        self.words = list(words)
        self.feature_size = feature_size
        self.extractor: Mapping[str, Any] | None = None
        # Post-ReLU features can have any scale, and a noisy-OR of large logits saturates immediately.
        self.norm = nn.LayerNorm(feature_size)
        self.classifier = nn.Linear(feature_size, len(self.words))
        nn.init.normal_(self.classifier.weight, std=0.01)
        shares = torch.full((len(self.words),), 0.02) if frequencies is None else torch.tensor(frequencies)
        per_region = -torch.expm1(torch.log1p(-shares.clamp(1e-4, 0.99)) / typical_regions)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.logit(per_region))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return log-probabilities that words are absent: [B,R,F], mask [B,R] (True = real) -> [B,W], <= 0.

        The loss uses them, because they stay exact where probabilities round to 0 or 1.
        """
        logits = self.classifier(self.norm(features))  # [B, R, W]
        absent = F.logsigmoid(-logits.float())  # log(1 - sigmoid(x)) = logsigmoid(-x)
        return absent.masked_fill(~mask[..., None], 0.0).sum(dim=1)

    def probabilities(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return p_w: features [B,R,F], mask [B,R] -> [B,W]."""
        return -torch.expm1(self(features, mask))

    @torch.no_grad()
    def top(self, batch: RegionBatch, n: int) -> list[list[tuple[str, float]]]:
        """Return the `n` most probable words of each image with their probabilities, most probable first."""
        probabilities, indices = self._top(batch, n)
        return [
            [(self.words[index], value) for value, index in zip(row, places, strict=True)]
            for row, places in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ]

    def _top(self, batch: RegionBatch, n: int) -> tuple[Tensor, Tensor]:
        # Rank by log p(absent), which distinguishes words whose probabilities all round to 1.
        absent, indices = self(batch.features, batch.mask).topk(min(n, len(self.words)), dim=1, largest=False)
        return -torch.expm1(absent), indices


def noisy_or_loss(log_absent: Tensor, targets: Tensor) -> Tensor:
    """Compute the binary cross-entropy, summed over words and averaged over images.

    Args:
        log_absent: [B, W] log(1 - p_w), below 0.
        targets: [B, W], 1 for words in the references.
    """
    # log(1 - e^x) for x < 0. Images without regions have x = 0; the clamp keeps their loss finite.
    log_absent = log_absent.clamp(max=-1e-7)
    log_present = torch.where(
        log_absent > -0.6931, torch.log(-torch.expm1(log_absent)), torch.log1p(-torch.exp(log_absent))
    )
    return -(targets * log_present + (1 - targets) * log_absent).sum(dim=1).mean()


def save_attributes(model: AttributePredictor, folder_uri: str, *, half: bool = True) -> None:
    """Write weights (as fp16 if `half`) and words to a checkpoint folder."""
    metadata = {"kind": KIND, "words": model.words, "feature_size": model.feature_size}
    checkpoint.save(folder_uri, model.state_dict(), metadata, half=half, extractor=model.extractor)


def load_attributes(folder_uri: str) -> AttributePredictor:
    """Load the predictor of a checkpoint folder, in evaluation mode.

    Raises:
        UsageError: there is no checkpoint, or it is not an attribute predictor.
    """
    stored = checkpoint.load(folder_uri, KIND)
    model = AttributePredictor(stored.metadata["words"], feature_size=stored.metadata["feature_size"])
    model.load_state_dict(stored.tensors)
    model.extractor = stored.extractor
    return model.eval()
