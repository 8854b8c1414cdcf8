import ast
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml

from glied.config import build, given_value, lists_as_json, parse, split_arguments
from glied.config_keys import renamed_keys
from glied.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The inner part."""

    size: int = 1
    """How many."""
    kind: Literal["x", "y"] = "x"
    """Which."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UsageError(f"inner.size is {self.size}: it must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """The whole."""

    name: str
    """What it is called."""
    inner: Inner = field(default_factory=Inner)
    """A part."""
    limit: int | None = None
    """At most so many."""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_file_then_overrides(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "name: n\ninner:\n  size: 5\n")
    assert parse(Outer, ["--config", file, "--inner.kind", "y"]) == Outer(
        name="n", inner=Inner(size=5, kind="y")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name"),
        (["--name", "n", "--inner.sizes", "3"], r"inner\.sizes.*Valid keys.*inner\.size"),
        (["--name", "n", "--inner.sizes", "3"], r"Did you mean inner\.size\? .*inner\.size$"),
        (["--name", "n", "--inn.size", "3"], r"inn\.size 3\. Did you mean inner\.size\? Valid keys: .*name"),
        (["--name", "n", "--size", "3"], r"Did you mean inner\.size\?"),
        (["--name", "n", "--zzz", "3"], r"--zzz 3\. Valid keys: "),
        (["--name", "n", "--inner.size", "many"], r"inner\.size.*Expected int\. .*many"),
        (["--name", "n", "--inner.kind", "z"], r"inner\.kind.*one of 'x', 'y'"),
        (["--name", "n", "--inner.size", "-1"], r"inner\.size is -1"),
        (["--config", "/nowhere.yaml"], r"/nowhere\.yaml: no such file"),
    ],
)
def test_errors_name_the_key(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(Outer, arguments)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "--maybe.size=many",
            r"^Parser key .maybe.: Parser key .size.: Expected int. Got value: many$",
        ),
        ("--maybe.size=-1", r"^inner\.size is -1: it must be at least 0$"),
    ],
)
def test_errors_of_optional_parts_are_like_those_of_others(option: str, message: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Optional:
        """With a part that may be null."""

        maybe: Inner | None = None
        """A part."""

    with pytest.raises(UsageError, match=message):
        parse(Optional, [option])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: n\ninner:\n  sise: 5\n", r"sise.*Did you mean inner\.size\?.*Valid keys: inner"),
        ("name: n\nname: m\n", "duplicate config key 'name'"),
        ("name: [n\n", "not valid YAML"),
        ("- name\n", "this is not a mapping of settings"),
        ("name: n\ninner.size: 2\ninner: {size: 3}\n", "duplicate config key 'inner.size'"),
    ],
)
def test_config_files_are_strict(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(Outer, ["--config", write(tmp_path / "c.yaml", text)])


@dataclass(frozen=True, kw_only=True)
class Whole:
    """With groups and plain values."""

    inner: Inner = field(default_factory=Inner)
    """A part."""
    maybe: Inner | None = None
    """A part that may be null."""
    share: float = 0.5
    """A number."""


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *[
            (key, value, f"^{key} holds settings \\(size, kind\\), not {shown}$")
            for key in ("inner", "maybe")
            for value, shown in (("1", "1"), ("true", "true"), ("[x]", r"\['x'\]"))
        ],
        ("inner", "null", "^inner holds settings .*, not null$"),
        ("maybe", "x.yaml", "^maybe holds settings .*, not 'x.yaml'$"),
        ("inner", "{size: null}", r"^inner\.size needs a value, not null$"),
        ("maybe", "{size: null}", r"^maybe\.size needs a value, not null$"),
        ("share", "null", "share.*(not null|None)$"),
    ],
)
def test_what_is_no_group_or_value_is_refused(tmp_path: Path, key: str, value: str, message: str) -> None:
    file = write(tmp_path / "c.yaml", f"{key}: {value}\nshare: 0.3\n" if key != "share" else "share: null\n")
    for arguments in (["--config", file], [f"--{key}={value}"], [f"--{key}", value]):
        with pytest.raises(UsageError, match=message):
            parse(Whole, arguments)
    with pytest.raises(UsageError, match=message):
        build(Whole, yaml.safe_load(f"{key}: {value}"))


def test_null_and_files_of_groups_are_read(tmp_path: Path) -> None:
    part = write(tmp_path / "part.yaml", "size: 7\n")
    file = write(tmp_path / "c.yaml", "inner: part.yaml\nmaybe: null\n")
    assert parse(Whole, ["--config", file]) == parse(Whole, ["--inner", part]) == Whole(inner=Inner(size=7))
    assert parse(Whole, ["--maybe.size=3", "--maybe", "null"]) == Whole()
    nothing = write(tmp_path / "nothing.yaml", "size: null\n")
    with pytest.raises(UsageError, match=r"inner\.size needs a value, not null"):
        parse(Whole, ["--inner", nothing])


def test_given_value_of_a_dotted_key(tmp_path: Path) -> None:
    assert given_value(["--config", write(tmp_path / "c.yaml", "inner.kind: y\n")], "inner.kind") == "y"


def test_run_prints_one_line_and_exits_with_2() -> None:
    command = [sys.executable, "jobs/evaluate.py", "--captions", "x", "--references", "y", "--beam", "3"]
    result = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "--beam" in result.stderr
    assert result.stderr.count("\n") == 1


def test_jobs_do_not_report_the_retries_of_the_hub() -> None:
    code = """
from glied.config import run

def main():
    from huggingface_hub.utils import logging
    logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 8s [Retry 5/5].")
    return 0

run(main)
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_help_explains_every_field() -> None:
    command = [sys.executable, "jobs/evaluate.py", "--help"]
    result = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    )
    assert "Captions file: COCO's JSON, JSON lines or a table" in result.stdout


@pytest.mark.parametrize(
    ("job", "usage"),
    [
        ("evaluate", "[--config FILE] [--OPTION VALUE ...]"),
        ("caption_image", "FILE... [--config FILE] [--OPTION VALUE ...]"),
        ("report", "RUN... [--config FILE] [--OPTION VALUE ...]"),
        ("status", "RUN [--config FILE] [--OPTION VALUE ...]"),
    ],
)
def test_help_shows_the_commands_and_keeps_lines(job: str, usage: str) -> None:
    command = [sys.executable, f"jobs/{job}.py", "--help"]
    folder = Path(__file__).parent.parent
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == f"usage: {job}.py {usage}"
    source = ast.get_docstring(ast.parse((folder / "glied" / "commands" / f"{job}.py").read_text()))
    assert source is not None
    first = lines.index(source.splitlines()[0])
    assert lines[first : first + len(source.splitlines())] == source.splitlines()
    assert "--config FILE" in result.stdout


def test_a_recorded_config_can_be_built_again() -> None:
    config = Outer(name="n", inner=Inner(size=5, kind="y"), limit=None)
    assert build(Outer, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(UsageError, match=r"inner\.size is -1"):
        build(Outer, {"name": "n", "inner": {"size": -1}})
    with pytest.raises(UsageError, match=r"sizes.*Valid keys.*inner\.size"):
        build(Outer, {"name": "n", "inner": {"sizes": 1}})


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Options with a flag."""

    name: str = "n"
    """A value."""
    quick: bool = False
    """A flag."""


@pytest.mark.parametrize(
    ("argv", "quick"),
    [
        (["--quick"], True),
        (["--quick", "--name", "x"], True),
        (["--quick", "true"], True),
        (["--quick", "false"], False),
        (["--quick=false"], False),
        ([], False),
    ],
)
def test_a_bare_flag_means_true(argv, quick):
    assert parse(Flags, argv).quick is quick


def test_arguments_options_and_flags_are_distinguished():
    argv = ["a.jpg", "--name", "x", "--quick", "b.jpg", "--name=y", "--quick", "false", "--", "--c.jpg"]
    bare, options = split_arguments(argv, Flags)
    assert bare == ["a.jpg", "b.jpg", "--c.jpg"]
    assert options == ["--name", "x", "--quick=true", "--name=y", "--quick", "false"]


def test_lists_are_written_as_arguments() -> None:
    argv = ["a", "--names", "x", "y z", "--json", '["p"]', "--names", "--other", "b"]
    found = lists_as_json(argv, ["--names", "--json"])
    assert found == ["a", "--names", '["x", "y z"]', "--json", '["p"]', "--names", "[]", "--other", "b"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Part of a config whose keys were renamed."""

    RENAMED: ClassVar[Mapping[str, str]] = {"workers": "size", "warmup": "rate.warmup", "rate": "rate.peak"}

    @dataclass(frozen=True, kw_only=True)
    class Rate:
        """A group with the name of a former key."""

        peak: float = 1.0
        """The highest."""
        warmup: int = 0
        """When it is reached."""

    size: int = 1
    """How many."""
    full: bool = False
    """A flag."""
    rate: Rate = field(default_factory=Rate)
    """A group."""


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """A config whose keys were renamed."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "label": "name",
        "threads": "pool.size",
        "old.full": "pool.full",
        "group": "spare",
    }

    name: str = "n"
    """What it is called."""
    pool: Pool = field(default_factory=Pool)
    """A part."""
    spare: Pool | None = None
    """A part that may be null."""


def test_renamed_keys_of_a_config_and_of_its_parts() -> None:
    assert renamed_keys(Renamed) == {
        **Renamed.RENAMED,
        "pool.workers": "pool.size",
        "pool.warmup": "pool.rate.warmup",
        "pool.rate": "pool.rate.peak",
        "spare.workers": "spare.size",
        "spare.warmup": "spare.rate.warmup",
        "spare.rate": "spare.rate.peak",
    }


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("label: m\n", [], Renamed(name="m")),
        ("pool:\n  workers: 3\n  rate: 1e-4\n", [], Renamed(pool=Pool(size=3, rate=Pool.Rate(peak=1e-4)))),
        ("pool:\n  warmup: 5\n  rate: 2\n", [], Renamed(pool=Pool(rate=Pool.Rate(peak=2, warmup=5)))),
        ("pool:\n  rate:\n    peak: 2\n", [], Renamed(pool=Pool(rate=Pool.Rate(peak=2)))),
        ("old:\n  full: true\n", [], Renamed(pool=Pool(full=True))),
        ("group:\n  workers: 2\n", [], Renamed(spare=Pool(size=2))),
        ("threads: 2\n", ["--pool.size", "4"], Renamed(pool=Pool(size=4))),
        ("pool:\n  size: 2\n", ["--threads=4"], Renamed(pool=Pool(size=4))),
        ("label: m\n", ["--pool.workers", "4"], Renamed(name="m", pool=Pool(size=4))),
        ("{}\n", ["--old.full", "--label", "a=b"], Renamed(name="a=b", pool=Pool(full=True))),
        ("{}\n", ["--group.workers=2"], Renamed(spare=Pool(size=2))),
        ("pool.workers: 2\npool: {full: true}\n", [], Renamed(pool=Pool(size=2, full=True))),
        ("group: {rate.warmup: 2, workers: 3}\n", [], Renamed(spare=Pool(size=3, rate=Pool.Rate(warmup=2)))),
        ("old.full: true\n", [], Renamed(pool=Pool(full=True))),
        ("{}\n", ['--pool={"workers": 5}'], Renamed(pool=Pool(size=5))),
        ("{}\n", ["--pool", "{workers: 5, rate: 2}"], Renamed(pool=Pool(size=5, rate=Pool.Rate(peak=2)))),
        ("{}\n", ["--group={workers: 5}"], Renamed(spare=Pool(size=5))),
        ("{}\n", ["--pool.rate={peak: 2, warmup: 0}"], Renamed(pool=Pool(rate=Pool.Rate(peak=2)))),
        ("{}\n", ["--pool.rate", "2", "--pool.rate.peak=2"], None),
        ("{}\n", ["--label", "m", "--name=o"], None),
        ("label: m\nname: o\n", [], None),
        ("threads: 2\npool: 3\n", [], None),
    ],
)
def test_a_renamed_key_works_and_warns(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    text: str,
    arguments: list[str],
    expected: Renamed | None,
) -> None:
    arguments = ["--config", write(tmp_path / "c.yaml", text), *arguments]
    if expected is None:
        with pytest.raises(UsageError, match=r"the new name|has no keys"):
            parse(Renamed, arguments)
        return
    with caplog.at_level(logging.WARNING):
        assert parse(Renamed, arguments) == expected
    old_key_was_used = "peak: 2" not in text + arguments[-1]
    assert len(caplog.records) == old_key_was_used
    assert all("is now" in record.message for record in caplog.records)


def test_a_recorded_config_with_former_keys_can_be_built(caplog: pytest.LogCaptureFixture) -> None:
    record = {"label": "m", "threads": 2, "pool": {"rate": 3.0}, "spare": {"workers": 4}}
    with caplog.at_level(logging.WARNING):
        built = build(Renamed, record)
    assert built == Renamed(name="m", pool=Pool(size=2, rate=Pool.Rate(peak=3.0)), spare=Pool(size=4))
    assert record["label"] == "m"
    assert [record.message for record in caplog.records] == [
        "renamed config keys, whose old names work until the next release: label is now name, "
        "threads is now pool.size, pool.rate is now pool.rate.peak, spare.workers is now spare.size"
    ]


def test_a_typo_is_not_a_former_key() -> None:
    with pytest.raises(UsageError, match=r"pool\.worker.*Valid keys.*pool\.size"):
        parse(Renamed, ["--pool.worker=2"])
