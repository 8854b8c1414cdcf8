"""What ships with the package: weights, and the configs of the commands.

Weights are in the folder `weights` of the package. The configs are in `configs/` beside the package in a
checkout, and in the package where it was installed from a wheel (setup.py puts them there).
"""

import difflib
from pathlib import Path

from glied import storage
from glied.errors import UsageError

PACKAGE = Path(__file__).resolve().parent
WEIGHTS = "glied/weights/"
"""How configs name the weights that ship."""


def configs_folder() -> Path:
    """The folder of the configs that ship."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """The configs that ship, such as "caption/photographs.yaml", sorted."""
    folder = configs_folder()
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.yaml"))


def config_file(name: str) -> Path:
    """A config file: a path, or the name of one that ships, with or without "configs/" and ".yaml".

    Raises:
        UsageError: there is no such file; the message names similar ones.
    """
    if (path := Path(name)).is_file():
        return path
    inside = name.removeprefix("configs/")
    for candidate in (inside, f"{inside}.yaml"):
        if inside and (path := configs_folder() / candidate).is_file():
            return path
    similar = difflib.get_close_matches(f"{inside.removesuffix('.yaml')}.yaml", config_names(), 3)
    hint = f", nor does a config of this name ship; similar ones: {', '.join(similar)}" if similar else ""
    raise UsageError(f"{name or '(nothing)'}: no such file{hint}")


def locate(uri: str) -> str:
    """A checkpoint's place: a relative path that does not exist here is looked up where the package is.

    So `glied/weights/...` is found from any working directory, in a checkout and in an installed package.

    Raises:
        UsageError: it names weights that ship, and there are none of this name.
    """
    if not storage.is_local(uri) or Path(uri).is_absolute() or Path(uri).exists():
        return uri
    beside = PACKAGE.parent / uri
    if beside.exists():
        return str(beside)
    if uri.startswith(WEIGHTS):
        known = sorted(path.relative_to(PACKAGE).parent for path in PACKAGE.glob("weights/*/*/model.json"))
        names = ", ".join(f"glied/{one.as_posix()}" for one in known) or "none"
        raise UsageError(f"no checkpoint in {uri}: weights that ship with this installation: {names}")
    return uri
