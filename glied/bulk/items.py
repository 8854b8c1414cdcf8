"""The nouns of a bulk run, in the order of an image's life; the columns of its tables are in `row_schemas`.

    Unit             images that are committed together: rows of the manifest       (plan.manifest)
    Chunk            the images of a unit that travel together                      (run.driver cuts them)
    FetchStage       a chunk's rows of the manifest -> fetched images               (plan.sources)
    Stage            fetched images -> described rows                               (stages)
    DescribedChunk   what comes back, one row per image                             (run.driver gathers them)
    Commit           what a finished unit's record says                             (run.ledger)

A `Stream` carries chunks through the stages: `ray.stream` on a cluster, `chunks.run_here` in this process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from glied.bulk.config import InputConfig, OutputConfig, PublishedConfig, ResourcesConfig
from glied.cluster_runtime import placement

Stage = Callable[[pa.Table], pa.Table]
"""A table of images to a table with as many rows in the same order."""


class FetchStage(Protocol):
    """The stage that reads what is planned. It may keep what it has read for the next chunk."""

    def tasks_per_worker(self, tables: Iterable[pa.Table]) -> int:
        """Among how many tasks a worker these chunks are divided, if they are few; 0 for a task each."""
        ...

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of the manifest to as many rows in the same order."""
        ...

    def pieces(self, tables: Sequence[pa.Table], size: int) -> Iterator[tuple[int, pa.Table]]:
        """The same for several tables in pieces of about `size` bytes, each after its table's number."""
        ...

    def clear_cache(self) -> None:
        """Let go of what is kept."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Images of a unit from its image number `start` on.

    Attributes:
        unit: number of the unit.
        start: number of the first image in the unit.
        table: their rows of the manifest (`row_schemas.PLANNED`).
    """

    unit: int
    start: int
    table: pa.Table

    @property
    def stop(self) -> int:
        """Number of the first image after them."""
        return self.start + self.table.num_rows


@dataclass(frozen=True)
class DescribedChunk:
    """Described images of a unit from its image number `start` on.

    Attributes:
        unit: number of the unit.
        start: number of the first image in the unit.
        table: a row per image (the job's schema); its metadata has the seconds by stage.
    """

    unit: int
    start: int
    table: pa.Table


class StageFactory(Protocol):
    """Builds a stage where it runs; small and picklable, unlike the stage."""

    def build(self) -> Stage:
        """Load the models."""
        ...


@dataclass(frozen=True, kw_only=True)
class ActorPoolSpec:
    """The actors of one stage.

    Attributes:
        factory: of the stage that each of them builds.
        workers: how many at most; those that the cluster has room for are started at once.
        cpus, gpus, memory, accelerator: that each asks a node for; bytes, and a type of GPU such as "L4".
        threads: of torch in each.
    """

    factory: StageFactory
    workers: int
    cpus: float
    gpus: float
    threads: int
    memory: int = 0
    accelerator: str | None = None

    @property
    def request(self) -> placement.Resources:
        """What each of them asks a node for."""
        return placement.request(
            cpus=self.cpus, gpus=self.gpus, memory=self.memory, accelerator=self.accelerator
        )


class StreamBroken(Exception):
    """A stream ended early; what it did not yield is lost, and no image is to blame."""


class Stream(Protocol):
    """Runs chunks and yields results in any order; lost chunks are missing."""

    def __call__(self, chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        """With `isolated` a worker holds one chunk at a time, so that one that kills it takes no other along.

        Raises:
            StreamBroken: the stream ended early.
        """
        ...


@dataclass(frozen=True)
class ColumnUse:
    """A column of the input that a config names.

    Attributes:
        key: of the config.
        column: its name in the input.
        is_text: whether its values have to be text.
    """

    key: str
    column: str
    is_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run does.

    Attributes:
        results: folder of the outputs, "captions" or "features".
        schema: of the rows, with the metadata of the files; input columns follow.
        encode: a unit's rows as the bytes of its file.
        model: names the weights, for rows that no worker wrote.
        config: resolved config, for run.json.
        fingerprint: what the rows depend on; another one never joins the run.
        source, output, resources, error_budget: parts of the config that the driver reads.
        example: the text of a row that the summary may show, or None; None where rows have no such text.
        budget: cost at which the run stops; None for no limit.
        reads: columns that the input must have.
    """

    results: str
    schema: pa.Schema
    encode: Callable[[pa.Table], bytes]
    model: str
    config: dict[str, Any]
    fingerprint: dict[str, Any]
    source: InputConfig | PublishedConfig
    output: OutputConfig
    resources: ResourcesConfig
    error_budget: float
    example: Callable[[dict[str, Any]], str | None] | None
    budget: float | None = None
    reads: tuple[ColumnUse, ...] = ()

    def takes(self, unit: int) -> bool:
        """Whether this job of those that share the run does the unit."""
        index, count = self.output.share
        return unit % count == index
