"""Config parts that every bulk job shares."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from glied.errors import UsageError

IMAGE_EXTENSIONS = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff",
    "jp2", "ppm", "pgm", "pbm", "pnm", "tga", "ico", "avif", "heic", "heif",
)  # fmt: skip


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
    """files: an image each. webdataset: tars; the .json and .txt of a sample pass through. parquet: tables
    that hold the encoded images. table: Parquet, CSV or JSON lines that name the images by URI. features: a
    feature store, whose regions are captioned with regions.kind precomputed."""
    image_column: str = "image"
    """Of form parquet: the encoded images, as binary or as a struct with a binary field `bytes`."""
    uri_column: str = "uri"
    """Of form table: where the images are; a relative one is meant from the table's folder."""
    id_column: str | None = None
    """Of tables: names each row. By default the URI does, or file and row number where there is none."""
    duplicates: Literal["error", "keep_first"] = "error"
    """What to do with an id that stands twice."""
    limit: int | None = None
    """Take only the first images in the order of their names."""
    extensions: list[str] = field(default_factory=lambda: list(IMAGE_EXTENSIONS))
    """Extensions of images, without the dot, in any case; ["*"] takes every file."""
    max_bytes: int = 1 << 28
    """Larger files are rejected without being read."""
    allow_private: bool = False
    """Let http(s) URIs lead to private, loopback and link-local addresses."""

    def __post_init__(self) -> None:
        """Refuse an empty prefix and limits that leave nothing."""
        _check_input(self.uri, self.limit)
        if not self.extensions:
            raise UsageError('input.extensions is empty; ["*"] takes every file')

    def takes(self, name: str) -> bool:
        """Whether the file of this name is an input."""
        if "*" in self.extensions:
            return True
        wanted = {extension.lower().lstrip(".") for extension in self.extensions}
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
    """Images that are written and committed together; a kill costs at most the units in flight."""
    mode: Literal["resume", "retry_failed", "repair", "error", "overwrite"] = "resume"
    """resume goes on with the run that the folder holds; retry_failed then also does its failed rows again;
    repair opens all its files first and does again what is damaged; error refuses a folder that holds a run;
    overwrite deletes that run and starts another."""

    shard: str = "0/1"
    """i/n: of n jobs that share the run, this one does every n-th unit from number i on."""

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
        if self.unit_size < 1:
            raise UsageError(f"output.unit_size: {self.unit_size} is not at least 1")


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """What a run uses; none of it changes a result."""

    workers: int = 1
    """Most actors that hold the models. Those that the cluster has room for start at once, the others when
    nodes join."""
    worker_cpus: float = 1.0
    """Logical CPUs of an actor."""
    worker_gpus: float = 0.0
    """GPUs of an actor; a fraction lets actors share one."""
    worker_accelerator: str | None = None
    """Type of GPU that an actor needs, as Ray names it ("L4", "A10G", "H100"); null for any."""
    worker_memory: int = 0
    """Bytes of main memory that Ray sets aside for an actor; 0 for none."""
    worker_threads: int = 1
    """Threads of torch in an actor."""
    decoders: int = 1
    """Processes beside each actor that decode its images; a crash or a hang there costs one image."""
    pools: Literal["fused", "split"] = "fused"
    """fused: a worker does all. split: the workers find regions, and those of a second pool caption them;
    on a small cluster both pools have their part of it."""
    caption_workers: int = 1
    """Of pools split: actors that hold attribute predictor and captioner."""
    caption_cpus: float = 1.0
    """Of pools split: logical CPUs of such an actor."""
    caption_gpus: float = 0.0
    """Of pools split: GPUs of such an actor."""
    caption_accelerator: str | None = None
    """Of pools split: type of GPU that such an actor needs."""
    caption_memory: int = 0
    """Of pools split: bytes of main memory that Ray sets aside for such an actor."""
    fetch_cpus: float = 0.5
    """Logical CPUs of a task that fetches a chunk; must differ from worker_cpus, so that Ray Data keeps the
    stages apart."""
    fetch_threads: int = 16
    """Files that such a task reads at once."""
    chunk_images: int = 64
    """Most images of a chunk, the piece of work that travels between tasks."""
    chunk_bytes: int = 8 << 20
    """Most encoded bytes of a chunk; a larger image is a chunk of its own."""
    batch_size: int = 16
    """Images decoded and given to the models together; halved when a GPU runs out of memory."""
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

    def __post_init__(self) -> None:
        """Refuse what Ray could not schedule."""
        positive = (
            "workers",
            "worker_threads",
            "decoders",
            "caption_workers",
            "fetch_threads",
            "chunk_images",
        )
        for name in (*positive, "chunk_bytes", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"resources.{name}: {getattr(self, name)} is not at least 1")
        for name in ("worker_cpus", "caption_cpus", "fetch_cpus"):
            if getattr(self, name) <= 0:
                raise UsageError(f"resources.{name}: {getattr(self, name)} is not above 0")
        for name in ("chunk_s", "stall_s"):
            if getattr(self, name) <= 0:
                raise UsageError(f"resources.{name}: {getattr(self, name)} is not above 0")
        not_negative = ("worker_gpus", "worker_memory", "caption_gpus", "caption_memory", "restarts")
        for name in (*not_negative, "wait_s"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"resources.{name}: {getattr(self, name)} must not be negative")
        for name in ("worker", "caption"):
            if getattr(self, f"{name}_accelerator") and not getattr(self, f"{name}_gpus"):
                raise UsageError(f"resources.{name}_accelerator needs resources.{name}_gpus above 0")
        if self.worker_cpus == self.fetch_cpus and not self.worker_gpus:
            raise UsageError("resources.fetch_cpus and resources.worker_cpus must differ")
