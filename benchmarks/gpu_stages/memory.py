"""Check that a batch that does not fit into the GPU's memory is halved until it does, without losing images.

The limit is torch's memory limit of this process, set between the needs of a part of the batch and of the
whole batch; on a CPU, batches above a certain size are refused. The captions must equal those without a
limit.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import torch

from benchmarks.decoding import inputs
from benchmarks.decoding_products import FEATURES
from benchmarks.gpu_stages.inputs import attribute_predictor, captioner
from benchmarks.gpu_stages.measuring import peak_memory, release
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.bulk import row_schemas
from glied.bulk.stages.describe import CaptionRegions
from glied.bulk.stages.stage import DescribeStage, ReadRegions
from glied.bulk.stages.stage import log as stage_log
from glied.captioner.config import DecodingConfig
from glied.clock import Clock
from glied.data import features
from glied.regions import Regions

PARTS = 8
"""The limit allows two of this number of parts of the batch."""


class RefusingCaptions(CaptionRegions):
    """Runs out of memory for batches of more than `largest` images, unless that is 0."""

    largest = 0

    def __call__(self, batch: Sequence[Regions], clock: Clock) -> list[Row]:
        """Caption regions, as `CaptionRegions` does."""
        if self.largest and len(batch) > self.largest:
            raise torch.cuda.OutOfMemoryError("refused")
        return super().__call__(batch, clock)


def rows(setting: Setting) -> Iterator[Row]:
    """Caption a batch without and with a limit, and yield the checks."""
    device, batch = setting.torch_device, setting.pick(8, 1024)
    captions = captioner(device, torch.float32, feature_size=FEATURES, decoding=DecodingConfig(beam_size=5))
    describe = RefusingCaptions(attribute_predictor(device, FEATURES), captions, model="random")
    table = stored(batch)
    stage = DescribeStage(ReadRegions(batch_size=batch), describe)
    with peak_memory(device) as whole:
        expected = stage(table)
    loaded = torch.cuda.memory_allocated() if setting.cuda else 0
    release(device)
    with peak_memory(device) as part:
        stage(table.slice(0, batch // PARTS))
    release(device)
    yield {"batch": batch, "whole": whole, f"part of {batch // PARTS}": part}
    with limited(setting, describe, batch, loaded, part), halvings() as lines, peak_memory(device) as most:
        captioned = stage(table)
    yield check("images without a caption under the limit", _missing(captioned), most=0, **most)
    yield check("halvings", len(lines), least=1)
    same = sum(one == two for one, two in zip(_texts(captioned), _texts(expected), strict=True))
    yield check("captions equal those without a limit", same / batch, least=0.97)
    again = stage(table)
    yield check("images without a caption after it", _missing(again), most=0)


@contextmanager
def limited(
    setting: Setting, describe: RefusingCaptions, batch: int, loaded: int, part: Row
) -> Iterator[None]:
    """Limit the memory within the block to a little more than two parts of the batch need."""
    if not setting.cuda:
        describe.largest = 2 * batch // PARTS
        yield
        describe.largest = 0
        return
    each = (part["peak_mb"] << 20) - loaded
    most = loaded + int(2.5 * each)
    torch.cuda.set_per_process_memory_fraction(most / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def halvings() -> Iterator[list[str]]:
    """Collect the log lines about halved batches."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    stage_log.addHandler(handler)
    try:
        yield lines
    finally:
        stage_log.removeHandler(handler)


def stored(count: int) -> pa.Table:
    """Return rows of regions, as the region extraction pool produces them."""
    batch, _, _ = inputs(count)
    rows = []
    for index in range(count):
        regions = Regions(
            boxes=batch.boxes[index].numpy(),
            features=batch.features[index].numpy(),
            scores=batch.features[index, :, 0].numpy(),
            labels=["thing"] * len(batch.boxes[index]),
            attributes=[[] for _ in batch.boxes[index]],
            width=400,
            height=400,
        )
        identity = {"id": str(index), "uri": str(index), "status": row_schemas.OK, "model": "random"}
        rows.append(
            row_schemas.empty_row(row_schemas.FEATURES, **features.row(regions, features.EXACT), **identity)
        )
    return pa.Table.from_pylist(rows, schema=row_schemas.FEATURES)


def _texts(table: pa.Table) -> list[str | None]:
    return table["caption"].to_pylist()


def _missing(table: pa.Table) -> int:
    return sum(text is None for text in _texts(table))
