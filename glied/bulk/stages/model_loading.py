"""Loads the models that the specs of a bulk job's stages name, where its stages run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from glied import checkpoint
from glied.bulk import row_schemas
from glied.bulk.chunks import Stage
from glied.bulk.stages.specs import CaptionSpec, ExtractSpec, preprocessing
from glied.bulk.stages.stages import (
    TRANSIT,
    CaptionImages,
    CaptionRegions,
    Decoder,
    Describe,
    ExtractRegions,
    ImageStage,
    RegionsStage,
)
from glied.captioner.captioner import Captioner
from glied.clip.config import ClipConfig
from glied.data import features
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.vision.attributes import load_attributes
from glied.vision.decoder_pool import DecoderPool
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import RegionExtractor, load_extractor

_OTHER_REGIONS = "; --captioner.other_regions true captions all the same"

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer


def caption_stage(spec: CaptionSpec) -> Stage:
    """The stage of a spec's part, with its models.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    if spec.part == "captions":
        return RegionsStage(_captions(spec), batch_size=spec.batch_size)
    extractor = _extractor(spec.regions)
    resolution = extractor.resolution
    describe: Describe
    if spec.part == "regions":
        describe = ExtractRegions(extractor, model="", dtype=TRANSIT)
    else:
        clip = _clip(spec.clip, spec.regions.device)
        if clip is not None:
            resolution = max(resolution[0], clip.resolution), max(resolution[1], clip.resolution)
        captions = _captions(spec)
        _check_regions(spec, captions, extractor.fingerprint)
        describe = CaptionImages(extractor, captions, clip)
    decoder = _decoder(spec, resolution)
    return ImageStage(describe, decoder, batch_size=spec.batch_size)


def caption_models(spec: CaptionSpec) -> tuple[RegionExtractor | None, Captioner]:
    """What finds the regions of a spec's images, None where they are stored, and what captions them.

    Raises:
        UsageError: as `caption_stage`.
    """
    extractor = None if spec.store else _extractor(spec.regions)
    captions = _captions(spec)
    _check_regions(spec, captions, regions_fingerprint(spec, extractor))
    return extractor, captions.captioner


def regions_fingerprint(spec: CaptionSpec, extractor: RegionExtractor | None) -> dict[str, Any]:
    """What the regions depend on, as a run records it; `extractor` as from `caption_models`."""
    if extractor is None:
        return features.fingerprint(spec.store)
    return _fingerprint(extractor, spec.regions)


def _check_regions(spec: CaptionSpec, captions: CaptionRegions, regions: Mapping[str, Any]) -> None:
    """Refuse regions that attributes and captioner were not trained on.

    Raises:
        UsageError: they were trained on those of another extractor.
    """
    if spec.other_regions:
        return
    source = spec.store or "this config"
    for name, uri, trained_on in (
        ("captioner", spec.captioner, captions.captioner.extractor),
        ("attributes", spec.attributes, captions.predictor.extractor),
    ):
        check_trained_on(f"{name}.checkpoint: {uri}", trained_on, regions, source, _OTHER_REGIONS)


def caption_fingerprint(spec: CaptionSpec) -> tuple[str, dict[str, Any]]:
    """Load everything once, on the CPU, so that mistakes are found early; what the captions depend on.

    Returns:
        The name of the weights, and the fingerprint.

    Raises:
        UsageError: as `caption_stage`, or the models do not fit together.
    """
    here = dataclasses.replace(spec, regions=dataclasses.replace(spec.regions, device="cpu"))
    captions = _captions(here)
    captioner = captions.captioner
    extractor = None if here.store else _extractor(here.regions)
    feature_size = features.feature_size(here.store) if extractor is None else extractor.feature_size
    sizes = (feature_size, captions.predictor.feature_size, captioner.model.feature_size)
    if len(set(sizes)) > 1:
        raise UsageError(f"regions, attributes and captioner do not fit: their features have {sizes} values")
    regions = regions_fingerprint(here, extractor)
    _check_regions(here, captions, regions)
    clip = _clip(here.clip, "cpu")
    return captions.model, {
        "clip": None if clip is None else dict(clip.fingerprint),
        "regions": regions,
        "attributes": checkpoint.load(here.attributes).digest,
        "captioner": captioner.digest,
        "decoding": dataclasses.asdict(here.decoding),
        "preprocessing": preprocessing(here.missing_rows),
        "schema": row_schemas.SCHEMA_VERSION,
        **({} if captioner.familiarity is None else {"familiarity": captioner.familiarity.digest}),
    }


def extract_stage(spec: ExtractSpec) -> ImageStage:
    """The stage that finds regions.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    extractor = _extractor(spec.regions)
    describe = ExtractRegions(extractor, model=_name(extractor, spec.regions))
    decoder = _decoder(spec, extractor.resolution)
    return ImageStage(describe, decoder, batch_size=spec.batch_size, vary=spec.copy)


def extract_fingerprint(spec: ExtractSpec) -> tuple[str, dict[str, Any]]:
    """Load the detector once, on the CPU; its name and its fingerprint."""
    extractor = _extractor(dataclasses.replace(spec.regions, device="cpu"))
    return _name(extractor, spec.regions), _fingerprint(extractor, spec.regions)


def _decoder(spec: CaptionSpec | ExtractSpec, resolution: tuple[int, int]) -> Decoder:
    """What decodes the images of a stage.

    Raises:
        UsageError: a GPU is to decode, but the models are not on one.
    """
    device = spec.regions.device
    if spec.regions.jpeg == "gpu" and not device.startswith("cuda"):
        raise UsageError(f"regions.jpeg gpu needs a GPU in regions.device, which is {device}")
    pool = DecoderPool(spec.decoders, resolution=resolution, missing_rows=spec.missing_rows)
    if spec.regions.jpeg == "cpu":
        return pool
    from glied.vision.gpu_decoder import GpuDecoder  # torchvision is slow to import

    return GpuDecoder(pool, device)


def _fingerprint(extractor: RegionExtractor, config: RegionsConfig) -> dict[str, Any]:
    """The extractor's, with what decodes its images where that is not the usual."""
    return dict(extractor.fingerprint) | ({"jpeg": config.jpeg} if config.jpeg != "cpu" else {})


def _name(extractor: RegionExtractor, config: RegionsConfig) -> str:
    identity = json.dumps(_fingerprint(extractor, config), sort_keys=True)
    return f"{config.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _extractor(config: RegionsConfig) -> RegionExtractor:
    check_device(config.device)
    return load_extractor(config)


def _clip(config: ClipConfig | None, device: str) -> "ClipScorer | None":
    if config is None:
        return None
    from glied.clip.scorer import load_clip

    return load_clip(dataclasses.replace(config, device=device))


def _captions(spec: CaptionSpec) -> CaptionRegions:
    device = check_device(spec.regions.device)
    predictor = load_attributes(spec.attributes).to(device)
    graphs = spec.cuda_graphs and device.type == "cuda"
    captioner = Captioner.load(spec.captioner, spec.decoding, device, cuda_graphs=graphs)
    name = f"{captioner.model.config.architecture}-{captioner.digest[:12]}"
    return CaptionRegions(predictor, captioner, model=name)


def check_device(name: str) -> torch.device:
    """The torch device, if this machine has it."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"regions.device: {name} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"regions.device: {name}, but there is no GPU here (resources.worker_gpus is what asks for one)"
        )
    return device
