"""Run one stage in its process."""

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
    """Run a stage, and append its rows, and its error if it fails, to a file as they come.

    Args:
        name: name of the stage.
        function: "module:name" of the generator of rows.
        setting: setting of the stage.
        lines: path of the file; one JSON object per line.
    """
    os.setsid()  # starts a process group, so that its child processes can be killed with it
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
