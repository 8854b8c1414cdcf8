"""What decides the regions of an extractor, as JSON values; no torch here, since drivers of jobs use it.

A feature store, a run and a captioner's checkpoint keep the fingerprint of their extractor.
"""

from collections.abc import Mapping
from typing import Any

from glied.vision.extractors.config import RegionsConfig


def detector_fingerprint(config: RegionsConfig, *, weights: str) -> dict[str, Any]:
    """Of torchvision's detectors; `weights` is their digest."""
    return {"weights": weights, **config.decisive()}


def timm_fingerprint(
    config: RegionsConfig, *, model: str, weights: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the cells of a timm backbone.

    Args:
        config: size, levels and precision.
        model: timm's name of it.
        weights: their digest.
        settings: of timm's pretrained config: `mean`, `std`, `interpolation`, `input_size`.
    """
    return {
        "kind": "timm",
        "model": model,
        "weights": weights,
        "size": side(config, settings),
        "resize": config.timm.resize,
        "levels": list(config.timm.levels),
        "cells": config.timm.cells,
        "dtype": config.compute.dtype,
        **{key: settings[key] for key in ("mean", "std", "interpolation")},
    }


def side(config: RegionsConfig, settings: Mapping[str, Any]) -> int:
    """Side in pixels of the square that a timm backbone's images become."""
    return config.short_side or int(settings["input_size"][-1])
