"""Decoding with CUDA graphs, which are captured once per input shape and replayed for other images.

A decoding step consists of about a hundred short kernels, and Python may launch them more slowly than the GPU
runs them. Between two checks for finished images, a search depends on shapes alone (see `decode.run_steps`).
Each block of steps is captured at fixed addresses, and every batch of the same shapes is copied there before
the replay. Finished images do not leave a captured batch; the replay stops once all images are finished.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from glied.captioner.config import DecodingConfig
from glied.captioner.decode import (
    STEPS_PER_CHECK,
    DecodeInputs,
    collect_results,
    decode,
    run_steps,
    start,
    step_blocks,
)
from glied.captioner.model import CaptioningModel, EncoderOutput
from glied.captioner.search_state import Hypothesis, Search

MULTIPLE = 8
"""Numbers of regions and attributes are padded to a multiple of this, which limits the number of shapes."""
MOST = 4
"""Captured searches to keep; each holds the encoder output and the cache of one batch."""

Launch = Callable[[], None]
"""Launches kernels."""
Capture = Callable[[Callable[[], Search]], tuple[Launch, Search]]
"""Captures the kernels that its argument launches; returns what launches them again, and the result."""
Shapes = tuple[torch.Size, ...]


def cuda_graphs() -> Capture:
    """Return a `Capture` whose CUDA graphs share one memory pool and are replayed in the order of capture."""
    pool = torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], Search]) -> tuple[Launch, Search]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those that decode images, may allocate memory during the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            search = work()
        return graph.replay, search

    return capture


@dataclass(frozen=True)
class CapturedSearch:
    """A captured search for one set of input shapes.

    Attributes:
        encoded: encoder output at the captured addresses.
        inputs: the other inputs of the search at the captured addresses.
        begin: launches the start of the search.
        step_blocks: for each block of steps, what launches it and the search state after it.
    """

    encoded: EncoderOutput
    inputs: DecodeInputs
    begin: Launch
    step_blocks: list[tuple[Launch, Search]]

    @classmethod
    def of(
        cls,
        model: CaptioningModel,
        encoded: EncoderOutput,
        config: DecodingConfig,
        inputs: DecodeInputs,
        capture: Capture,
    ) -> "CapturedSearch":
        """Capture the search over `encoded`; the result owns `encoded` and `inputs` from then on."""
        begin, search = capture(lambda: start(model, encoded, config, no_sync=True))

        def run_block(steps: range) -> Search:
            run_steps(model, search, config, inputs, steps)
            return search.snapshot()

        blocks = step_blocks(config, STEPS_PER_CHECK["cuda"])
        return cls(encoded, inputs, begin, [capture(partial(run_block, steps)) for steps in blocks])

    def replay(self, encoded: EncoderOutput, inputs: DecodeInputs) -> Search:
        """Run the search for other images of the same shapes until all of them are finished."""
        pairs = zip(varying_tensors(self.encoded, self.inputs), varying_tensors(encoded, inputs), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
        self.begin()
        for launch, search in self.step_blocks:
            launch()
            if not len(search.active()):
                break
        return search


@dataclass
class GraphDecoder:
    """Runs `decode` for one model and config, with captured graphs for input shapes that recur.

    Attributes:
        model: frozen model on a GPU.
        config: the search settings.
        suppressed: ids of the words that must not occur.
        new_capture: creates the `Capture` for one search.
    """

    model: CaptioningModel
    config: DecodingConfig
    suppressed: Sequence[int] = ()
    new_capture: Callable[[], Capture] = cuda_graphs
    _seen: set[Shapes] = field(default_factory=set, init=False)
    _captured: dict[Shapes, CapturedSearch] = field(default_factory=dict, init=False)

    @torch.inference_mode()
    def decode(self, encoded: EncoderOutput, seeds: Sequence[int] | None = None) -> list[list[Hypothesis]]:
        """Decode as `decode.decode` does; the first batch of each shape is decoded without a graph."""
        device = self.model.embedding.weight.device
        inputs = DecodeInputs.of(
            self.config, encoded.batch_size, suppressed=self.suppressed, seeds=seeds, device=device
        )
        encoded = encoded.padded(MULTIPLE)
        shapes = tuple(part.shape for part in varying_tensors(encoded, inputs))
        if shapes not in self._seen:  # this loads and warms up the kernels
            self._seen.add(shapes)
            return decode(self.model, encoded, self.config, suppressed=self.suppressed, seeds=seeds)
        captured = self._captured.pop(shapes, None)
        if captured is None:
            while len(self._captured) >= MOST:
                del self._captured[next(iter(self._captured))]  # the least recently used
            captured = CapturedSearch.of(self.model, encoded, self.config, inputs, self.new_capture())
        self._captured[shapes] = captured
        return collect_results(captured.replay(encoded, inputs), self.config)


def varying_tensors(encoded: EncoderOutput, inputs: DecodeInputs) -> list[Tensor]:
    """Return the tensors that differ from batch to batch."""
    return [*encoded.tensors(), *(() if inputs.uniform is None else (inputs.uniform,))]
