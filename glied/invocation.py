"""How commands are named in help and messages: as the user started this one.

Docstrings and messages name the scripts of a checkout, `.venv/bin/python jobs/caption_image.py`. A command
that was started as `glied caption-image` names commands so instead.
"""

import re
import sys

PROGRAM = "glied"
_EXTRA = re.compile(r"""-e (["'])\.\[(\w+)\]\1""")
_SCRIPT = re.compile(r"(?:[\w./-]*\bpython )?\bjobs/(\w+)\.py")


def start_as(command: str, arguments: list[str]) -> None:
    """Make this process's command line that of `glied COMMAND`."""
    sys.argv = [f"{PROGRAM} {command}", *arguments]


def command_name(module: str) -> str:
    """The command of a module of `glied.commands`: caption-image of caption_image."""
    return module.replace("_", "-")


def as_invoked(text: str) -> str:
    """The text with commands in the form in which this process was started."""
    return as_commands(text) if sys.argv[0].startswith(f"{PROGRAM} ") else text


def as_commands(text: str) -> str:
    """The text with `glied COMMAND` for each script of jobs/, and extras of the installed package."""
    named = _SCRIPT.sub(lambda found: f"{PROGRAM} {command_name(found[1])}", text)
    return _EXTRA.sub(rf"\1{PROGRAM}[\2]\1", named.replace(".venv/bin/", ""))
