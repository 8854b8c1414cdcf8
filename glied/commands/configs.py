"""List the configs that ship, those of a folder, or print one of them to edit a copy.

    glied configs
    glied configs caption
    glied configs caption/photographs.yaml > mine.yaml

--config of all commands takes these names, as well as paths of your own files.
"""

import sys
from dataclasses import dataclass

from glied import shipped
from glied.config import parse, split_arguments
from glied.errors import UsageError
from glied.invocation import as_invoked


@dataclass(frozen=True, kw_only=True)
class ConfigsConfig:
    """What to show."""

    name: str = ""
    """A folder of configs, such as caption, or a config, which is printed; may stand without --name."""


def main() -> int:
    """List or print."""
    names, options = split_arguments(sys.argv[1:], ConfigsConfig)
    if len(names) > 1:
        raise UsageError(f"{len(names)} names given, at most one is allowed: glied configs [NAME]")
    options += [f"--name={name}" for name in names]
    name = parse(ConfigsConfig, options, description=__doc__, arguments="[NAME]").name.rstrip("/")
    listed = [one for one in shipped.config_names() if not name or one.startswith(f"{name}/")]
    if listed:
        print("\n".join(f"{one:<42} {_purpose(one)}" for one in listed))
    else:
        print(shipped.config_file(name).read_text(encoding="utf-8"), end="")
    return 0


def _purpose(name: str) -> str:
    """The first line of a config's header."""
    with shipped.config_file(name).open(encoding="utf-8") as file:
        return as_invoked(file.readline().lstrip("# ").rstrip())
