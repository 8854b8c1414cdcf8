"""Decoding as CUDA graphs: what a search queues on a GPU is recorded once and replayed for other images.

A step of decoding is about a hundred short kernels, which Python may launch more slowly than the GPU runs
them. Between two looks at which images are done a search depends on shapes alone (see `decode.walk`): each
such stretch is recorded at the fixed addresses of a memory that every batch of its shapes is copied to.
Finished images do not leave a recorded batch; the replay stops when all are done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from glied.captioner.config import DecodingConfig
from glied.captioner.decode import STEPS_PER_CHECK, Given, decode, merged, start, stretches, walk
from glied.captioner.model import CaptioningModel, Memory
from glied.captioner.search import Hypothesis, Search

MULTIPLE = 8
"""Regions and attributes are padded to a multiple of it, so that there are few shapes."""
MOST = 4
"""Recordings kept; each holds the memory and the cache of a batch."""

Queue = Callable[[], None]
"""Queues kernels."""
Record = Callable[[Callable[[], Search]], tuple[Queue, Search]]
"""Records what its argument queues; gives what queues it again, at the same addresses, and its result."""
Shapes = tuple[torch.Size, ...]


def cuda_graphs() -> Record:
    """Records CUDA graphs that share one pool of memory: they are replayed in the order of recording."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Callable[[], Search]) -> tuple[Queue, Search]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile, as those that decode images do.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            found = work()
        return graph.replay, found

    return record


@dataclass(frozen=True)
class Recording:
    """A search over images of certain shapes.

    Attributes:
        memory: of the images, at the addresses that were recorded.
        given: what else the search reads, at its addresses.
        begin: queues the start of the search.
        stretches: what queues each stretch of steps, and the search after it.
    """

    memory: Memory
    given: Given
    begin: Queue
    stretches: list[tuple[Queue, Search]]

    @classmethod
    def of(
        cls, model: CaptioningModel, memory: Memory, config: DecodingConfig, given: Given, record: Record
    ) -> "Recording":
        """Record the search over `memory`; it and `given` are the recording's from now on."""
        begin, search = record(lambda: start(model, memory, config, queued=True))

        def go_on(steps: range) -> Search:
            walk(model, search, config, given, steps)
            return search.snapshot()

        parts = stretches(config, STEPS_PER_CHECK["cuda"])
        return cls(memory, given, begin, [record(partial(go_on, steps)) for steps in parts])

    def replay(self, memory: Memory, given: Given) -> Search:
        """The search over other images of the same shapes, up to where all are done."""
        pairs = zip(inputs_of(self.memory, self.given), inputs_of(memory, given), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
        self.begin()
        for again, search in self.stretches:
            again()
            if not len(search.active()):
                break
        return search


@dataclass
class Recorder:
    """`decode` for one model and config, recorded for the shapes that come again.

    Attributes:
        model: frozen, on a GPU.
        config: what to search.
        suppressed: ids of the words that never occur.
        new_record: makes what records one search.
    """

    model: CaptioningModel
    config: DecodingConfig
    suppressed: Sequence[int] = ()
    new_record: Callable[[], Record] = cuda_graphs
    _met: set[Shapes] = field(default_factory=set, init=False)
    _recordings: dict[Shapes, Recording] = field(default_factory=dict, init=False)

    @torch.inference_mode()
    def decode(self, memory: Memory, seeds: Sequence[int] | None = None) -> list[list[Hypothesis]]:
        """As `decode.decode`; the first batch of its shapes is decoded without a recording."""
        device = self.model.embedding.weight.device
        given = Given.of(
            self.config, memory.batch_size, suppressed=self.suppressed, seeds=seeds, device=device
        )
        memory = memory.padded(MULTIPLE)
        shapes = tuple(part.shape for part in inputs_of(memory, given))
        if shapes not in self._met:  # the kernels are loaded and warm after this
            self._met.add(shapes)
            return decode(self.model, memory, self.config, suppressed=self.suppressed, seeds=seeds)
        recording = self._recordings.pop(shapes, None)
        if recording is None:
            while len(self._recordings) >= MOST:
                del self._recordings[next(iter(self._recordings))]  # unused for longest
            recording = Recording.of(self.model, memory, self.config, given, self.new_record())
        self._recordings[shapes] = recording
        return merged(recording.replay(memory, given), self.config)


def inputs_of(memory: Memory, given: Given) -> list[Tensor]:
    """What differs from batch to batch."""
    return [*memory.tensors(), *(() if given.uniform is None else (given.uniform,))]
