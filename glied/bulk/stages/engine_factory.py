"""The factory of the stage of whole-image captioners: small, picklable and light, as those in `factories`."""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial

from glied.bulk import row_schemas
from glied.bulk.items import Stage
from glied.bulk.stages.factories import with_models
from glied.bulk.stages.specs import EngineSpec, Inspection, preprocessing
from glied.captioner.engines.config import EndpointConfig
from glied.captioner.engines.loading import inspect_engine
from glied.clip.config import ClipConfig


@dataclass(frozen=True)
class EngineFactory(EngineSpec):
    """Builds the stage where it runs."""

    def build(self) -> Stage:
        """Load the engine; see `engine_stage.engine_stage`."""
        from glied.bulk.stages import engine_stage

        return engine_stage.engine_stage(self)

    def inspect(self) -> Inspection:
        """What the captions depend on.

        Raises:
            UsageError: a model or a package is missing, or an endpoint refuses a request.
        """
        if isinstance(self.captioner, EndpointConfig) and self.clip is None:  # no torch
            return inspect_spec(self)
        return with_models(partial(inspect_spec, self))


def inspect_spec(spec: EngineSpec) -> Inspection:
    """What the captions depend on; raises as `EngineFactory.inspect`."""
    name, captioner = inspect_engine(spec.captioner, spec.decoding)
    fingerprint = {
        "captioner": captioner,
        "clip": _clip_fingerprint(spec.clip),
        "preprocessing": preprocessing(spec.missing_rows),
        "schema": row_schemas.SCHEMA_VERSION,
    }
    return Inspection(name, json.loads(json.dumps(fingerprint)))


def _clip_fingerprint(config: ClipConfig | None) -> dict[str, object] | None:
    if config is None:
        return None
    from glied.clip.scorer import load_clip

    return dict(load_clip(dataclasses.replace(config, device="cpu")).fingerprint)
