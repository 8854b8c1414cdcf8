"""Training task of a timm backbone: its last stages learn to recognize the words of captions.

The backbone and an attribute predictor are trained together, from pixels, with the noisy-OR of Fang et al.
(2015, arXiv 1411.4952). The regions of the captioner then contain what an object classifier hardly knows,
such as colors and people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from glied import storage
from glied.config_checks import check_least, check_shares
from glied.data.pairs import PairsConfig
from glied.data.pickling import FieldsOnlyPickle
from glied.errors import UsageError
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import by_count, image_counts
from glied.training.config import TrainerConfig
from glied.training.task import Row, Split
from glied.training.tasks.attributes import average_precisions
from glied.training.tasks.freezing import freeze_stages, keep_statistics
from glied.vision.attributes import AttributePredictor, noisy_or_loss, save_attributes
from glied.vision.crops import CropConfig, draw_crop
from glied.vision.extractors.timm_cells import SETTINGS, load_backbone, save_backbone, settings_of
from glied.vision.images import decode

ATTRIBUTES = "attributes"
"""Folder of the predictor below that of the exported backbone."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone is trained, and how much of it."""

    checkpoint: str = ""
    """Folder (path or URI) that jobs/convert_weights.py wrote; excludes `model`."""
    model: str = ""
    """Name of a timm model with random weights, for trials."""
    size: int = 224
    """Side in pixels of the square that images are made."""
    frozen_stages: int = 0
    """The stem and this many stages keep their weights, which spares their gradients."""
    drop_path: float = 0.1
    """Share of the residual branches that are left out in training, at the last block."""
    dropout: float = 0.1
    """Share of the features that are set to zero before the words are predicted."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        if bool(self.checkpoint) == bool(self.model):
            raise UsageError("model: give either checkpoint (a folder) or model (a name)")
        check_least(self, 1, "size", key="model")
        check_least(self, 0, "frozen_stages", key="model")
        check_shares(self, "drop_path", "dropout", key="model")


@dataclass(frozen=True)
class PixelBatch:
    """Images of one step: [B, side, side, 3] uint8, and [B, W] 1 where a word is in their captions."""

    pixels: Tensor
    targets: Tensor


class WordsOfCells(nn.Module):
    """A backbone without classifier, and an attribute predictor on its cells and their mean."""

    def __init__(self, backbone: nn.Module, predictor: AttributePredictor, config: BackboneConfig) -> None:
        """Freeze the first stages of `backbone`."""
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.predictor = predictor
        self.dropout = nn.Dropout(config.dropout)
        freeze_stages(backbone, config.frozen_stages)

    def train(self, mode: bool = True) -> WordsOfCells:
        """Sets the mode; the backbone's batch normalization keeps its statistics."""
        super().train(mode)
        keep_statistics(self.backbone)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, side, side] -> log-probability [B, W] that a word is absent."""
        backbone = cast(Any, self.backbone)
        maps = backbone.forward_features(images.contiguous(memory_format=torch.channels_last))
        cells = maps.flatten(2).transpose(1, 2)
        regions = self.dropout(torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1))
        mask = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        return self.predictor(regions, mask)


@dataclass(frozen=True, kw_only=True)
class TrainBackboneConfig:
    """Which backbone is finetuned, on which images, and how."""

    train: PairsConfig
    """Images to learn from; their captions give the words."""
    validation: PairsConfig
    """Images whose mean average precision selects the best checkpoint."""
    model: BackboneConfig
    """The backbone."""
    trainer: TrainerConfig
    """Optimization, workers and output."""
    crop: CropConfig = field(default_factory=CropConfig)
    """How training images are varied."""
    words: int = 1000
    """Words to predict: the commonest of the training captions."""
    minimum_positives: int = 20
    """Words of fewer validation images do not count in the mean average precision."""
    decoder_threads: int = 1
    """Threads that decode the images of a batch."""

    def __post_init__(self) -> None:
        """Refuse counts without meaning."""
        check_least(self, 1, "words", "minimum_positives", "decoder_threads")


@dataclass(frozen=True)
class BackboneTask(FieldsOnlyPickle):
    """Learns `WordsOfCells`; implements `glied.training.task.Task`."""

    config: TrainBackboneConfig
    name: str = "backbone"

    @cached_property
    def _counts(self) -> Counter[str]:
        return image_counts([pair.texts for pair in self.config.train.all])

    @cached_property
    def vocabulary(self) -> list[str]:
        """The commonest words of the training captions, counted once per image."""
        return by_count(self._counts)[: self.config.words]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.vocabulary)}

    @cached_property
    def _made(self) -> tuple[nn.Module, dict[str, Any]]:
        """The backbone as training starts, and its preprocessing settings."""
        config = self.config.model
        if config.checkpoint:
            model, stored = load_backbone(config.checkpoint, drop_path_rate=config.drop_path)
            return model, stored.metadata
        model = timm.create_model(config.model, num_classes=0, drop_path_rate=config.drop_path)
        return model, {"model": config.model, **settings_of(model)}

    def build(self) -> WordsOfCells:
        """The backbone with its weights, and a predictor whose biases start at the words' frequencies."""
        backbone, _ = self._made
        with torch.no_grad():
            maps = cast(Any, backbone.eval()).forward_features(
                torch.zeros(1, 3, *[self.config.model.size] * 2)
            )
        if maps.dim() != 4:
            raise UsageError("model: only convolutional backbones can be trained here")
        predictor = AttributePredictor(
            self.vocabulary,
            feature_size=maps.shape[1],
            frequencies=[self._counts[word] / len(self.config.train.all) for word in self.vocabulary],
            typical_regions=1 + maps.shape[2] * maps.shape[3],
        )
        return WordsOfCells(backbone, predictor, self.config.model)

    def data(self, split: Split) -> pa.Table:
        """Rows of `uri` and `words`, the numbers of the words in the captions."""
        pairs = (self.config.train if split == "train" else self.config.validation).all
        rows = [{"uri": pair.image, "words": self._numbers(pair.texts)} for pair in pairs]
        return pa.Table.from_pylist(rows)

    def _numbers(self, texts: Sequence[str]) -> list[int]:
        words = {word for text in texts for word in tokenize(text)}
        return sorted(self._index[word] for word in words if word in self._index)

    def collate(self, rows: Sequence[Row], *, training: bool, generator: torch.Generator) -> PixelBatch:
        """Decodes the images; in training crops each at random and mirrors half of them."""
        seeds = torch.randint(2**31, (len(rows),), generator=generator).tolist()
        with ThreadPoolExecutor(self.config.decoder_threads) as pool:
            pixels = list(pool.map(lambda row, seed: self._read(row["uri"], training, seed), rows, seeds))
        targets = torch.zeros(len(rows), len(self.vocabulary))
        for target, row in zip(targets, rows, strict=True):
            target[row["words"]] = 1
        return PixelBatch(torch.from_numpy(np.stack(pixels)), targets)

    def _read(self, uri: str, training: bool, seed: int) -> np.ndarray:
        picture = Image.fromarray(decode(storage.read_bytes(uri)))
        side = self.config.model.size
        if not training:
            return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        box, mirrored = draw_crop(picture.size, self.config.crop, np.random.default_rng(seed))
        crop = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
        return np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else crop)

    def loss(self, model: nn.Module, batch: PixelBatch) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Multi-label binary cross-entropy, summed over words."""
        loss = noisy_or_loss(model(self._normalized(batch.pixels)).float(), batch.targets)
        return loss, {"loss": loss.detach()}

    def _normalized(self, pixels: Tensor) -> Tensor:
        """[B, side, side, 3] uint8 -> [B, 3, side, side]."""
        mean, std = (torch.tensor(self._made[1][key], device=pixels.device) for key in ("mean", "std"))
        return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def validate(self, model: nn.Module, batches: Iterable[PixelBatch]) -> dict[str, float]:
        """Mean AP over content words with enough positives, how many those are, and the loss."""
        outputs = [(model(self._normalized(b.pixels)).float().cpu(), b.targets.cpu()) for b in batches]
        absent = torch.cat([output for output, _ in outputs])
        targets = torch.cat([truth for _, truth in outputs])
        precisions = average_precisions(
            -absent.numpy(), targets.numpy(), self.vocabulary, self.config.minimum_positives
        )
        mean = sum(precisions.values()) / max(len(precisions), 1)
        return {"map": mean, "map_words": len(precisions), "loss": float(noisy_or_loss(absent, targets))}

    def export(self, model: nn.Module, folder_uri: str) -> None:
        """Write the backbone, and the predictor below it, in half precision."""
        trained, settings = cast(WordsOfCells, model), self._made[1]
        source = {"name": self.config.model.checkpoint or self.config.model.model, "trained": self.name}
        pixels = {key: settings[key] for key in SETTINGS}
        pixels["input_size"] = [3, self.config.model.size, self.config.model.size]
        save_backbone(trained.backbone, folder_uri, name=settings["model"], settings=pixels, source=source)
        save_attributes(trained.predictor, storage.join(folder_uri, ATTRIBUTES))
