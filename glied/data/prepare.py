"""Preparation of published datasets or your own captions for the training recipes for photographs.

<out>/<split>/captions.json   references in COCO's format; splits train, val, test
<out>/<split>/images/         photographs of the split, if they come in archives
<out>/<split>/images.csv      locations of the photographs, if they are in a folder (input.form table)
<out>/vocabulary.json         words of the captioner (words.vocabulary)
<out>/cider/                  document frequencies of the training references (reward.frequencies)
<out>/attributes.json         most frequent words, for the attribute predictor (word_list)
<out>/manifest.json           sizes and digests of these files, and the numbers of images and captions
<out>/downloads/              downloaded files, with downloads.json
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from glied import storage
from glied.config_keys import with_former_keys
from glied.data import caption_files, coco
from glied.data.coco import SPLITS, CaptionedImage
from glied.data.dataset_zips import annotated_images, json_in, unpack
from glied.data.download import Asset, AssetConfig, Downloads
from glied.data.photograph_folder import PhotographFolder
from glied.errors import JobError, UsageError
from glied.text.vocabulary import Vocabulary, by_count, image_counts

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"

Splits = dict[str, list[CaptionedImage]]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How your own captions are split."""

    val: int = 1000
    """Number of validation images to draw; see `glied.data.coco.split_images`."""
    test: int = 1000
    """Number of test images to draw."""
    seed: int = 0
    """Seed of the drawing."""
    val_list: str = ""
    """File that names the validation images instead: one name or id per line, or a captions file."""
    test_list: str = ""
    """File that names the test images instead."""

    def __post_init__(self) -> None:
        """Reject empty splits."""
        if min(self.val, self.test) < 1:
            raise UsageError(f"split.val {self.val} and split.test {self.test} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class KarpathyConfig:
    """Captions and splits of the published datasets."""

    splits: AssetConfig | None = None
    """Karpathy's splits: caption_datasets.zip, or a dataset_*.json."""
    sizes: AssetConfig | None = None
    """Zip of COCO annotation files with the sizes of the images; null omits sizes from captions.json."""
    restval: bool = True
    """Also train on the rest of COCO's validation images, as is common (113,287 images)."""


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The dataset to prepare and its source files."""

    RENAMED: ClassVar[Mapping[str, str]] = {key: f"karpathy.{key}" for key in ("splits", "sizes", "restval")}

    out: str
    """Local output folder."""
    dataset: Literal["coco", "flickr8k", "flickr30k", "own"]
    """Which of Karpathy's splits to prepare; own: the files in `captions`."""
    karpathy: KarpathyConfig = field(default_factory=KarpathyConfig)
    """For the published datasets: the files with splits and captions."""
    captions: list[str] = field(default_factory=list)
    """For `own`: captions files (paths or URIs): COCO's JSON, JSON lines or a table (docs/inputs.md)."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """For `own`: how the captions are split."""
    archives: list[AssetConfig] = field(default_factory=list)
    """Zips with the photographs, to be unpacked into the folders of the splits; empty if features are
    imported and no job reads pixels."""
    images: str = ""
    """Folder (path or URI) of the photographs, instead of `archives`; they stay there. Photographs may be in
    subfolders, as long as their names are unique."""
    skip_missing: bool = False
    """Skip images whose photograph is not in `images`, instead of failing."""
    minimum_count: int = 6
    """Words that occur less often in the captions of all splits are unknown; commonly "count > 5"."""
    attribute_words: int = 1000
    """Number of attribute words: the most frequent words of the training captions, counted once per image."""
    expected: list[int] = field(default_factory=list)
    """Expected numbers of images in train, val and test; empty for no check."""
    verify: bool = False
    """Verify the digests of existing files, instead of sizes and times only."""

    def __post_init__(self) -> None:
        """Reject conflicting settings."""
        if not storage.is_local(self.out):
            raise UsageError(f"out: {self.out} is not a local path")
        own = self.dataset == "own"
        if own != bool(self.captions) or own == bool(self.karpathy.splits):
            raise UsageError("dataset own takes captions, the others take karpathy.splits")
        if self.archives and self.images:
            raise UsageError("give archives or images, not both")
        names = [asset.name for asset in self.assets if asset.remote]
        if len(set(names)) < len(names):
            raise UsageError(f"two downloads have the same file name: {', '.join(sorted(names))}")
        if self.expected and len(self.expected) != len(SPLITS):
            raise UsageError(f"expected: {self.expected} is not a list of three numbers (train, val, test)")
        if min(self.minimum_count, self.attribute_words) < 1:
            raise UsageError("minimum_count and attribute_words must be at least 1")

    @property
    def assets(self) -> list[AssetConfig]:
        """All files that may have to be downloaded."""
        assets = (self.karpathy.splits, self.karpathy.sizes, *self.archives)
        return [asset for asset in assets if asset is not None]


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Create the missing files of the output folder and return the content of its manifest.

    Raises:
        UsageError: an input is missing or malformed, photographs are not in `images`, or another process is
            preparing the same folder.
        JobError: a download failed or has another digest, an archive is broken, images are missing, or the
            numbers of images are not the expected ones.
    """
    out = storage.local_path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        return _Preparation(config, out).run()


class _Preparation:
    """One run of `prepare`."""

    def __init__(self, config: PrepareConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.downloads = Downloads(out / "downloads", verify=config.verify)
        self.folder = PhotographFolder(config.images)
        self.facts: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Run all steps, unless the manifest shows that they are complete."""
        done = _read_manifest(self.out)
        if done is not None and self._is_complete(done):
            log.info("%s: complete, nothing to do", self.out)
            return done
        assets = {asset.url: self.downloads.get(asset) for asset in self.config.assets}
        identity = self._identity({url: asset.sha256 for url, asset in assets.items()})
        splits = self._splits(assets)
        self._check_numbers(splits)
        if self.config.images and not self.config.skip_missing:
            self.folder.check(splits)
        files = self._tables(splits)
        files |= self._photographs(splits, assets)
        manifest = {
            "dataset": self.config.dataset,
            "images": {split: len(images) for split, images in splits.items()},
            "captions": {name: sum(len(one.captions) for one in images) for name, images in splits.items()},
            **self.facts,
            "downloads": {url: _described(asset) for url, asset in assets.items()},
            "files": files,
            "made_of": identity,
        }
        storage.write_bytes(str(self.out / MANIFEST), json.dumps(manifest, indent=1).encode() + b"\n")
        return manifest

    def _is_complete(self, done: dict[str, Any]) -> bool:
        """Whether a manifest belongs to this config and its files exist; downloads may have been deleted."""
        found = {asset.url: self.downloads.known(asset) for asset in self.config.assets}
        digests = {url: sha256 for url, sha256 in found.items() if sha256 is not None}
        return done["made_of"] == self._identity(digests) and self._is_intact(done)

    def _identity(self, assets: dict[str, str]) -> dict[str, Any]:
        """Return what the files depend on; if it changes, they are created again."""
        settings = with_former_keys(self.config)
        for name in ("out", "verify", "splits", "sizes", "archives"):
            del settings[name]
        if not self.config.skip_missing:  # older manifests do not have this setting
            del settings["skip_missing"]
        own = [("captions", uri) for uri in self.config.captions]
        own += [
            ("split.val_list", self.config.split.val_list),
            ("split.test_list", self.config.split.test_list),
        ]
        digests = {uri: hashlib.sha256(_read(uri, option)).hexdigest() for option, uri in own if uri}
        return {"settings": settings, "files": digests | assets}

    def _is_intact(self, done: dict[str, Any]) -> bool:
        unpacked = done.get("photographs", {})
        there = {split: _count(self.out / split / "images") for split in unpacked}
        files = done["files"].items()
        verify = self.config.verify
        return there == unpacked and all(_matches(self.out / name, one, verify) for name, one in files)

    def _splits(self, assets: dict[str, Asset]) -> Splits:
        """Return the images of each split with their captions."""
        config, published = self.config, self.config.karpathy
        if published.splits is None:
            images = [image for uri in config.captions for image in coco.load_images(uri)]
            _check_unique(images)
            if config.images and config.skip_missing:
                images = self._with_photographs(images)
            images = self.folder.without_folders(images)
            named = {
                split: _names(uri)
                for split, uri in (("val", config.split.val_list), ("test", config.split.test_list))
                if uri
            }
            split = config.split
            return coco.split_images(images, val=split.val, test=split.test, seed=split.seed, named=named)
        name = f"dataset_{config.dataset}.json"
        path = assets[published.splits.url].path
        found = coco.read_karpathy(json_in(path, name), f"{path}: {name}", restval=published.restval)
        self.facts |= {"published_words": found.published_words, "left_out": found.left_out}
        if published.sizes is None:
            return found.images
        entries = list(annotated_images(assets[published.sizes.url].path))
        return {name: coco.with_sizes(images, entries) for name, images in found.images.items()}

    def _check_numbers(self, splits: Splits) -> None:
        numbers = [len(splits[split]) for split in SPLITS]
        if self.config.expected and numbers != self.config.expected:
            raise JobError(
                f"{self.config.dataset} has {numbers} images in {', '.join(SPLITS)}, expected "
                f"{self.config.expected}: the split file is a different one"
            )

    def _tables(self, splits: Splits) -> dict[str, Any]:
        """Write references, word lists and document frequencies."""
        from glied.text.references import save_frequencies  # needs torch, which a second run does not import

        out, training = self.out, {image.file_name: image.captions for image in splits["train"]}
        files = {f"{name}/captions.json": coco.write_captions(images) for name, images in splits.items()}
        every = (text for images in splits.values() for image in images for text in image.captions)
        vocabulary = Vocabulary.from_captions(every, self.config.minimum_count)
        if not vocabulary.to_json():
            count = self.config.minimum_count
            raise UsageError(
                f"no word of the captions occurs {count} times: lower minimum_count or add captions"
            )
        words = by_count(image_counts(training.values()))[: self.config.attribute_words]
        if len(words) < self.config.attribute_words:
            log.warning(
                "attribute_words is %d, but the captions have only %d words",
                self.config.attribute_words, len(words),
            )  # fmt: skip
        files["vocabulary.json"] = _json({"words": vocabulary.to_json()})
        files["attributes.json"] = _json({"words": words})
        self.facts |= {"words": len(vocabulary.to_json()), "attribute_words": len(words)}
        for name, data in files.items():
            storage.write_bytes(str(out / name), data)
        table = save_frequencies(str(out / "cider"), training, vocabulary)
        self.facts["ngrams"] = len(table)
        tables = [f"cider/{path.name}" for path in sorted((out / "cider").iterdir())]
        return {name: _file_record(out / name) for name in [*files, *tables]}

    def _photographs(self, splits: Splits, assets: dict[str, Asset]) -> dict[str, Any]:
        """Unpack archives into the folders of the splits, or write the locations of the photographs."""
        if self.config.images:
            for name, images in splits.items():
                storage.write_bytes(str(self.out / name / "images.csv"), self.folder.locations(images))
            return {f"{name}/images.csv": _file_record(self.out / name / "images.csv") for name in splits}
        if self.config.archives:
            paths = [assets[asset.url].path for asset in self.config.archives]
            self.facts["photographs"] = unpack(paths, splits, self.out)
        return {}

    def _with_photographs(self, images: list[CaptionedImage]) -> list[CaptionedImage]:
        kept = self.folder.present(images)
        if missing := len(images) - len(kept):
            self.facts["without_photograph"] = missing
            log.warning("images: %d of %d photographs are missing", missing, len(images))
        return kept


def _names(uri: str) -> list[str]:
    """Read image names from a captions file, or one per line; raises as `coco.load_images`."""
    text = caption_files.read_text(uri)
    table = uri.lower().endswith((".csv", ".tsv")) and {",", "\t"} & set(text.partition("\n")[0])
    if table or uri.lower().endswith((".json", ".jsonl", ".ndjson")):
        return [image.file_name for image in coco.load_images(uri)]
    return [line.strip() for line in text.splitlines() if line.strip()]


def _check_unique(images: list[CaptionedImage]) -> None:
    for what in ("id", "file_name"):
        seen: set[Any] = set()
        for image in images:
            value = getattr(image, what)
            if value in seen:
                raise UsageError(f"captions: duplicate {what} {value}, in different folders or files")
            seen.add(value)


def _read(uri: str, option: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UsageError(f"{option} {uri}: no such file") from error


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def _file_record(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _matches(path: Path, record: dict[str, Any], verify: bool) -> bool:
    """Whether a file matches its record in the manifest, by size or, to `verify`, by digest."""
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return not verify or _file_record(path) == record


def _count(folder: Path) -> int:
    """Count the complete files of a folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(not entry.name.startswith(".") for entry in entries)


def _described(asset: Asset) -> dict[str, Any]:
    digest = "as given" if asset.trusted else "recorded at the first download"
    return {"sha256": asset.sha256, "bytes": asset.bytes, "digest": digest}


def _read_manifest(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is broken: creating everything again", out / MANIFEST)
        return None
    return found if isinstance(found, dict) and {"made_of", "files"} <= found.keys() else None


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of the output folder, so that two processes do not write the same files."""
    with (out / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"out: another process is preparing {out}") from error
        yield
