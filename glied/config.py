"""Command lines of the jobs: frozen dataclasses in, exit codes out.

jsonargparse does the YAML, overrides, types and help; this module only fixes how the jobs use it: strict
keys, no abbreviations, and one clear line where a person made a mistake.
"""

import dataclasses
import json
import logging
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import (
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)

from glied import shipped
from glied.errors import GliedError, UsageError
from glied.invocation import as_invoked
from glied.redaction import RedactingFormatter

Config = TypeVar("Config")

log = logging.getLogger(__name__)

_CHATTY = ("botocore", "aiobotocore", "boto3", "s3fs", "fsspec", "urllib3", "filelock", "jax", "absl")
"""Libraries whose INFO lines, such as where credentials were found, say nothing of the job."""

# jsonargparse's words about a bad value where null was possible, too; what is wrong stands in the middle.
_OPTIONAL = re.compile(
    r"Does not validate against any of the Union subtypes .*? Errors: - "
    r"(?:Problem with given class_path \S+: )?(.*?) - Expected a <class 'NoneType'>.*"
)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's own loader keeps the last of two equal keys in silence; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise UsageError(f"config key {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _HelpFormatter(DefaultHelpFormatter):
    """Help that keeps the lines of a job's docstring, most of which are commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.strip().splitlines())

    def format_help(self) -> str:
        """The help with commands named as they were started."""
        return as_invoked(super().format_help())


def build_parser(config_class: type, description: str | None = None, arguments: str = "") -> ArgumentParser:
    """The command line of a job whose config is `config_class`: `--config FILE` and one option per field.

    Args:
        config_class: of the job.
        description: for the help.
        arguments: what stands before the options, for the help, such as "FILE...".
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        description=description,
        usage=" ".join(filter(None, ["%(prog)s", arguments, "[--config FILE] [--OPTION VALUE ...]"])),
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE",
        help="YAML file with the fields below; later options override it.",
    )
    parser.add_class_arguments(config_class, as_group=False, fail_untyped=True)
    return parser


def split_arguments(argv: Sequence[str], config_class: type) -> tuple[list[str], list[str]]:
    """A command line's bare arguments and its options.

    An option is what begins with --, and the argument after it unless it has a "="; a bare flag of a boolean
    field means true. All after "--" is bare.
    """
    flags = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type in (bool, "bool")}
    alone = {"--help", "-h", "--print_config"}
    bare: list[str] = []
    options: list[str] = []
    arguments = deque(argv)
    while arguments:
        argument = arguments.popleft()
        if argument == "--":
            return bare + list(arguments), options
        if not argument.startswith("-") or argument == "-":
            bare.append(argument)
        elif argument in flags and (not arguments or arguments[0] not in ("true", "false")):
            options.append(f"{argument}=true")
        else:
            options.append(argument)
            if "=" not in argument and argument not in alone and arguments:
                options.append(arguments.popleft())
    return bare, options


def lists_as_json(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments with `--name A B` of the options `names` as lists in JSON, which the parser takes."""
    arguments: list[str] = []
    rest = deque(argv)
    while rest:
        arguments.append(rest.popleft())
        if arguments[-1] in names:
            values = []
            while rest and not rest[0].startswith("--"):
                values.append(rest.popleft())
            arguments.append(values[0] if values[:1] and values[0].startswith("[") else json.dumps(values))
    return arguments


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    description: str | None = None,
    arguments: str = "",
) -> Config:
    """Build `config_class` from `--config FILE` and dotted overrides; a bare flag means true.

    Description and arguments are for the help, as in `build_parser`.

    Raises:
        UsageError: an unknown, duplicate or mistyped key, a missing file, or a value the config refuses.
    """
    parser = build_parser(config_class, description, arguments)
    given = list(sys.argv[1:] if argv is None else argv)
    given = _config_files_located(given)
    given = _flags_spelled_out(given, parser)
    return _instantiate(config_class, parser, lambda: parser.parse_args(given))


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Build `config_class` from nested values, such as those that run.json keeps.

    Raises:
        UsageError: as `parse`.
    """
    parser = build_parser(config_class)
    return _instantiate(config_class, parser, lambda: parser.parse_object(dict(values)))


def _instantiate(config_class: type[Config], parser: ArgumentParser, read: Callable[[], Namespace]) -> Config:
    try:
        namespace = read()
        namespace.pop("config", None)
        built = parser.instantiate(namespace)
        return config_class(**{key: value for key, value in vars(built).items() if key != "config"})
    except UsageError:
        raise
    except (ArgumentError, ValueError, TypeError) as error:
        raise UsageError(_one_line(error, parser)) from error


def _flags_spelled_out(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """`--full` as `--full=true`, for the options whose type is bool."""
    flags = {
        option
        for action in parser._actions
        if getattr(action, "_typehint", None) is bool
        for option in action.option_strings
    }
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("--") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def _config_files_located(arguments: Sequence[str]) -> list[str]:
    """The arguments with the paths of config files, which may be those that ship, and are checked here.

    Raises:
        UsageError: a file is missing, or names a key twice, which jsonargparse would not notice.
    """
    located: list[str] = []
    rest = deque(arguments)
    while rest:
        located.append(rest.popleft())
        name, _, value = located[-1].partition("=")
        if name != "--config":
            continue
        value = value or (rest.popleft() if rest else "")
        try:
            path = shipped.config_file(value)
        except UsageError as error:
            raise UsageError(f"--config {error}") from error
        _check_keys(path)
        located[-1:] = [name, str(path)]
    return located


def _check_keys(path: Path) -> None:
    """Refuse a config file that names a key twice, or is no YAML."""
    try:
        yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"--config {path}: not valid YAML: {' '.join(str(error).split())}") from error


def _one_line(error: BaseException, parser: ArgumentParser) -> str:
    """The message of jsonargparse in one line, with the valid keys where a key was unknown."""
    message = _OPTIONAL.sub(r"\1", " ".join(str(error).split()))
    if "not expected" in message or "nrecognized" in message or "does not accept" in message:
        message += ". Valid keys: " + ", ".join(_valid_keys(parser))
    return message


def _valid_keys(parser: ArgumentParser) -> list[str]:
    hidden = ("help", "config", "print_config", "print_shtab")
    return sorted(action.dest for action in parser._actions if action.dest not in hidden)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever sent it wants the process to end as after Ctrl-C."""


ending = threading.Event()
"""Set once a signal ends the job: what its workers then say is of no use to anybody."""


def _terminate(number: int, frame: object) -> NoReturn:
    ending.set()
    raise Terminated


def _interrupt(number: int, frame: object) -> NoReturn:
    ending.set()
    raise KeyboardInterrupt


def run(main: Callable[[], int]) -> NoReturn:
    """Run a job's `main` and exit: 0 done, 1 failed or incomplete, 2 bad usage or config, 143 on SIGTERM."""
    signal.signal(signal.SIGTERM, _terminate)
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # a shell has its background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        code = main()
    except GliedError as error:
        print(f"error: {as_invoked(' '.join(str(error).split()))}", file=sys.stderr)
        code = error.exit_code
    except Terminated:
        print("error: terminated by a signal; the same command resumes", file=sys.stderr)
        code = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("error: interrupted; the same command resumes", file=sys.stderr)
        code = 1
    sys.exit(code)
