"""The command `glied`: it has every command, and its messages use the names of its commands."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glied import __version__, cli, invocation, shipped
from glied.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = cli.command_modules()


def glied(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call `glied` without running one of its commands; return the exit code."""
    monkeypatch.setattr(sys, "argv", ["glied", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_every_job_is_a_command() -> None:
    jobs = {file.stem for file in (ROOT / "jobs").glob("*.py")}
    assert set(COMMANDS.values()) == jobs | {"configs"}
    assert set(cli.ALIASES.values()) <= COMMANDS.keys()
    assert len(COMMANDS) > 20


def test_help_lists_the_commands_with_descriptions(monkeypatch, capsys) -> None:
    assert glied(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in listed.splitlines() if line.startswith("  "))
    assert lines.keys() == COMMANDS.keys() | cli.ALIASES.keys()
    assert lines["make-scenes"] == "Render scenes of the demo world."
    assert all(line.endswith((".", "dataset", "grammar")) for line in lines.values()), "a whole sentence each"
    assert glied(monkeypatch) == 2
    assert capsys.readouterr().err == listed


def test_version(monkeypatch, capsys) -> None:
    assert glied(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"glied {__version__}\n"


def test_an_unknown_command_is_one_line(monkeypatch, capsys) -> None:
    assert glied(monkeypatch, "gallry", "--run", "x") == 2
    output = capsys.readouterr()
    assert output.err == "error: no command 'gallry'; did you mean gallery? `glied --help` lists them\n"
    assert output.out == ""


def test_the_first_word_of_commands_lists_them(monkeypatch, capsys) -> None:
    assert glied(monkeypatch, "train") == 2
    message = capsys.readouterr().err
    assert "train-attributes, train-backbone, train-captioner" in message
    assert glied(monkeypatch, "train", "--help") == 0
    listed = capsys.readouterr().out
    assert "train-scst" in listed
    assert "make-scenes" not in listed


@pytest.mark.parametrize(
    ("arguments", "command", "rest"),
    [
        ("caption --config x", "caption-dataset", "--config x"),
        ("caption-dataset --config x", "caption-dataset", "--config x"),
        ("caption_dataset --config x", "caption-dataset", "--config x"),
        ("caption image a.jpg", "caption-image", "a.jpg"),
        ("train captioner --config x", "train-captioner", "--config x"),
        ("train grammar --config x", "finetune-grammar", "--config x"),
        ("export --run r", "export", "--run r"),
        ("status runs/photos", "status", "runs/photos"),
    ],
)
def test_words_name_commands(arguments: str, command: str, rest: str) -> None:
    assert cli._split(arguments.split(), COMMANDS) == (command, rest.split())


def test_a_command_runs_and_uses_its_own_name(tmp_path) -> None:
    """In a usage error and in the help, outside of the repository."""
    for command, name in (
        (["-m", "glied", "caption-image"], "glied caption-image"),
        ([str(ROOT / "jobs" / "caption_image.py")], "python jobs/caption_image.py"),
    ):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (2, f"error: no image given: {name} FILE...\n")


def test_output_that_nobody_reads_is_no_error() -> None:
    """As with `glied configs | head`."""
    with subprocess.Popen(
        [sys.executable, "-m", "glied", "configs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as job:
        assert job.stdout
        assert job.stderr
        job.stdout.close()
        assert job.stderr.read() == b""
    assert job.returncode == 128 + signal.SIGPIPE


def test_texts_name_commands_as_they_were_started(monkeypatch) -> None:
    text = (
        "`.venv/bin/python jobs/train_scst.py --config x`, of jobs/prepare_cider.py; .venv/bin/ray job submit"
    )
    monkeypatch.setattr(sys, "argv", ["jobs/train_scst.py"])
    assert invocation.as_invoked(text) == text
    monkeypatch.setattr(sys, "argv", ["glied train-scst"])
    assert (
        invocation.as_invoked(text) == "`glied train-scst --config x`, of glied prepare-cider; ray job submit"
    )
    extra = 'form lance needs the package pylance: pip install -e ".[lance]"'
    assert invocation.as_invoked(extra).endswith('pylance: pip install "glied[lance]"')


def test_help_names_the_program_and_its_examples(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["glied make-scenes", "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module("glied.commands.make_scenes").main()
    text = capsys.readouterr().out
    assert text.startswith("usage: glied make-scenes [--config FILE]")
    assert "\nglied make-scenes --out data/scenes/test" in text
    assert "jobs/" not in text


def test_the_list_of_commands_loads_no_library() -> None:
    code = "import sys, glied.cli; glied.cli.overview(); print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "ray", "numpy", "pyarrow", "jsonargparse", "yaml", "fsspec"}


# ---- shipped configs and weights


def test_configs_have_short_names(tmp_path, monkeypatch) -> None:
    expected = ROOT / "configs" / "caption" / "photographs.yaml"
    monkeypatch.chdir(tmp_path)
    for name in ("caption/photographs.yaml", "caption/photographs", "configs/caption/photographs.yaml"):
        assert shipped.config_file(name) == expected
    own = tmp_path / "caption" / "photographs.yaml"
    own.parent.mkdir()
    own.touch()
    assert shipped.config_file("caption/photographs.yaml") == Path("caption/photographs.yaml")
    with pytest.raises(UsageError, match=r"^caption/photo: no such file.*: caption/photographs\.yaml, "):
        shipped.config_file("caption/photo")


def test_configs_are_listed_and_printed(monkeypatch, capsys) -> None:
    main = importlib.import_module("glied.commands.configs").main
    monkeypatch.setattr(sys, "argv", ["glied configs"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped.config_names()
    assert len(lines) == len(list((ROOT / "configs").rglob("*.yaml")))
    monkeypatch.setattr(sys, "argv", ["glied configs", "import"])
    assert main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "import/bottom_up.yaml",
        "import/bottom_up_tiny.yaml",
    ]
    monkeypatch.setattr(sys, "argv", ["glied configs", "caption/demo"])
    assert main() == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "caption" / "demo.yaml").read_text()


def test_weights_are_found_from_any_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = "glied/weights/demo/glied"
    assert Path(shipped.locate(uri)) == ROOT / uri
    (tmp_path / uri).mkdir(parents=True)
    assert shipped.locate(uri) == uri, "what is here comes first"
    assert shipped.locate("s3://bucket/glied/weights/demo") == "s3://bucket/glied/weights/demo"
    assert shipped.locate("runs/mine") == "runs/mine"
    with pytest.raises(
        UsageError, match=r"no checkpoint in glied/weights/demo/nothing: .*, glied/weights/demo/glied, "
    ):
        shipped.locate("glied/weights/demo/nothing")
