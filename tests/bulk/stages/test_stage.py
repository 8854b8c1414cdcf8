"""The stage of a worker returns one row per image, in order, for good and bad images."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from glied.bulk import row_schemas
from glied.bulk.arrow_tables import seconds_of
from glied.bulk.captioning import CaptionDatasetConfig, caption_factory
from glied.bulk.items import Stage
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.plan.sources.input_sources import inputs, open_source
from glied.bulk.stages.describe import Row
from glied.bulk.stages.stage import DescribeStage, Fault
from glied.clock import Clock
from glied.config import parse
from glied.regions import RegionBatch
from tests.bulk.models import model_options


class Numbers:
    """Reads numbers in batches of two; null is an image failure."""

    schema = pa.schema([("id", pa.string()), ("uri", pa.string()), ("number", pa.int64())])

    def __call__(self, table: pa.Table, clock: Clock) -> Iterator[list[int | Fault]]:
        fault = Fault("rejected", "null", "no number")
        values = [fault if value is None else value for value in table["number"].to_pylist()]
        for first in range(0, len(values), 2):
            with clock.measure("read"):
                yield values[first : first + 2]


class Words:
    """Describes a number by its digits; fails for batches with a negative number."""

    schema = row_schemas.CAPTIONS
    model = "words"

    def __call__(self, batch: Sequence[int], clock: Clock) -> list[Row]:
        if min(batch) < 0:
            raise ValueError(f"{min(batch)} of {len(batch)}")
        return [{"caption": str(number)} for number in batch]


def test_rows_in_are_rows_out() -> None:
    numbers = [1, None, 2, -3, -4, 5]
    ids = [str(row) for row in range(len(numbers))]
    table = pa.table({"id": ids, "uri": ids, "number": numbers, "number ": ids, "input_error": numbers})
    found = DescribeStage(Numbers(), Words())(table)
    assert found.schema.names == [*row_schemas.CAPTIONS.names, "number ", "input_error"]
    assert found["id"].to_pylist() == ids
    assert found["caption"].to_pylist() == ["1", None, "2", None, None, "5"]
    assert found["status"].to_pylist() == ["ok", "rejected", "ok", "failed", "failed", "ok"]
    assert found["error"].to_pylist() == [None, "no number", None, "-3 of 1", "-4 of 1", None]
    assert found["error_kind"].to_pylist() == [None, "null", None, "ValueError", "ValueError", None]
    assert set(found["model"].to_pylist()) == {"words"}
    assert found["number "].to_pylist() == ids
    assert found["input_error"].to_pylist() == numbers
    assert seconds_of(found).keys() == {"read"}


REFUSED: dict[int, Row] = {1: {"caption": "a dog \ud83d"}, 3: {"width": "wide"}, 5: {"height": 1 << 40}}


class Odd(Words):
    """Puts into the row of an odd number what its column cannot hold."""

    def __call__(self, batch: Sequence[int], clock: Clock) -> list[Row]:
        if min(batch) < 0:
            raise ValueError("half of \ud83d")
        return [{"caption": str(number)} | REFUSED.get(number, {}) for number in batch]


def test_a_row_that_no_table_can_hold_fails_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's own processes cannot send each other a captured log with half a character.
    monkeypatch.setattr(logging.getLogger("glied.bulk.stages.stage"), "disabled", True)
    numbers = [0, 1, 2, 3, 4, 5, -6]
    ids = [str(number) for number in numbers]
    found = DescribeStage(Numbers(), Odd())(pa.table({"id": ids, "uri": ids, "number": numbers}))
    assert found["id"].to_pylist() == ids
    assert found["caption"].to_pylist() == ["0", None, "2", None, "4", None, None]
    assert found["status"].to_pylist() == ["ok", "failed"] * 3 + ["failed"]
    kinds = found["error_kind"].to_pylist()
    assert kinds[:2] == [None, "UnicodeEncodeError"]
    assert all(kinds[place] for place in (3, 5))
    assert found["error"].to_pylist()[-1] == "half of"
    assert set(found["model"].to_pylist()) == {"words"}


@pytest.fixture
def fused(models: Path) -> Stage:
    where = ["--input.uri=in", "--output.uri=out", "--resources.worker.batch_size=16"]
    options = ["--config=configs/caption/demo.yaml", *where, *model_options(models)]
    return caption_factory(parse(CaptionDatasetConfig, options)).build()


def test_regions_are_collated_once(fused: Stage, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = [f"--input.uri={photos}", "--output.uri=out", "--input.limit=8"]
    config = parse(CaptionDatasetConfig, ["--config=configs/caption/demo.yaml", *where])
    table = pa.concat_tables(inputs(open_source(config.input, "/nowhere"), config.input))
    batches = []
    collate = RegionBatch.collate

    def counting(images: Sequence, **options: int) -> RegionBatch:
        batches.append(len(images))
        return collate(images, **options)

    monkeypatch.setattr(RegionBatch, "collate", counting)
    statuses = fused(Fetch()(table))["status"].to_pylist()
    assert len(statuses) == 8
    assert batches == [statuses.count("ok")]
