"""A stage that kills its worker or hangs; a separate module, because each new worker imports it."""

import os
import signal
import time
from dataclasses import dataclass

import pyarrow as pa

from glied.bulk.row_schemas import CAPTIONS, OK
from glied.errors import UsageError


@dataclass(frozen=True)
class Deadly:
    """Builds a stage that kills its worker on one image and hangs on another."""

    kills: str
    hangs: str

    def build(self):
        def describe(table: pa.Table) -> pa.Table:
            rows = table.select(["id", "uri"]).to_pylist()
            ids = [row["id"] for row in rows]
            if self.kills in ids:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.hangs in ids:
                time.sleep(300)
            blank = dict.fromkeys(CAPTIONS.names)
            done = [blank | row | {"status": OK, "caption": "a cat", "model": "m"} for row in rows]
            return pa.Table.from_pylist(done, schema=CAPTIONS)

        return describe


@dataclass(frozen=True)
class Mistaken:
    """Builds no stage: the config has a mistake that only a worker finds."""

    def build(self):
        raise UsageError("captioner.device: cuda, but there is no GPU here")
