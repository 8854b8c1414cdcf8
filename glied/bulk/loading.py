"""Loads the models that a bulk job's factories name, where its stages run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import glied
from glied import checkpoint, storage
from glied.bulk import sinks
from glied.bulk.captioning import CaptionFactory, preprocessing
from glied.bulk.chunks import Stage
from glied.bulk.extraction import ExtractFactory
from glied.bulk.stages import (
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
from glied.datasets import features
from glied.datasets.extractors import check_trained_on
from glied.errors import UsageError
from glied.rewards.config import ClipConfig
from glied.vision.attributes import load_attributes
from glied.vision.config import RegionsConfig
from glied.vision.decoding import DecoderPool
from glied.vision.regions import RegionExtractor, load_extractor

SHIPPED = "glied/weights/"
"""Where the weights that ship are in the repository."""
_OTHER_REGIONS = "; --captioner.other_regions true captions all the same"

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.rewards.clip import ClipScorer


def caption_stage(factory: CaptionFactory) -> Stage:
    """The stage of a factory's part, with its models.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    if factory.part == "captions":
        return RegionsStage(_captions(factory), batch_size=factory.batch_size)
    extractor = _extractor(factory.regions)
    resolution = extractor.resolution
    describe: Describe
    if factory.part == "regions":
        describe = ExtractRegions(extractor, model="", dtype=TRANSIT)
    else:
        clip = _clip(factory.clip, factory.regions.device)
        if clip is not None:
            resolution = max(resolution[0], clip.resolution), max(resolution[1], clip.resolution)
        captions = _captions(factory)
        _check_regions(factory, captions, extractor.fingerprint)
        describe = CaptionImages(extractor, captions, clip)
    decoder = _decoder(factory, resolution)
    return ImageStage(describe, decoder, batch_size=factory.batch_size)


def caption_models(factory: CaptionFactory) -> tuple[RegionExtractor | None, Captioner]:
    """What finds the regions of a factory's images, None where they are stored, and what captions them.

    Raises:
        UsageError: as `caption_stage`.
    """
    extractor = None if factory.store else _extractor(factory.regions)
    captions = _captions(factory)
    _check_regions(factory, captions, regions_fingerprint(factory, extractor))
    return extractor, captions.captioner


def regions_fingerprint(factory: CaptionFactory, extractor: RegionExtractor | None) -> dict[str, Any]:
    """What the regions depend on, as a run records it; `extractor` as from `caption_models`."""
    if extractor is None:
        return features.fingerprint(factory.store)
    return _fingerprint(extractor, factory.regions)


def _check_regions(factory: CaptionFactory, captions: CaptionRegions, regions: Mapping[str, Any]) -> None:
    """Refuse regions that attributes and captioner were not trained on.

    Raises:
        UsageError: they were trained on those of another extractor.
    """
    if factory.other_regions:
        return
    source = factory.store or "this config"
    for name, uri, trained_on in (
        ("captioner", factory.captioner, captions.captioner.extractor),
        ("attributes", factory.attributes, captions.predictor.extractor),
    ):
        check_trained_on(f"{name}.checkpoint: {uri}", trained_on, regions, source, _OTHER_REGIONS)


def caption_fingerprint(factory: CaptionFactory) -> tuple[str, dict[str, Any]]:
    """Load everything once, on the CPU, so that mistakes are found early; what the captions depend on.

    Returns:
        The name of the weights, and the fingerprint.

    Raises:
        UsageError: as `caption_stage`, or the models do not fit together.
    """
    here = dataclasses.replace(factory, regions=dataclasses.replace(factory.regions, device="cpu"))
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
        "attributes": checkpoint.load(locate(here.attributes)).digest,
        "captioner": captioner.digest,
        "decoding": dataclasses.asdict(here.decoding),
        "preprocessing": preprocessing(here.missing_rows),
        "schema": sinks.SCHEMA_VERSION,
        **({} if captioner.familiarity is None else {"familiarity": captioner.familiarity.digest}),
    }


def extract_stage(factory: ExtractFactory) -> ImageStage:
    """The stage that finds regions.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    extractor = _extractor(factory.regions)
    describe = ExtractRegions(extractor, model=_name(extractor, factory.regions))
    decoder = _decoder(factory, extractor.resolution)
    return ImageStage(describe, decoder, batch_size=factory.batch_size, vary=factory.copy)


def extract_fingerprint(factory: ExtractFactory) -> tuple[str, dict[str, Any]]:
    """Load the detector once, on the CPU; its name and its fingerprint."""
    extractor = _extractor(dataclasses.replace(factory.regions, device="cpu"))
    return _name(extractor, factory.regions), _fingerprint(extractor, factory.regions)


def _decoder(factory: CaptionFactory | ExtractFactory, resolution: tuple[int, int]) -> Decoder:
    """What decodes the images of a stage.

    Raises:
        UsageError: a GPU is to decode, but the models are not on one.
    """
    device = factory.regions.device
    if factory.regions.jpeg == "gpu" and not device.startswith("cuda"):
        raise UsageError(f"regions.jpeg gpu needs a GPU in regions.device, which is {device}")
    pool = DecoderPool(factory.decoders, resolution=resolution, missing_rows=factory.missing_rows)
    if factory.regions.jpeg == "cpu":
        return pool
    from glied.vision.gpu_decoding import GpuDecoder  # torchvision is slow to import

    return GpuDecoder(pool, device)


def _fingerprint(extractor: RegionExtractor, config: RegionsConfig) -> dict[str, Any]:
    """The extractor's, with what decodes its images where that is not the usual."""
    return dict(extractor.fingerprint) | ({"jpeg": config.jpeg} if config.jpeg != "cpu" else {})


def _name(extractor: RegionExtractor, config: RegionsConfig) -> str:
    identity = json.dumps(_fingerprint(extractor, config), sort_keys=True)
    return f"{config.kind}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"


def _extractor(config: RegionsConfig) -> RegionExtractor:
    check_device(config.device)
    clip = config.clip and dataclasses.replace(config.clip, checkpoint=locate(config.clip.checkpoint))
    return load_extractor(dataclasses.replace(config, checkpoint=locate(config.checkpoint), clip=clip))


def _clip(config: ClipConfig | None, device: str) -> "ClipScorer | None":
    if config is None:
        return None
    from glied.rewards.clip import load_clip

    return load_clip(dataclasses.replace(config, checkpoint=locate(config.checkpoint), device=device))


def _captions(factory: CaptionFactory) -> CaptionRegions:
    device = check_device(factory.regions.device)
    predictor = load_attributes(locate(factory.attributes)).to(device)
    graphs = factory.cuda_graphs and device.type == "cuda"
    captioner = Captioner.load(locate(factory.captioner), factory.decoding, device, cuda_graphs=graphs)
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


def locate(uri: str) -> str:
    """A relative path that does not exist here is meant from the repository (shipped weights).

    Raises:
        UsageError: it names weights that ship, and the repository lacks them, too.
    """
    if not storage.is_local(uri) or Path(uri).is_absolute() or Path(uri).exists():
        return uri
    repository = Path(glied.__file__).parent.parent
    shipped = repository / uri
    if uri.startswith(SHIPPED) and not shipped.exists():
        raise UsageError(
            f"no checkpoint in {uri}: it ships with the repository, but {repository} lacks it. Run the job "
            "in a clone of the repository, or name other weights in the config"
        )
    return str(shipped) if shipped.exists() else uri
