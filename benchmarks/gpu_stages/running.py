"""One stage in the process that was made for it."""

import importlib
import json
import logging
import os
import sys
import traceback
from pathlib import Path

import torch

from benchmarks.gpu_stages.setting import Setting


def perform(name: str, function: str, setting: Setting, lines: str) -> None:
    """Append each row of the stage `name` to the file `lines` as soon as it is known, and at last its error.

    `function` is "module:name" of what yields the rows.
    """
    os.setsid()  # leads a group, so that all that it starts can be ended with it
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    with Path(lines).open("a") as file:
        try:
            torch.set_num_threads(setting.threads)
            module, _, called = function.partition(":")
            for row in getattr(importlib.import_module(module), called)(setting):
                text = json.dumps(row)
                file.write(text + "\n")
                file.flush()
                print(f"  {name} {text}", flush=True)
        except Exception as error:
            traceback.print_exc()
            file.write(json.dumps({"stage_error": f"{type(error).__name__}: {error}"[:1000]}) + "\n")
            file.flush()
            sys.exit(1)
