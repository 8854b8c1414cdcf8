"""The command `glied`: `glied COMMAND ...` runs a module of `glied.commands`, as jobs/COMMAND.py does.

Command modules are imported when they are run: they load torch or Ray, which takes seconds.
"""

import ast
import difflib
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import NoReturn

from glied import __version__, commands, invocation

ALIASES = {"caption": "caption-dataset", "train-grammar": "finetune-grammar"}
USAGE = f"usage: {invocation.PROGRAM} COMMAND [--config FILE] [--OPTION VALUE ...]"
FOOTER = """`glied COMMAND --help` explains a command's options, `glied configs` lists the configs that ship.
The words of a command may be separate: `glied train captioner` is `glied train-captioner`."""


def command_modules() -> dict[str, str]:
    """The modules of `glied.commands` by command, sorted by command."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {invocation.command_name(name): name for name in names}


def main() -> NoReturn:
    """Run the command that the arguments name, and exit as it does; 2 where they name none."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        print(f"{invocation.PROGRAM} {__version__}")
        sys.exit(0)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    modules = command_modules()
    command, rest = _split(arguments, modules)
    if command not in modules:
        sys.exit(_no_command(arguments, modules))
    invocation.start_as(command, rest)

    from glied.config import run  # jsonargparse is slow to import

    run(importlib.import_module(f"glied.commands.{modules[command]}").main)


def overview(prefix: str = "") -> str:
    """The help: the commands that begin with a prefix, with the first line of their docstrings."""
    lines = [f"  {name:<18} {_summary(module)}" for name, module in command_modules().items()
             if name.startswith(prefix)]  # fmt: skip
    aliases = [f"  {name:<18} the same as {command}" for name, command in ALIASES.items()
               if name.startswith(prefix)]  # fmt: skip
    return "\n".join([USAGE, "", *lines, "", *aliases, "", FOOTER])


def _split(arguments: list[str], modules: dict[str, str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, in two words or one, and the other arguments."""
    for words in (2, 1):
        name = invocation.command_name("-".join(arguments[:words]))
        name = ALIASES.get(name, name)
        if name in modules:
            return name, arguments[words:]
    return arguments[0], arguments[1:]


def _no_command(arguments: list[str], modules: dict[str, str]) -> int:
    """Say what the first words of commands begin, or that there is no such command."""
    name = invocation.command_name(arguments[0])
    if family := [one for one in modules if one.startswith(f"{name}-")]:
        if arguments[1:2] in (["-h"], ["--help"]):
            print(overview(f"{name}-"))
            return 0
        message = f"{name} is the first word of several commands: {', '.join(family)}"
    else:
        similar = difflib.get_close_matches(name, [*modules, *ALIASES], 3)
        hint = f"did you mean {', '.join(similar)}? " if similar else ""
        message = f"no command {arguments[0]!r}; {hint}`{invocation.PROGRAM} --help` lists them"
    print(f"error: {message}", file=sys.stderr)
    return 2


def _summary(module: str) -> str:
    """The first line of a command's docstring, read without importing it."""
    file = Path(commands.__path__[0]) / f"{module}.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return invocation.as_commands(text.partition("\n")[0])
