"""Factories of the stages: small, picklable and light, since a run's driver need not import torch.

`build` imports `model_loading`, which loads the models. `inspect` reads their checkpoints' metadata; only
where that does not tell enough are they loaded.
"""

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from glied.bulk.child_process import in_child
from glied.bulk.items import Stage
from glied.bulk.stages import inspection, specs
from glied.bulk.stages.specs import CaptionSpec, EngineSpec, ExtractSpec, Inspection
from glied.captioner.engines.config import EndpointConfig
from glied.captioner.engines.loading import inspect_engine


@dataclass(frozen=True)
class CaptionFactory(CaptionSpec):
    """Builds a captioning stage where it runs."""

    def build(self) -> Stage:
        """Load the models of the part; see `model_loading.caption_stage`."""
        from glied.bulk.stages import model_loading

        return model_loading.caption_stage(self)

    def inspect(self) -> Inspection:
        """What the captions depend on.

        Raises:
            UsageError: a checkpoint is missing or of another kind, or the models do not fit together.
        """
        return inspection.inspect_captions(self) or with_models(partial(_load_captions, self))


@dataclass(frozen=True)
class EngineFactory(EngineSpec):
    """Builds the stage of a whole-image captioner where it runs."""

    def build(self) -> Stage:
        """Load the engine; see `engine_stage.engine_stage`."""
        from glied.bulk.stages import engine_stage

        return engine_stage.engine_stage(self)

    def inspect(self) -> Inspection:
        """What the captions depend on.

        Raises:
            UsageError: a model or a package is missing, or an endpoint refuses a request.
        """
        if isinstance(self.engine, EndpointConfig) and self.clip is None:  # no torch
            return _inspect_engine(self)
        return with_models(partial(_inspect_engine, self))


@dataclass(frozen=True)
class ExtractFactory(ExtractSpec):
    """Builds the extraction stage where it runs."""

    def build(self) -> Stage:
        """Load the detector; see `model_loading.extract_stage`."""
        from glied.bulk.stages import model_loading

        return model_loading.extract_stage(self)

    def inspect(self) -> Inspection:
        """What the regions depend on; raises as that of `CaptionFactory`."""
        return inspection.inspect_regions(self) or with_models(partial(_load_regions, self))


def with_models(inspect: Callable[[], Inspection]) -> Inspection:
    """Call what loads models: in a process of its own, unless this one has torch already.

    torch takes 450 MB of the process that imports it, for good.
    """
    return inspect() if "torch" in sys.modules else in_child(inspect, purpose="looks at the models")


def _inspect_engine(spec: EngineSpec) -> Inspection:
    name, captioner = inspect_engine(spec.engine, spec.decoding)
    clip = None
    if spec.clip is not None:
        from glied.clip.scorer import load_clip

        clip = load_clip(dataclasses.replace(spec.clip, device="cpu")).fingerprint
    fingerprint = {"captioner": captioner} | specs.common_fingerprint(spec, clip)
    return Inspection(name, json.loads(json.dumps(fingerprint)))


def _load_captions(spec: CaptionSpec) -> Inspection:
    from glied.bulk.stages import model_loading

    return model_loading.inspect_captions(spec)


def _load_regions(spec: ExtractSpec) -> Inspection:
    from glied.bulk.stages import model_loading

    return model_loading.inspect_regions(spec)
