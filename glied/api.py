"""The Python API: captions of images in a Python program, without Ray.

    from glied import Captioner

    captioner = Captioner.load("photographs")
    print(captioner.caption("photo.jpg").text)

The captions are those of the bulk job and of `glied caption-image`: it is their code that runs.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageOps

from glied import checkpoint, shipped
from glied.bulk.captioning import (
    CaptionConfig,
    CaptionDatasetConfig,
    CocaDatasetConfig,
    EndpointDatasetConfig,
    caption_factory,
    parse_captioning,
    without_scores,
)
from glied.bulk.items import Stage
from glied.bulk.row_schemas import FETCHED, OK, REJECTED
from glied.captioner.config import DecodingConfig
from glied.data.extractor_fingerprint import same_extractor
from glied.errors import GliedError, ImageError, JobError, UsageError

ImageLike = Image.Image | NDArray[np.uint8] | bytes | str | PathLike[str]
"""An image: of Pillow, an array [H, W, 3] of RGB, an encoded file's bytes, or a path."""

WORLDS = {"photographs": "caption/photographs.yaml", "demo": "caption/demo.yaml"}
"""Weights that ship, and the configs that caption with them."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class Caption:
    """The caption of an image.

    Attributes:
        text: the most probable caption.
        log_probability: of the text, under the captioner; None where the captioner does not give it.
        familiarity: share of the validation images that lie farther from the training images than this
            image; None where it is not known. Below 0.01 the caption means little.
        alternatives: the `n_best` captions with their log-probabilities, the best first; those of several
            prompts prompt by prompt.
        attributes: attribute words with their probabilities, the most probable first.
    """

    text: str
    log_probability: float | None
    familiarity: float | None
    alternatives: tuple[tuple[str, float | None], ...] = ()
    attributes: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        """The text."""
        return self.text


class Captioner:
    """Captions images with the captioner of one config, and the other models that it needs."""

    def __init__(self, config: CaptionConfig) -> None:
        """Load the models of a config; `load` finds it by name.

        Raises:
            UsageError: weights are missing, do not fit together, or need a GPU that is not there.
        """
        if isinstance(config, CaptionDatasetConfig) and config.regions.kind == "precomputed":
            raise UsageError(
                "regions.kind precomputed finds no regions in images: name a detector in regions"
            )
        self.config = config
        self._stage: Stage = caption_factory(without_scores(config)).build()

    @classmethod
    def load(
        cls,
        name: str | PathLike[str] = "photographs",
        *,
        config: str | PathLike[str] | None = None,
        device: str | None = None,
        beam_size: int | None = None,
        n_best: int | None = None,
        options: Mapping[str, object] | None = None,
    ) -> "Captioner":
        """Load a captioner and the models that it needs.

        Args:
            name: "photographs" or "demo", which ship; one of their variants, such as "demo/glied_cider"; a
                caption config, a path or a name that ships, such as "caption/coca.yaml"; or the checkpoint
                (folder or URI) of a captioner that you trained.
            config: caption config that finds regions and attributes for a checkpoint. By default that of the
                weights that ship and were trained on the same kind of regions.
            device: of torch, such as "cuda"; by default that of the config.
            beam_size: of the search; 1 is greedy decoding.
            n_best: how many captions `Caption.alternatives` has; at most `beam_size`.
            options: further settings by their keys in the config, such as {"captioner.url": "http://..."}.

        Raises:
            UsageError: there is no such captioner, or an option is out of range.
        """
        given = _config_of(str(name), None if config is None else str(config), _as_arguments(options or {}))
        return cls(_searched(given if device is None else _on(device, given), beam_size, n_best))

    # A str is a sequence of str, too; it is an image, the first signature.
    @overload
    def caption(self, images: ImageLike) -> Caption: ...  # type: ignore[overload-overlap]

    @overload
    def caption(self, images: Sequence[ImageLike]) -> list[Caption]: ...

    def caption(self, images: ImageLike | Sequence[ImageLike]) -> Caption | list[Caption]:
        """Caption an image, or a list of them.

        A file, given by its path or its bytes, is decoded as in the bulk job; of a Pillow image the
        orientation is applied and transparency is put on white, likewise.

        Raises:
            ImageError: an image cannot be decoded; of a list, the message says which.
            JobError: describing an image failed.
            FileNotFoundError: there is no such file.
        """
        if isinstance(images, Image.Image | np.ndarray | bytes | str | PathLike):
            return self._captions([images])[0]
        return self._captions(images)

    def _captions(self, images: Sequence[ImageLike]) -> list[Caption]:
        rows = self._stage(_fetched([_encoded(image) for image in images])).to_pylist()
        return [_caption(row, len(images)) for row in rows]


def captioner_names() -> list[str]:
    """Names that `Captioner.load` knows: of weights that ship, and their variants."""
    variants = [
        path.parent.relative_to(shipped.PACKAGE / "weights").as_posix()
        for path in sorted(shipped.PACKAGE.glob("weights/*/*/extractor.json"))
        if path.parent.name != "attributes"
    ]
    return [*WORLDS, *variants]


def _config_of(name: str, config: str | None, options: Sequence[str]) -> CaptionConfig:
    """The config that captions with what a name names."""
    if name in WORLDS:
        return _parsed(config or WORLDS[name], *options)
    if name.endswith((".yaml", ".yml")):
        return _parsed(name, *options)
    checkpoint_uri = f"{shipped.WEIGHTS}{name}" if name in captioner_names() else name
    config = config or _config_for(checkpoint_uri)
    return _parsed(config, f"--captioner.checkpoint={checkpoint_uri}", *options)


def _parsed(config: str, *options: str) -> CaptionConfig:
    return parse_captioning(["--config", config, *options])


def _as_arguments(options: Mapping[str, object]) -> list[str]:
    """Settings as on a command line, where lists and maps are JSON."""
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()
    ]


def _config_for(checkpoint_uri: str) -> str:
    """The config that ships whose regions a captioner was trained on."""
    try:
        trained_on = checkpoint.load(checkpoint_uri).extractor
    except UsageError as error:
        raise UsageError(f"{error}; captioners that ship: {', '.join(captioner_names())}") from error
    for world, config in WORLDS.items():
        shipped_one = checkpoint.load(f"{shipped.WEIGHTS}{world}/glied").extractor
        if trained_on and shipped_one and same_extractor(trained_on, shipped_one):
            return config
    raise UsageError(
        f"{checkpoint_uri} was trained on regions that no config that ships finds; pass the caption config "
        "that does as config"
    )


def _on(device: str, config: CaptionConfig) -> CaptionConfig:
    """The config with its models on a device."""
    if isinstance(config, CaptionDatasetConfig):
        return replace(config, regions=replace(config.regions, device=device))
    if isinstance(config, EndpointDatasetConfig):
        raise UsageError(f"device {device}: the model of an endpoint is where its server is; leave it out")
    captioner: Any = replace(config.captioner, device=device)
    return replace(config, captioner=captioner)


def _searched(config: CaptionConfig, beam_size: int | None, n_best: int | None) -> CaptionConfig:
    """The config with these options of the search."""
    if isinstance(config, CaptionDatasetConfig | CocaDatasetConfig):
        return replace(config, decoding=_decoding(config.decoding, beam_size, n_best))
    if beam_size is not None and isinstance(config, EndpointDatasetConfig):
        raise UsageError(f"beam_size {beam_size}: the server of an endpoint decides on that; leave it out")
    given = {"beam_size": beam_size, "n_best": n_best}
    generation: Any = config.captioner.generation
    generation = replace(generation, **{key: value for key, value in given.items() if value is not None})
    captioner: Any = replace(config.captioner, generation=generation)
    return replace(config, captioner=captioner)


def _decoding(decoding: DecodingConfig, beam_size: int | None, n_best: int | None) -> DecodingConfig:
    """The search with these options; a smaller beam returns fewer captions."""
    beams = decoding.beam_size if beam_size is None else beam_size
    if n_best is None:
        n_best = decoding.n_best if decoding.method == "sample" else max(min(decoding.n_best, beams), 1)
    return replace(decoding, beam_size=beams, n_best=n_best)


def _encoded(image: ImageLike) -> bytes:
    """The bytes of a file that holds the image."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        upright = upright.convert("RGB")
    file = io.BytesIO()
    upright.save(file, "PNG", compress_level=1, exif=b"")
    return file.getvalue()


def _fetched(files: list[bytes]) -> pa.Table:
    """The files as the bulk job's fetching stage gives them."""
    rows: list[dict[str, Any]] = [
        {"id": str(number), "uri": "", "data": data, "kind": None, "error": None}
        for number, data in enumerate(files)
    ]
    return pa.Table.from_pylist(rows, schema=FETCHED)


def _caption(row: dict[str, Any], images: int) -> Caption:
    """The caption of a row of the bulk job; raises where the row has none."""
    if row["status"] != OK:
        where = f"image {row['id']}: " if images > 1 else ""
        raise _failure(row, where)
    best, *_ = row["captions"]
    return Caption(
        text=row["caption"],
        log_probability=best["log_probability"],
        familiarity=row["familiarity"],
        alternatives=tuple((one["text"], one["log_probability"]) for one in row["captions"]),
        attributes=tuple((one["word"], one["probability"]) for one in row["attributes"] or ()),
    )


def _failure(row: dict[str, Any], where: str) -> GliedError:
    if row["status"] == REJECTED:
        return ImageError(row["error_kind"], f"{where}{row['error']}")
    return JobError(f"{where}{row['error_kind']}: {row['error']}")
