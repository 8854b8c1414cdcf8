"""The stage of captioners of whole images: decoded images to captions by an engine. No Ray here."""

import dataclasses
from collections.abc import Sequence

from glied.bulk import row_schemas
from glied.bulk.items import Stage
from glied.bulk.stages.describe import Row
from glied.bulk.stages.finishing import CaptionStage, Entry, FinishCaptions
from glied.bulk.stages.specs import EngineSpec
from glied.bulk.stages.stage import DecodeImages
from glied.captioner.engines.config import CostConfig, EndpointConfig
from glied.captioner.engines.engine import Engine, EngineCaption, Failure, with_text
from glied.captioner.engines.loading import load_engine
from glied.captioner.engines.prompts import prompted_columns
from glied.clock import Clock
from glied.vision.decoder_pool import DecoderPool
from glied.vision.images import Picture


class CaptionWithEngine:
    """Captions of decoded images by an engine; implements `Describe`."""

    schema = row_schemas.CAPTIONS

    def __init__(self, engine: Engine) -> None:
        """The engine is on its device."""
        self.engine = engine
        self.model = engine.name

    def __call__(self, batch: Sequence[Entry[Picture]], clock: Clock) -> list[Row]:
        """Columns captions, width, height; or why there is no caption."""
        with clock.measure("captions"):
            outcomes = self.engine.caption([one.item.pixels for one in batch], [one.columns for one in batch])
        return [_row(one.item, with_text(outcome)) for one, outcome in zip(batch, outcomes, strict=True)]


def engine_stage(spec: EngineSpec) -> Stage:
    """The stage of a spec, with its engine.

    Raises:
        UsageError: a model, a package or a GPU is missing.
    """
    engine = load_engine(spec.engine, spec.decoding)
    resolution, clip = engine.resolution, None
    if spec.clip is not None:
        from glied.clip.scorer import load_clip

        clip = load_clip(spec.clip)
        resolution = max(resolution[0], clip.resolution), max(resolution[1], clip.resolution)
    pool = DecoderPool(spec.decoders, resolution=resolution, missing_rows=spec.missing_rows)
    read = DecodeImages(pool, batch_size=spec.batch_size)
    describe = FinishCaptions(CaptionWithEngine(engine), text=spec.text, quality=spec.quality, clip=clip)
    columns = prompted_columns(getattr(spec.engine, "prompts", {}))
    if not isinstance(spec.engine, EndpointConfig):
        return CaptionStage(read, describe, columns=columns)
    prices = spec.engine.cost
    return CaptionStage(read, describe, columns=columns, take_usage=lambda: _billed(engine, prices))


def _billed(engine: Engine, prices: CostConfig) -> dict[str, float]:
    """Requests, tokens and cost since the last call of this function."""
    used = engine.usage()
    cost = used.cost(prompt_price=prices.prompt_price, completion_price=prices.completion_price)
    return vars(used) | {"cost": cost}


def _row(image: Picture, outcome: list[EngineCaption] | Failure) -> Row:
    size = {"width": image.width, "height": image.height}
    if isinstance(outcome, Failure):
        return size | {"status": outcome.status, "error_kind": outcome.kind, "error": outcome.message}
    return size | {"captions": [dataclasses.asdict(one) | {"prompt": one.prompt or None} for one in outcome]}
