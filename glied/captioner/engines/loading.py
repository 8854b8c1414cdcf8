"""Engines by their configs; nothing heavy is imported before it is needed."""

import importlib.util
from typing import Any, TypeAlias

from glied.captioner.config import DecodingConfig
from glied.captioner.engines.config import CocaConfig, EndpointConfig, TransformersConfig
from glied.captioner.engines.engine import Engine
from glied.errors import UsageError

EngineConfig: TypeAlias = CocaConfig | TransformersConfig | EndpointConfig


def load_engine(config: EngineConfig, decoding: DecodingConfig) -> Engine:
    """The engine that `config` names; only a CoCa is searched as `decoding` says.

    Raises:
        UsageError: a model or a package is missing, or they do not fit the config.
    """
    if isinstance(config, EndpointConfig):
        from glied.captioner.engines.endpoint import EndpointEngine

        return EndpointEngine(config)
    from glied.captioner.devices import check_device

    check_device(config.device, key="captioner.device")
    if isinstance(config, TransformersConfig):
        check_transformers()
        from glied.captioner.engines.hugging_face import TransformersEngine

        return TransformersEngine.load(config)
    from glied.captioner.engines.coca import CocaEngine

    return CocaEngine.load(config, decoding)


def inspect_engine(config: EngineConfig, decoding: DecodingConfig) -> tuple[str, dict[str, Any]]:
    """Name of the model and fingerprint, with the mistakes that can be found before a run begins.

    An endpoint is asked for one caption. The weights of a model of transformers are not loaded.

    Raises:
        UsageError: as `load_engine`, or the endpoint refuses a request.
    """
    if isinstance(config, EndpointConfig):
        from glied.captioner.engines.endpoint import EndpointEngine, endpoint_fingerprint

        engine = EndpointEngine(config)
        try:
            engine.check()
        finally:
            engine.close()
        return engine.name, endpoint_fingerprint(config)
    if isinstance(config, TransformersConfig):
        check_transformers()
        from glied.captioner.engines.hugging_face import (
            load_processor,
            model_name,
            transformers_fingerprint,
            weights_identity,
        )

        identity = weights_identity(config)
        load_processor(config.pinned(identity))
        return model_name(config, identity), transformers_fingerprint(config, identity)
    from glied.captioner.engines.coca import coca_fingerprint

    return coca_fingerprint(config, decoding)


def check_transformers() -> None:
    """Refuse to go on without the package transformers.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            'captioner.kind transformers needs the package of that name: pip install -e ".[transformers]"'
        )
