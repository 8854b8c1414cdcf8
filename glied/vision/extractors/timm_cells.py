"""Regions from a timm backbone: the whole image and the cells of its feature maps. Used for photographs.

Grid features perform as well as detected regions (Jiang et al. 2020, In Defense of Grid Features), and
attributes were first learned on cells (Fang et al. 2015).

Shapes: ``B`` images of one size, ``n`` x ``m`` cells, ``F`` feature size.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pickle import UnpicklingError
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from glied import checkpoint
from glied.errors import StorageError, UsageError
from glied.regions import Regions
from glied.vision.extractors.config import Level, RegionsConfig
from glied.vision.extractors.fingerprints import side, timm_fingerprint
from glied.vision.extractors.half_precision import Cast
from glied.vision.images import MAX_SIDE

KIND = "backbone"
LARGEST_BATCH = 16
_LONGEST = 4  # limit on the cells of the long side of a thin image, relative to the square's side
SETTINGS = ("mean", "std", "interpolation", "input_size")
LOAD_ERRORS = (RuntimeError, ValueError, KeyError, EOFError, TypeError, SafetensorError, UnpicklingError)


class TimmCells:
    """Returns a region for the whole image and one per cell, row by row.

    The feature of the whole image is the mean of all cells. Images are resized to whole cells without
    padding, to a size that depends on their own shape alone, so that neither padding nor other images of a
    batch affect their features.
    """

    def __init__(
        self, model: nn.Module, config: RegionsConfig, *, name: str, settings: Mapping[str, Any], digest: str
    ) -> None:
        """Take ownership of a timm model without classifier.

        Args:
            model: the timm model.
            config: size, levels and precision.
            name: timm's name of the model.
            settings: preprocessing of timm's pretrained config: `mean`, `std`, `interpolation`, `input_size`.
            digest: identifies the weights.

        Raises:
            UsageError: the model lacks the levels, or does not accept images of this size.
        """
        self.device = torch.device(config.device)
        self.side = side(config, settings)
        self.resize_mode, self.cells = config.timm.resize, config.timm.cells
        self._mean, self._std = (
            torch.tensor(settings[key]).view(1, 3, 1, 1).to(self.device) for key in ("mean", "std")
        )
        self._interpolation = Image.Resampling[str(settings["interpolation"]).upper()]
        trunk = _Trunk(model.eval(), config.timm.levels)
        self._stride = trunk.stride
        self.backbone = model
        self.fingerprint: Mapping[str, Any] = timm_fingerprint(
            config, model=name, weights=digest, settings=settings
        )
        self.trunk = Cast(
            trunk.to(self.device), getattr(torch, config.compute.dtype), compiled=config.compute.compile
        )
        self.resolution = (self.side, MAX_SIDE)
        self.feature_size = sum(one.shape[1] for one in self._try())

    def _try(self) -> list[Tensor]:
        """Compute the maps of a blank image, so that a mismatch fails at the start."""
        try:
            with torch.inference_mode():
                return self.trunk(torch.zeros(1, 3, self.side, self.side, device=self.device))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"regions: {self.fingerprint['model']} takes no images of {self.side} x {self.side} pixels "
                f"or lacks the levels {self.fingerprint['levels']}: {reason}"
            ) from error

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Regions]:
        """Extract the regions of upright RGB images [H, W, 3], in the same order."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[self._size(image)].append(index)
        found: dict[int, Regions] = {}
        for size, group in groups.items():
            for start in range(0, len(group), LARGEST_BATCH):
                part = group[start : start + LARGEST_BATCH]
                maps, pooled = self._maps([images[index] for index in part], size)
                for index, own, mean in zip(part, maps.cpu().numpy(), pooled.cpu().numpy(), strict=True):
                    found[index] = _regions(images[index], own, mean)
        return [found[index] for index in range(len(images))]

    def _size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        """Return the height and width in pixels that an image is resized to."""
        if self.resize_mode == "squash":
            return self.side, self.side
        rows, columns = _proportional(image, self.side / self._stride)
        return rows * self._stride, columns * self._stride

    def _maps(self, images: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute the maps of images resized to one size, and the mean of the first level, both float32.

        Returns:
            [B, F, n, m] and [B, P]; the mean is taken before levels are normalized.
        """
        resized = np.stack([self._resize(image, size) for image in images])
        pixels = torch.from_numpy(resized).to(self.device).permute(0, 3, 1, 2).float() / 255
        levels = self.trunk((pixels - self._mean) / self._std)
        shape = (levels[0].shape[2], levels[0].shape[3])
        if self.cells:
            square = self.resize_mode == "squash"
            shape = (self.cells, self.cells) if square else _proportional(np.empty(size), self.cells)
        cells = [_pooled(level, shape) for level in levels]
        maps = cells[0] if len(cells) == 1 else torch.cat([_leveled(one) for one in cells], dim=1)
        return maps, levels[0].mean(dim=(2, 3))

    def _resize(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        if image.shape[:2] == size:
            return image
        return np.asarray(Image.fromarray(image).resize(size[::-1], self._interpolation))


def _proportional(image: NDArray, side: float) -> tuple[int, int]:
    """Return rows and columns in the proportions of an image, with a product of about `side` squared."""
    height, width = image.shape[:2]
    ratio = (height / width) ** 0.5
    most = max(1, round(_LONGEST * side))
    return min(most, max(1, round(side * ratio))), min(most, max(1, round(side / ratio)))


def _pooled(level: Tensor, shape: tuple[int, int]) -> Tensor:
    """Average over the pixels of each cell, [B, C, h, w] -> [B, C, n, m]."""
    return level if tuple(level.shape[2:]) == shape else F.adaptive_avg_pool2d(level, shape)


def _leveled(level: Tensor) -> Tensor:
    """Divide each cell of [B, C, n, m] by its root mean square.

    Levels before their activation have several times the scale of the final one and would dominate it.
    """
    return level / level.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-6)


def _regions(image: NDArray[np.uint8], features: NDArray[np.float32], pooled: NDArray[np.float32]) -> Regions:
    """Build the regions of an upright image from its map [F, n, m] and the mean of a level [P]."""
    height, width = image.shape[:2]
    size, rows, columns = features.shape
    cells = features.reshape(size, -1).T
    whole = np.array([[0, 0, width, height]], np.float32)
    count = 1 + len(cells)
    return Regions(
        boxes=np.concatenate([whole, cell_boxes(rows, columns, width, height)]),
        features=np.concatenate([cells.mean(axis=0, keepdims=True), cells]),
        scores=np.ones(count, np.float32),
        labels=["image"] + ["cell"] * len(cells),
        attributes=[[] for _ in range(count)],
        width=width,
        height=height,
        pooled=pooled,
    )


def cell_boxes(rows: int, columns: int, width: int, height: int) -> NDArray[np.float32]:
    """Return boxes [rows * columns, 4] that divide an image evenly, row by row."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    corners = np.stack([column, row, column + 1, row + 1], axis=1)
    return (corners * [width, height, width, height] / [columns, rows, columns, rows]).astype(np.float32)


class _Trunk(nn.Module):
    """Computes the feature levels of a backbone, [B, C, h, w] each."""

    def __init__(self, model: Any, levels: Sequence[Level]) -> None:
        super().__init__()
        self.model, self.levels = model, list(levels)
        self.indices = [level for level in levels if level != "final"]
        known = getattr(model, "feature_info", None)
        if not known or (self.indices and not hasattr(model, "forward_intermediates")):
            raise UsageError(f"regions: {type(model).__name__} does not return intermediate levels")
        reductions = [one["reduction"] for one in (known if isinstance(known, list) else known.get_dicts())]
        for index in self.indices:
            if not -len(reductions) <= index < len(reductions):
                raise UsageError(
                    f"regions.timm.levels {index}: the model has levels 0 to {len(reductions) - 1}"
                )
        self.stride = int(reductions[-1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of images [B, 3, H, W] in the order of `levels`."""
        found: dict[Level, Tensor] = {}
        if self.indices:
            last, maps = self.model.forward_intermediates(images, indices=sorted(self.indices))
            found.update(zip(sorted(self.indices), maps, strict=True))
        else:
            last = self.model.forward_features(images)
        if "final" in self.levels:
            found["final"] = self._as_map(last, images.shape[2:])
        return [found[level] for level in self.levels]

    def _as_map(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Convert tokens [B, p + n m, C], or a map with channels last, to [B, C, n, m]."""
        if features.dim() == 3:
            if any(side % self.stride for side in size):
                raise ValueError(f"sides must be multiples of {self.stride}")
            cells = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            return cells.transpose(1, 2).unflatten(2, (size[0] // self.stride, -1))
        last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if last else features


def load_timm(config: RegionsConfig) -> TimmCells:
    """Load the extractor of a checkpoint from `save_backbone`, or of a timm model by name.

    Raises:
        UsageError: the checkpoint, model or weights do not exist or do not fit.
        StorageError: published weights cannot be downloaded.
    """
    if config.checkpoint:
        return _load_checkpoint(config)
    if not timm.is_model(config.model):
        raise UsageError(f"model {config.model!r}: timm has no such model; see timm.list_models()")
    model, settings = _named(config)
    digest = checkpoint.weights_digest(model)
    return TimmCells(model, config, name=config.model, settings=settings, digest=digest)


def save_backbone(
    model: nn.Module, folder_uri: str, *, name: str, settings: Mapping[str, Any], source: Mapping[str, Any]
) -> None:
    """Write a backbone in half precision, without its classifier.

    Args:
        model: a timm model.
        folder_uri: the checkpoint folder.
        name: timm's name of the model.
        settings: `mean`, `std`, `interpolation` and `input_size`, as in timm's pretrained configs.
        source: origin of the weights.
    """
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    classifier = str(getattr(model, "default_cfg", {}).get("classifier", "")) + "."
    tensors = {k: v for k, v in tensors.items() if not k.startswith(classifier)}
    about = {"kind": KIND, "model": name, **{key: settings[key] for key in SETTINGS}}
    checkpoint.save(folder_uri, tensors, {**about, "source": dict(source)}, half=True)


def load_backbone(folder_uri: str, **options: Any) -> tuple[nn.Module, checkpoint.Checkpoint]:
    """Load the model of a folder that `save_backbone` wrote, and its checkpoint; passes `options` to timm.

    Raises:
        UsageError: there is no checkpoint, or it is not a backbone.
    """
    stored = checkpoint.load(folder_uri, KIND)
    model = timm.create_model(stored.metadata["model"], num_classes=0, **options)
    found = model.load_state_dict(stored.tensors, strict=False)
    lacking = [key for key in found.missing_keys if not key.endswith("num_batches_tracked")]
    if lacking or found.unexpected_keys:
        raise UsageError(
            f"{folder_uri} does not fit {stored.metadata['model']}: {[*lacking, *found.unexpected_keys][0]}"
        )
    return model, stored


def _load_checkpoint(config: RegionsConfig) -> TimmCells:
    model, stored = load_backbone(config.checkpoint)
    about = stored.metadata
    return TimmCells(model, config, name=about["model"], settings=about, digest=stored.digest)


def _named(config: RegionsConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Load a timm model by name without classifier, and its settings."""
    options = _size_options(config)
    if not config.weights:
        model = timm.create_model(config.model, num_classes=0, **options)
        return model, settings_of(model)
    if os.path.isfile(config.weights):
        overlay = {"file": config.weights, "custom_load": False, "url": "", "hf_hub_id": None}
        return _with_weights(config, options | {"pretrained_cfg_overlay": overlay}, config.model)
    tags = [name.partition(".")[2] for name in timm.list_models(f"{config.model}.*", pretrained=True)]
    if config.weights not in tags:
        raise UsageError(f"weights {config.weights!r}: neither a file nor one of {', '.join(tags) or 'none'}")
    try:
        return _with_weights(config, options, f"{config.model}.{config.weights}")
    except UsageError as error:
        raise StorageError(
            f"cannot fetch weights {config.weights} of {config.model}: {error}; without internet, name "
            "a local file in weights"
        ) from error


def _with_weights(
    config: RegionsConfig, options: dict[str, Any], name: str
) -> tuple[nn.Module, dict[str, Any]]:
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except (*LOAD_ERRORS, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"weights {config.weights!r} do not fit {config.model}: {reason}") from error
    return model, settings_of(model)


def _size_options(config: RegionsConfig) -> dict[str, Any]:
    """Return timm options for models whose weights depend on the image size."""
    cfg = timm.get_pretrained_cfg(config.model)
    if cfg is None or not cfg.fixed_input_size:
        return {}
    options: dict[str, Any] = {"img_size": config.short_side} if config.short_side else {}
    return options | ({"dynamic_img_size": True} if config.timm.resize == "fit" else {})


def settings_of(model: Any) -> dict[str, Any]:
    """Return the preprocessing settings of timm's config as JSON values."""
    return json.loads(json.dumps({key: model.pretrained_cfg[key] for key in SETTINGS}))
