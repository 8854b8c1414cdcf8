"""What a run records of its models, read from their checkpoints' metadata: no model is loaded, nor torch.

Where the metadata does not tell that the models fit together, the answer is None: the caller loads them, and
`model_loading` says what is wrong.
"""

from typing import Any

from glied import checkpoint_files
from glied.bulk.stages import specs
from glied.bulk.stages.specs import CaptionSpec, ExtractSpec, Inspection
from glied.captioner.familiarity import load_familiarity
from glied.checkpoint_files import CheckpointInfo
from glied.clip.fingerprint import stored_fingerprint
from glied.data import features
from glied.data.extractor_fingerprint import same_extractor
from glied.text.vocabulary import Vocabulary
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.fingerprints import detector_fingerprint, timm_fingerprint


def inspect_captions(spec: CaptionSpec) -> Inspection | None:
    """What a captioning run depends on, if the metadata shows that its models fit together.

    Raises:
        UsageError: a checkpoint is missing or broken, or the store is.
    """
    attributes = checkpoint_files.inspect(spec.attributes)
    captioner = checkpoint_files.inspect(spec.captioner)
    regions = features.fingerprint(spec.store) if spec.store else _regions(spec.regions)
    familiarity = load_familiarity(spec.captioner)
    clip = None if spec.clip is None else stored_fingerprint(spec.clip)
    if regions is None or (spec.clip is not None and clip is None):  # their fingerprints take the models
        return None
    if not (_is_usable(spec, captioner) and attributes.kind == "attributes"):
        return None
    size = captioner.metadata["feature_size"]
    if attributes.metadata["feature_size"] != size:
        return None
    if familiarity is not None and familiarity.feature_size != size:
        return None
    if not all(_was_trained_on(regions, model) for model in (attributes, captioner)):
        return None
    return specs.captions_inspection(
        spec,
        architecture=captioner.metadata["config"].get("architecture", "glied"),
        regions=regions,
        attributes=attributes.digest,
        captioner=captioner.digest,
        familiarity=familiarity,
        clip=clip,
    )


def inspect_regions(spec: ExtractSpec) -> Inspection | None:
    """What an extraction depends on, if the metadata of the extractor tells all of it.

    Raises:
        UsageError: the checkpoint is missing or broken.
    """
    if spec.regions.kind != "torchvision":  # only the others can refuse a setting once they are loaded
        return None
    regions = _regions(spec.regions)
    if regions is None:
        return None
    return Inspection(specs.extractor_name(spec.regions, regions), regions)


def _regions(config: RegionsConfig) -> dict[str, Any] | None:
    """The fingerprint of the extractor; None where only the loaded extractor has it."""
    if not config.checkpoint or config.kind not in ("torchvision", "timm"):
        return None
    info = checkpoint_files.inspect(config.checkpoint)
    known = (config.kind, info.kind)
    if known == ("torchvision", "detector"):
        return specs.with_decoder(detector_fingerprint(config, weights=info.digest), config)
    if known == ("timm", "backbone"):
        about = info.metadata
        found = timm_fingerprint(config, model=about["model"], weights=info.digest, settings=about)
        return specs.with_decoder(found, config)
    return None


def _is_usable(spec: CaptionSpec, captioner: CheckpointInfo) -> bool:
    if captioner.kind != "captioner":
        return False
    about = captioner.metadata
    vocabulary = Vocabulary.from_json(about["vocabulary"], about["vocabulary_digest"])
    return all(word in vocabulary for word in spec.decoding.suppress)


def _was_trained_on(regions: dict[str, Any], model: CheckpointInfo) -> bool:
    """Whether it is known that a model was trained on these regions, so that their size is that it reads."""
    return model.extractor is not None and same_extractor(model.extractor, regions)
