"""Training task of a new CoCa (Yu et al. 2022, arXiv 2205.01917): a CLIP that also writes captions.

The loss is contrastive + `caption_weight` x the cross-entropy of each token of the text given the image and
the tokens before it. The published weight is 2. The softmax runs over the tokens that the training texts
hold: a small world needs a few hundred of CLIP's 49,408, and no others are written by an exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from glied.captioner.engines.coca_model import PADDING
from glied.clip.tokenizer import token_ids
from glied.errors import UsageError
from glied.training.task import Row, Split
from glied.training.tasks.clip import ClipBatch, ClipTask, TrainClipConfig, pairs_table
from glied.training.tasks.clip_model import ClipModel, build_model
from glied.training.tasks.clip_texts import all_texts, draw_text, python_random
from glied.training.tasks.contrastive import contrastive_loss


class CocaModel(ClipModel):
    """A CoCa in training."""

    known: Tensor

    def __init__(self, clip: Any, known: Sequence[int]) -> None:
        """Take over a new `open_clip.CoCa`, whose output layer open_clip leaves without first weights.

        Args:
            clip: the model.
            known: the tokens that it learns to write, ascending.
        """
        super().__init__(clip)
        projection = clip.text_decoder.text_projection
        nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
        self.register_buffer("known", torch.tensor(known), persistent=False)

    def forward(  # type: ignore[override]  # it has logits, too
        self, images: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit vectors [B, E] of images and texts, their scale, and the logits [B, T - 1, K] of next tokens.

        Args:
            images: pixels [B, 3, height, width].
            tokens: of the texts, [B, T]; the logits are those of the K `known` ones.
        """
        image, image_tokens = self.clip._encode_image(images)
        text, text_tokens = self.clip._encode_text(tokens)
        decoder = self.clip.text_decoder
        projection = {"text_projection": decoder.text_projection[:, self.known]}
        logits = functional_call(decoder, projection, (image_tokens, text_tokens[:, :-1]))
        return image, text, self.clip.logit_scale.exp(), logits


@dataclass(frozen=True)
class CocaTask(ClipTask):
    """Learns a CoCa from pairs; texts are captions and have no prompt before them."""

    name: str = "coca"

    def __post_init__(self) -> None:
        """Refuse models that this task does not build."""
        if self.config.model.start is not None or self.config.model.backbone:
            raise UsageError("model: of CoCa only new ones are trained, without start and backbone")
        if self.config.hard_negatives.train or self.config.hard_negatives.validation:
            raise UsageError("hard_negatives: a CoCa is trained without")

    def build(self) -> CocaModel:
        """The model as training starts."""
        return CocaModel(build_model(self.config.model, self._form).clip, self._known)

    @cached_property
    def _known(self) -> list[int]:
        return token_ids(all_texts(self.config.train.all), self._form.model_config)

    def data(self, split: Split) -> pa.Table:
        """As that of `ClipTask`."""
        pairs = self._source(split)
        self._images.prepare(pairs, mirrored=self.config.mirror and split == "train")
        return pairs_table(pairs.all)

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> ClipBatch:
        """Read the images and draw a text for each; in validation the first one."""
        rng = python_random(generator)
        texts = [
            draw_text(row["texts"], row["clauses"], self.config.texts, rng) if training else row["texts"][0]
            for row in rows
        ]
        mirrored = [training and self.config.mirror and rng.random() < 0.5 for _ in rows]
        pairs = self._source("train" if training else "validation")
        images = self._images.read(pairs, [row["index"] for row in rows], mirrored)
        return ClipBatch(images, self._tokenizer(texts))

    def loss(self, model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Contrastive and captioning; logs both."""
        image, text, scale, logits = model(self._images.normalized(batch.images), batch.tokens)
        contrastive = contrastive_loss(image, text, scale)
        captioning = caption_loss(logits, batch.tokens, torch.tensor(self._known, device=logits.device))
        loss = contrastive + self.config.caption_weight * captioning
        return loss, {
            "loss": loss.detach(),
            "contrastive": contrastive.detach(),
            "captioning": captioning.detach(),
        }

    def validate(self, model: nn.Module, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Retrieval both ways among all validation images."""
        vectors: Callable[..., Any] = lambda images, tokens: model(images, tokens)[:3]  # noqa: E731
        return super().validate(cast(nn.Module, vectors), batches)


def caption_loss(logits: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens after the first, padding left out as open_clip does.

    Args:
        logits: [B, T - 1, K], of the token after each.
        tokens: [B, T], padded with `PADDING`.
        known: the tokens that the logits are of, [K] ascending.
    """
    targets = torch.searchsorted(known, tokens[:, 1:].contiguous())
    padding = int(torch.searchsorted(known, PADDING))
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=padding)


def clip_task(config: TrainClipConfig) -> ClipTask:
    """The task that trains the model of a config: a CoCa where it has a decoder of captions."""
    is_coca = "multimodal_cfg" in (config.model.architecture or {})
    return CocaTask(config) if is_coca else ClipTask(config)
