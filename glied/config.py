"""Command lines of the jobs: frozen dataclasses in, exit codes out.

jsonargparse does the YAML, overrides, types and help; this module only fixes how the jobs use it: strict
keys, no abbreviations, and one clear line where a person made a mistake.
"""

import dataclasses
import difflib
import json
import logging
import os
import re
import select
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
from glied.config_groups import check_groups, group_at
from glied.config_keys import flat, move_keys, nested, renamed_keys, warn_of_former_keys, with_new_keys
from glied.errors import GliedError, UsageError
from glied.invocation import as_invoked
from glied.redaction import RedactingFormatter
from glied.terminal_text import printable

Config = TypeVar("Config")

log = logging.getLogger(__name__)

_CHATTY = ("botocore", "aiobotocore", "boto3", "s3fs", "fsspec", "urllib3", "filelock", "jax", "absl")
"""Libraries whose INFO lines, such as where credentials were found, do not interest the users of a job."""

# jsonargparse's message about a bad value of an optional field; the actual error is in the middle.
_OPTIONAL = re.compile(
    r"Does not validate against any of the Union subtypes .*? Errors: - "
    r"(?:Problem with given class_path \S+: )?(.*?) - Expected a <class 'NoneType'>.*"
)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML's own loader silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise UsageError(f"duplicate config key {key!r} (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _HelpFormatter(DefaultHelpFormatter):
    """Keeps the line breaks of a job's docstring, which contains commands."""

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
        arguments: positional arguments, for the help, such as "FILE...".
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
    """Splits a command line into its positional arguments and its options.

    An option is an argument that begins with --, together with the next one unless it contains "="; a flag of
    a boolean field without a value means true. Everything after "--" is positional.
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
    """Rewrites `--name A B` of the options `names` as JSON lists, which the parser accepts."""
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
    given = _flags_spelled_out(_with_new_names(given, config_class), parser)
    return _instantiate(config_class, parser, lambda: parser.parse_args(given))


def given_value(arguments: Sequence[str], key: str) -> Any:
    """The last value of a dotted key among the options and config files of a command line, else None.

    Raises:
        UsageError: a config file is missing or is not YAML.
    """
    found = None
    rest = deque(arguments)
    while rest:
        name, equals, value = rest.popleft().partition("=")
        if name in ("--config", f"--{key}") and not equals and rest:
            value = rest.popleft()
        if name == f"--{key}":
            found = value
        elif name == "--config":
            values: Any = nested(_read_config_file(value)[1])
            for part in key.split("."):
                values = values.get(part) if isinstance(values, dict) else None
            found = found if values is None else values
    return found


def build(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """Build `config_class` from nested values, such as those that run.json keeps.

    Raises:
        UsageError: as `parse`.
    """
    parser = build_parser(config_class)
    current = with_new_keys(config_class, values)
    check_groups(config_class, current)
    return _instantiate(config_class, parser, lambda: parser.parse_object(current))


def check_keys(config_class: type, values: Mapping[str, Any], within: str) -> None:
    """Refuse keys of nested settings that `config_class` lacks.

    Raises:
        UsageError: naming the first one below `within`, and the keys that may be meant.
    """
    valid = _valid_keys(build_parser(config_class))
    groups = {key.rpartition(".")[0] for key in valid}
    mappings = tuple(f"{key}." for key in valid if key not in groups)  # settings that may be mappings
    for key in flat(values, empty=True):
        if key not in valid and not key.startswith(mappings):
            raise UsageError(f"{within}.{key} is no key of {config_class.__name__}{_known_keys(key, valid)}")


def _instantiate(config_class: type[Config], parser: ArgumentParser, read: Callable[[], Namespace]) -> Config:
    try:
        namespace = read()
        namespace.pop("config", None)
        check_groups(config_class, namespace.as_dict())
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


def _with_new_names(arguments: Sequence[str], config_class: type) -> list[str]:
    """The command line with the new names of renamed keys, in its options and its config files.

    Raises:
        UsageError: a config file or an option has something else in place of a group of settings.
    """
    renamed = renamed_keys(config_class)
    current: list[str] = []
    found: dict[str, str] = {}
    rest = deque(arguments)
    while rest:
        option, equals, value = rest.popleft().partition("=")
        new = _new_option(option, renamed)
        is_group = option.startswith("--") and any(group_at(config_class, one[2:]) for one in (option, new))
        if (is_group or option == "--config") and not equals and rest:
            equals, value = "=", rest.popleft()
        if option == "--config":
            value, old_keys = _file_with_new_names(config_class, value)
        elif is_group and equals:
            new, value, old_keys = _group_with_new_names(config_class, option, new, value)
        else:
            old_keys = {option[2:]: new[2:]} if option != new else {}
        found |= old_keys
        current.append(f"{new}{equals}{value}")
    _check_given_once(arguments, renamed)
    warn_of_former_keys(found)
    return current


def _file_with_new_names(config_class: type, file: str) -> tuple[str, dict[str, str]]:
    """A config file, or its content where it has former names; and which it has."""
    path, values = _read_config_file(file)
    moved, found = move_keys(config_class, values)
    check_groups(config_class, moved)
    return (yaml.safe_dump(moved) if found else path), found


def _group_with_new_names(
    config_class: type, option: str, new: str, text: str
) -> tuple[str, str, dict[str, str]]:
    """The option of a group and its value with the names of today, and which former names they have."""
    value = _read_yaml(text, option)
    if new.startswith(f"{option}.") and isinstance(value, dict):  # the new form: a group of the same name
        new = option
    found = {option[2:]: new[2:]} if option != new else {}
    moved, inner = move_keys(config_class, {new[2:]: value})
    check_groups(config_class, moved)
    for name in new[2:].split("."):
        moved = moved[name]
    return new, (json.dumps(moved) if inner else text), found | inner


def _new_option(option: str, renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        if option == f"--{old}":
            option = f"--{new}"
        elif option.startswith(f"--{old}.") and not new.startswith(f"{old}."):
            option = option.replace(old, new, 1)
    return option


def _check_given_once(arguments: Sequence[str], renamed: Mapping[str, str]) -> None:
    given = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    for option in sorted(given):
        new = _new_option(option, renamed)
        if new != option and new in given:
            raise UsageError(f"{option} and {new} are the same option; use only {new}, the new name")


def _read_config_file(name: str) -> tuple[str, dict[str, Any]]:
    """Path and values, as YAML 1.1 reads them, of a config file that may be one that ships.

    Raises:
        UsageError: the file is missing, is no mapping in YAML, or has a duplicate key (jsonargparse keeps the
            last).
    """
    try:
        path = shipped.config_file(name)
    except UsageError as error:
        raise UsageError(f"--config {error}") from error
    values = _read_yaml(path.read_text(encoding="utf-8"), f"--config {path}")
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"--config {path}: this is not a mapping of settings")
    return str(path), values or {}


def _read_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def _one_line(error: BaseException, parser: ArgumentParser) -> str:
    """The message of jsonargparse in one line, with the valid keys where a key was unknown."""
    message = _OPTIONAL.sub(r"\1", " ".join(str(error).split()))
    message = _LITERAL.sub(r"one of \1", _CLASS.sub(r"\1", message))
    if "not expected" in message or "nrecognized" in message or "not accept" in message:
        message += _known_keys(_unknown_key(message), _valid_keys(parser))
    return message


_CLASS = re.compile(r"a <class '(\w+)'>")
_LITERAL = re.compile(r"a typing\.Literal\[([^\]]*)\]")
_UNKNOWN = re.compile(r"(?:Group '([\w.]+)' does not accept option '|--|Option ')([\w.]+)")


def _unknown_key(message: str) -> str:
    """The key that a message of jsonargparse refuses, with its groups; empty if the message names none."""
    found = _UNKNOWN.search(message)
    return ".".join(filter(None, found.groups())) if found else ""


def _known_keys(unknown: str, valid: list[str]) -> str:
    """The keys like an unknown one, and the valid ones: those of its group if there is one, else all."""
    last = unknown.rpartition(".")[2]
    same = [key for key in valid if key.rpartition(".")[2] == last]
    close = list(dict.fromkeys([*same, *difflib.get_close_matches(unknown, valid, n=1, cutoff=0.8)]))
    group = unknown.rpartition(".")[0]
    listed = [key for key in valid if key.startswith(f"{group}.")] or valid
    meant = f". Did you mean {' or '.join(close[:3])}?" if close else "."
    return f"{meant} Valid keys: {', '.join(listed)}"


def _valid_keys(parser: ArgumentParser) -> list[str]:
    hidden = ("help", "config", "print_config", "print_shtab")
    return sorted(action.dest for action in parser._actions if action.dest not in hidden)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; the process ends as after Ctrl-C."""


ending = threading.Event()
"""Set when a signal ends the job; from then on the output of its workers is suppressed."""


def _terminate(number: int, frame: object) -> NoReturn:
    ending.set()
    raise Terminated


def _interrupt(number: int, frame: object) -> NoReturn:
    ending.set()
    raise KeyboardInterrupt


def run(main: Callable[[], int]) -> NoReturn:
    """Run a job's `main` and exit: 0 done, 1 failed or incomplete, 2 bad usage or config, 143 on SIGTERM."""
    signal.signal(signal.SIGTERM, _terminate)
    # Background jobs of a shell ignore SIGINT, and must go on doing so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else a line for each retry without internet
    try:
        code = main()
        sys.stdout.flush()
    except GliedError as error:
        print(f"error: {printable(as_invoked(' '.join(str(error).split())))}", file=sys.stderr)
        code = error.exit_code
    except Terminated:
        print("error: terminated by a signal; the same command resumes", file=sys.stderr)
        code = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("error: interrupted; the same command resumes", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        if not _reader_has_ended():
            raise
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _reader_has_ended() -> bool:
    """Whether what reads the output has ended, as `head` does; the rest of the output is dropped then."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # else Python complains at its exit
    return True
