"""Stages that fail in the ways in which stages fail on a GPU machine."""

import os
import subprocess
import sys
import time


def good(setting):
    yield {"figure": 1, "ceilings": len(setting.ceilings)}
    yield {"check": "always", "value": 0.0, "ok": True}


def raising(setting):
    yield {"figure": 2}
    raise ValueError("no such kernel")


def failing(setting):
    yield {"check": "never", "value": 1.0, "most": 0.5, "ok": False}


def dying(setting):
    yield {"figure": 3}
    os._exit(139)


def slow(setting):
    """Start a child process, which must be killed together with the stage."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield {"child": child.pid}
    time.sleep(600)
