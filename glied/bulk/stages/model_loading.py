"""Loads the models that the specs of a bulk job's stages name, where its stages run."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glied import checkpoint_files
from glied.bulk.items import Stage
from glied.bulk.stages import specs
from glied.bulk.stages.describe import CaptionImages, CaptionRegions, Describe, ExtractRegions
from glied.bulk.stages.finishing import CaptionStage, FinishCaptions, Item, WithoutColumns
from glied.bulk.stages.specs import CaptionSpec, ExtractSpec, Inspection
from glied.bulk.stages.stage import DecodeImages, Decoder, DescribeStage, ReadRegions
from glied.captioner.captioner import Captioner
from glied.captioner.devices import check_device
from glied.clip.config import ClipConfig
from glied.data import features
from glied.data.extractor_fingerprint import check_trained_on
from glied.errors import UsageError
from glied.vision.attributes import load_attributes
from glied.vision.decoder_pool import DecoderPool
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import RegionExtractor, load_extractor

if TYPE_CHECKING:  # open_clip takes seconds to import
    from glied.clip.scorer import ClipScorer

_OTHER_REGIONS = "; --captioner.other_regions true captions all the same"


def caption_stage(spec: CaptionSpec) -> Stage:
    """The stage of a spec's part, with its models.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    clip = _clip(spec.clip, spec.regions.device)
    if spec.part == "captions":
        read = ReadRegions(batch_size=spec.batch_size, transit=not spec.store)
        return CaptionStage(read, _finished(spec, _captions(spec), clip))
    extractor = _with_vectors(_extractor(spec.regions), clip)
    decode = DecodeImages(_decoder(spec, extractor.resolution), batch_size=spec.batch_size)
    if spec.part == "regions":
        return DescribeStage(decode, ExtractRegions(extractor, model="", transit=True))
    captions = _captions(spec)
    _check_regions(spec, captions, extractor.fingerprint)
    return CaptionStage(decode, _finished(spec, CaptionImages(extractor, captions), clip))


def _finished(spec: CaptionSpec, describe: Describe[Item], clip: "ClipScorer | None") -> FinishCaptions[Item]:
    return FinishCaptions(WithoutColumns(describe), text=spec.text, quality=spec.quality, clip=clip)


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
    return specs.with_decoder(extractor.fingerprint, spec.regions)


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


def inspect_captions(spec: CaptionSpec) -> Inspection:
    """Load everything once, on the CPU, so that mistakes are found early; what the captions depend on.

    Raises:
        UsageError: as `caption_stage`, or the models do not fit together.
    """
    on_cpu = dataclasses.replace(spec, regions=dataclasses.replace(spec.regions, device="cpu"))
    captions = _captions(on_cpu)
    captioner = captions.captioner
    extractor = None if on_cpu.store else _extractor(on_cpu.regions)
    feature_size = features.feature_size(on_cpu.store) if extractor is None else extractor.feature_size
    sizes = (feature_size, captions.predictor.feature_size, captioner.model.feature_size)
    if len(set(sizes)) > 1:
        raise UsageError(f"regions, attributes and captioner do not fit: their features have {sizes} values")
    regions = regions_fingerprint(on_cpu, extractor)
    _check_regions(on_cpu, captions, regions)
    clip = _clip(on_cpu.clip, "cpu")
    return specs.captions_inspection(
        on_cpu,
        architecture=captioner.model.config.architecture,
        regions=regions,
        attributes=checkpoint_files.inspect(on_cpu.attributes).digest,
        captioner=captioner.digest,
        familiarity=captioner.familiarity,
        clip=None if clip is None else clip.fingerprint,
    )


def extract_stage(spec: ExtractSpec) -> Stage:
    """The stage that finds regions.

    Raises:
        UsageError: a checkpoint is missing or of another kind.
    """
    extractor = _extractor(spec.regions)
    fingerprint = specs.with_decoder(extractor.fingerprint, spec.regions)
    describe = ExtractRegions(extractor, model=specs.extractor_name(spec.regions, fingerprint))
    decoder = _decoder(spec, extractor.resolution)
    vary = spec.copy
    return DescribeStage(DecodeImages(decoder, batch_size=spec.batch_size, vary=vary), describe)


def inspect_regions(spec: ExtractSpec) -> Inspection:
    """Load the extractor once, on the CPU; what its regions depend on."""
    extractor = _extractor(dataclasses.replace(spec.regions, device="cpu"))
    fingerprint = specs.with_decoder(extractor.fingerprint, spec.regions)
    return Inspection(specs.extractor_name(spec.regions, fingerprint), fingerprint)


def _decoder(spec: CaptionSpec | ExtractSpec, resolution: tuple[int, int]) -> Decoder:
    """What decodes the images of a stage.

    Raises:
        UsageError: a GPU is to decode, but the models are not on one.
    """
    device = spec.regions.device
    if spec.regions.compute.jpeg == "gpu" and not device.startswith("cuda"):
        raise UsageError(f"regions.compute.jpeg gpu needs a GPU in regions.device, which is {device}")
    pool = DecoderPool(spec.decoders, resolution=resolution, missing_rows=spec.missing_rows)
    if spec.regions.compute.jpeg == "cpu":
        return pool
    from glied.vision.gpu_decoder import GpuDecoder  # torchvision is slow to import

    return GpuDecoder(pool, device)


def _extractor(config: RegionsConfig) -> RegionExtractor:
    check_device(config.device, key="regions.device")
    return load_extractor(config)


def _clip(config: ClipConfig | None, device: str) -> "ClipScorer | None":
    if config is None:
        return None
    check_device(device, key="regions.device")
    from glied.clip.scorer import load_clip

    return load_clip(dataclasses.replace(config, device=device))


def _with_vectors(extractor: RegionExtractor, clip: "ClipScorer | None") -> RegionExtractor:
    if clip is None:
        return extractor
    from glied.vision.extractors.image_vectors import WithImageVectors

    return WithImageVectors(extractor, clip)


def _captions(spec: CaptionSpec) -> CaptionRegions:
    device = check_device(spec.regions.device, key="regions.device")
    predictor = load_attributes(spec.attributes).to(device)
    graphs = spec.cuda_graphs and device.type == "cuda"
    captioner = Captioner.load(spec.captioner, spec.decoding, device, cuda_graphs=graphs)
    name = specs.captioner_name(captioner.model.config.architecture, captioner.digest)
    return CaptionRegions(predictor, captioner, model=name)
