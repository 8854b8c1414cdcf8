"""Config parts that every bulk job shares."""

import importlib.util
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from glied.config_checks import check_least
from glied.errors import UsageError

IMAGE_EXTENSIONS = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
    "jp2", "ppm", "pgm", "pbm", "pnm", "ico", "avif",
)  # fmt: skip
"""Extensions of images that are always decoded."""
HEIF_EXTENSIONS = ("heic", "heif", "hif")
"""Those that are decoded where pillow-heif is installed."""
_NAMED_KINDS = 8
_FORMER_DEFAULT = [*IMAGE_EXTENSIONS[:15], "tga", "ico", "avif", "heic", "heif"]


def decoded_extensions() -> tuple[str, ...]:
    """Extensions of the images that can be decoded here."""
    has_heif = importlib.util.find_spec("pillow_heif") is not None
    return IMAGE_EXTENSIONS + (HEIF_EXTENSIONS if has_heif else ())


def describe_skipped(kinds: Mapping[str, int]) -> str:
    """How many files of which extensions were skipped, the most frequent first, and what would read HEIC."""
    ranked = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{count} {kind}" for kind, count in ranked[:_NAMED_KINDS]]
    if len(ranked) > _NAMED_KINDS:
        parts.append(f"{sum(count for _, count in ranked[_NAMED_KINDS:])} others")
    unread = {f".{extension}" for extension in HEIF_EXTENSIONS if extension not in decoded_extensions()}
    hint = '; pip install -e ".[heif]" adds HEIC' if unread & kinds.keys() else ""
    return ", ".join(parts) + hint


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """What to read.

    Of `files` and tars, every file whose extension is in `extensions` is one row of the result, whatever it
    holds: a text file named .jpg becomes a row with status `rejected`. Files with another extension, or
    with none, are taken for sidecars (.json, .txt, .csv, ...); the summary counts those that are left out.
    Of tables, every row is a row of the result, and its other columns pass through.
    """

    uri: str
    """Prefix of the images, a folder or s3://bucket/prefix with all its subfolders; for the other forms a
    prefix of tars or tables, or one such file."""
    form: Literal["files", "webdataset", "parquet", "table", "features"] = "files"
    """files: an image each. webdataset: tars, plain or compressed; the .json and .txt of a sample pass
    through. parquet: tables that hold the encoded images. table: Parquet, CSV or JSON lines that name the
    images by URI. features: a feature store, whose regions are captioned with regions.kind precomputed."""
    image_column: str = "image"
    """Of form parquet: the encoded images, as binary, base64, or a struct with a field `bytes` or `path`."""
    uri_column: str = "uri"
    """Of form table: where the images are; a relative one is meant from the table's folder."""
    id_column: str | None = None
    """Of tables: names each row. By default the URI does, or file and row number where there is none."""
    duplicates: Literal["error", "keep_first"] = "error"
    """What to do with a duplicate id."""
    limit: int | None = None
    """Take only the first images in the order of their names."""
    extensions: list[str] | None = None
    """Extensions of images, without the dot, in any case; ["*"] takes every file. null: those of all images
    that can be decoded here, HEIC among them where the extra heif is installed."""
    max_bytes: int = 1 << 28
    """Larger files are rejected without being read."""
    max_missing_rows: float = 0.0
    """Accept a JPEG that was cut off where at most this share of its rows has no data, for example 0.05.
    These rows are gray, and the result's row says how many they are. 0 rejects all of them as truncated."""
    allow_private: bool = False
    """Let http(s) URIs lead to private, loopback and reserved addresses; to link-local ones and the metadata
    services of clouds never."""
    allow: list[str] | None = None
    """Of tables: what their rows may name beside http(s) and the table's own bucket or folder: schemes of
    object storage (gs), prefixes (s3://bucket/, ftp://host/), folders (/mnt/photos)."""

    def __post_init__(self) -> None:
        """Refuse an empty prefix and limits that leave nothing."""
        _check_input(self.uri, self.limit)
        if self.extensions is not None and not self.extensions:
            raise UsageError('input.extensions is empty; ["*"] takes every file')
        if not 0 <= self.max_missing_rows < 1:
            raise UsageError(f"input.max_missing_rows: {self.max_missing_rows} is not in 0..1 and below 1")

    def takes(self, name: str) -> bool:
        """Whether the file of this name is an input."""
        extensions = decoded_extensions() if self.extensions is None else self.extensions
        if "*" in extensions:
            return True
        wanted = {extension.lower().lstrip(".") for extension in extensions}
        return PurePosixPath(name).suffix.lower().lstrip(".") in wanted


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """Region features as they were published."""

    uri: str
    """The file, or a prefix of files (.tsv, also .tsv.0 and so on; .npz and .npy; .hdf5 and .h5)."""
    form: Literal["tsv", "npz", "hdf5"] = "tsv"
    """tsv: bottom-up attention's own, base64. npz: a file per image. hdf5: <id>_features and <id>_boxes, or
    groups, or stacked arrays beside their ids."""
    captions: str = ""
    """Captions file in the COCO form: only its images are taken, found by id, file name or stem, and named by
    their file names, as training looks them up. Empty takes every image under the id it has."""
    boxes: str = ""
    """Of form npz: folder of the boxes, where they are in files of their own (cocobu_box)."""
    limit: int | None = None
    """Take only the first images."""

    def __post_init__(self) -> None:
        """Refuse an empty prefix and settings of another form."""
        _check_input(self.uri, self.limit)
        if self.boxes and self.form != "npz":
            raise UsageError(f"input.boxes belongs to input.form npz, not to {self.form}")


def recorded_input(record: Mapping[str, Any], source: InputConfig | PublishedConfig) -> dict[str, Any]:
    """What an earlier version recorded of an input, in the keys of `source`, to be compared with it."""
    defaults = {one.name: one.default for one in fields(source) if one.default is not MISSING}
    was_default = record.get("extensions") == _FORMER_DEFAULT
    if was_default and isinstance(source, InputConfig) and source.extensions is None:
        return defaults | dict(record) | {"extensions": None}
    return defaults | dict(record)


def _check_input(uri: str, limit: int | None) -> None:
    if not uri:
        raise UsageError("input.uri is empty")
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise UsageError("input.uri holds credentials, which run.json would show; give them by environment")
    if limit is not None and limit < 1:
        raise UsageError(f"input.limit: {limit} is not at least 1")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where the run folder is."""

    uri: str
    """The run folder, a path or s3://bucket/prefix; the same command with the same folder resumes the run."""
    unit_size: int = 256
    """Images that are written and committed together; a kill loses at most the units in progress."""
    mode: Literal["resume", "retry_failed", "repair", "error", "overwrite"] = "resume"
    """resume continues the run in the folder; retry_failed also repeats its failed rows; repair first
    opens all its files and repeats units that are damaged; error refuses a folder that holds a run; overwrite
    deletes that run and starts a new one."""

    shard: str = "0/1"
    """i/n: of the n jobs that share a run, this one does every n-th unit, beginning with unit i."""

    @property
    def share(self) -> tuple[int, int]:
        """i and n of `shard`."""
        index, _, count = self.shard.partition("/")
        return int(index), int(count)

    def __post_init__(self) -> None:
        """Refuse an empty folder name, empty units and shares that do not exist."""
        if not self.uri:
            raise UsageError("output.uri is empty")
        numbers = self.shard.split("/")
        if len(numbers) != 2 or not all(n.isdecimal() for n in numbers) or int(numbers[0]) >= int(numbers[1]):
            raise UsageError(f"output.shard: {self.shard!r} is not i/n with 0 <= i < n, for example 0/4")
        check_least(self, 1, "unit_size", key="output")


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """Requests to the web hosts that a table names."""

    attempts: int = 3
    """Most requests for an image; after a time-out at most one more."""
    retry_after_s: float = 30.0
    """Longest pause, in seconds, that a host may request (Retry-After)."""
    connect_s: float = 5.0
    """Longest time until an address of a host takes the connection, and again for the TLS handshake."""
    silence_s: float = 10.0
    """Longest time without any data."""
    total_s: float = 60.0
    """Longest time for an attempt with its redirects."""
    user_agent: str = "glied (bulk image captioning)"
    """The User-Agent header; some hosts want a way to contact you in it."""

    def __post_init__(self) -> None:
        """Refuse bounds that leave nothing."""
        key = "resources.fetch.web"
        check_least(self, 1, "attempts", key=key)
        check_least(self, 0, "retry_after_s", key=key)
        _check_positive(self, key, "connect_s", "silence_s", "total_s")


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """A pool of actors, and what each of them asks a node for."""

    count: int = 1
    """Most actors. Those that the cluster has room for start at once, the others when nodes join."""
    cpus: float = 1.0
    """Logical CPUs of an actor."""
    gpus: float = 0.0
    """GPUs of an actor; a fraction lets actors share one."""
    accelerator: str | None = None
    """Type of GPU that an actor needs, as Ray names it ("L4", "A10G", "H100"); null for any."""
    memory: int = 0
    """Bytes of main memory that Ray sets aside for an actor; 0 for none."""

    def check(self, key: str) -> None:
        """Refuse what Ray could not schedule; `key` names this part of the config.

        Raises:
            UsageError: naming the key.
        """
        check_least(self, 1, "count", key=key)
        _check_positive(self, key, "cpus")
        check_least(self, 0, "gpus", "memory", key=key)
        if self.accelerator and not self.gpus:
            raise UsageError(f"{key}.accelerator needs {key}.gpus above 0")


@dataclass(frozen=True, kw_only=True)
class WorkerConfig(ActorsConfig):
    """The workers: actors that decode images and hold the models."""

    threads: int = 1
    """Threads of torch in an actor; in those of `resources.caption`, too."""
    decoders: int = 1
    """Processes beside each actor that decode its images; a crash or a hang there costs one image."""
    batch_size: int = 16
    """Images decoded and given to the models together; halved when a GPU runs out of memory."""

    def check(self, key: str) -> None:
        """As `ActorsConfig.check`."""
        super().check(key)
        check_least(self, 1, "threads", "decoders", "batch_size", key=key)


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """The tasks that read images, and what happens when a storage fails."""

    cpus: float = 0.5
    """Logical CPUs of a task that fetches a chunk; must differ from `resources.worker.cpus`, so that Ray Data
    keeps the stages apart."""
    threads: int = 16
    """Files that such a task reads at once."""
    file_s: float = 120.0
    """Longest time to read a file from a storage other than local disks and S3, all attempts together."""
    web: WebConfig = field(default_factory=WebConfig)
    """Requests to the web hosts that a table names."""
    storage_budget: float = 0.05
    """Share of a unit's images that the storage of the input may fail to deliver; a unit with more is not
    committed. Web hosts that a table names do not count."""
    broken_units: int = 3
    """Number of units not committed for that reason that stops the job; and of units in a row without any
    usable answer of a captioner's server."""

    def check(self, key: str) -> None:
        """Refuse what makes no sense, as `ActorsConfig.check`."""
        check_least(self, 1, "threads", "broken_units", key=key)
        _check_positive(self, key, "cpus", "file_s")
        if not 0 <= self.storage_budget <= 1:
            raise UsageError(f"{key}.storage_budget: {self.storage_budget} is not between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """A chunk: the images that travel between tasks together."""

    images: int = 64
    """Most images of a chunk."""
    bytes: int = 8 << 20
    """Most encoded bytes of a chunk; a larger image is a chunk of its own."""

    def check(self, key: str) -> None:
        """Refuse empty chunks, as `ActorsConfig.check`."""
        check_least(self, 1, "images", "bytes", key=key)


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """How long a run waits, and how often it tries again."""

    restarts: int = 3
    """How often a chunk whose worker died is tried again within a round, by the worker started anew."""
    rounds: int = 3
    """Passes over what is missing before the job gives up; what a whole pass has lost comes again image by
    image, each in a worker that holds no other."""
    wait_s: float | None = None
    """Longest wait until there is room for a worker of each pool and a task that fetches. null waits 10
    minutes for an autoscaler or for what other jobs hold, and 20 seconds where no such node can come."""
    chunk_s: float = 600.0
    """A worker that spends longer on a chunk is ended, as if it had died: something in it hangs."""
    stall_s: float = 900.0
    """A round ends when no chunk was done for so long; the next one tries what is missing. Longer than the
    start of the workers and than any chunk takes."""

    def check(self, key: str) -> None:
        """Refuse what makes no sense, as `ActorsConfig.check`."""
        check_least(self, 1, "rounds", key=key)
        _check_positive(self, key, "chunk_s", "stall_s")
        check_least(self, 0, "restarts", "wait_s", key=key)


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a run uses; none of it changes a result."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "workers": "worker.count",
        **{f"worker_{key}": f"worker.{key}" for key in ("cpus", "gpus", "accelerator", "memory", "threads")},
        "decoders": "worker.decoders",
        "batch_size": "worker.batch_size",
        "caption_workers": "caption.count",
        **{f"caption_{key}": f"caption.{key}" for key in ("cpus", "gpus", "accelerator", "memory")},
        **{f"fetch_{key}": f"fetch.{key}" for key in ("cpus", "threads")},
        **{key: f"fetch.{key}" for key in ("file_s", "web", "storage_budget", "broken_units")},
        **{f"chunk_{key}": f"chunk.{key}" for key in ("images", "bytes")},
        **{key: f"recovery.{key}" for key in ("restarts", "rounds", "wait_s", "chunk_s", "stall_s")},
    }
    """Keys of version 0.1."""

    worker: WorkerConfig = field(default_factory=WorkerConfig)
    """The workers: actors that decode images and hold the models."""
    pools: Literal["fused", "split"] = "fused"
    """fused: a worker does all. split: the workers find regions, and those of a second pool, `caption`,
    caption them; on a small cluster both pools have their part of it."""
    caption: ActorsConfig = field(default_factory=ActorsConfig)
    """Of pools split: actors that hold attribute predictor and captioner."""
    fetch: FetchConfig = field(default_factory=FetchConfig)
    """The tasks that read images."""
    chunk: ChunkConfig = field(default_factory=ChunkConfig)
    """The pieces of work that travel between tasks."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """How long a run waits, and how often it tries again."""

    def __post_init__(self) -> None:
        """Refuse what Ray could not schedule."""
        for name in ("worker", "caption", "fetch", "chunk", "recovery"):
            getattr(self, name).check(f"resources.{name}")
        if self.worker.cpus == self.fetch.cpus and not self.worker.gpus:
            raise UsageError("resources.fetch.cpus and resources.worker.cpus must differ")


def _check_positive(part: object, key: str, *names: str) -> None:
    for name in names:
        if not getattr(part, name) > 0:
            raise UsageError(f"{key}.{name}: {getattr(part, name)} is not above 0")
