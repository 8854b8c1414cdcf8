"""Bulk captioning with captioners of whole images: the run folder, its rows, and what they cost."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from PIL import Image

from glied.bulk import row_schemas
from glied.bulk.captioning import (
    CaptionDatasetConfig,
    caption_factory,
    caption_fetch,
    caption_job,
    parse_captioning,
)
from glied.bulk.chunks import run_here
from glied.bulk.run import bulk_run
from glied.bulk.run.committed_rows import read_rows
from glied.errors import UsageError
from tests.captioner.engines.chat_server import caption_of, prompt_of, serve
from tests.captioner.engines.coca_models import CONFIG, tiny_coca

SECRET = "sk-verysecret123"
COUNT = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images whose number stands in their color, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        pixels = np.full((40, 50, 3), (number * 8, 0, 0), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "broken.jpg").write_text("no image")
    return folder


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve() as running:
        yield running


@pytest.fixture
def configure(server, photos, tmp_path):
    """Configs of the endpoint."""

    def make(*options):
        where = [f"--input.uri={photos}", f"--output.uri={tmp_path / 'out'}", "--output.unit_size=5"]
        captioner = [
            f"--captioner.url={server.url}",
            "--captioner.model=tiny",
            "--captioner.requests.backoff_s=0.01",
        ]
        return parse_captioning(["--config=configs/caption/endpoint.yaml", *where, *captioner, *options])

    return make


def run(config):
    """The summary of a run in this process."""
    stage = caption_factory(config).build()
    stream = run_here(caption_fetch(config), stage)
    return bulk_run.execute(caption_job(config), stream)


def rows_of(folder):
    return {row["id"]: row for row in read_rows(str(folder))}


def files_of(folder):
    return b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())


def test_every_image_has_a_row_and_the_summary_says_what_was_used(configure, server, tmp_path):
    server.behave = lambda number, body: "refusal" if caption_of(body).startswith("image 3 ") else "ok"
    summary = run(configure("--captioner.cost.prompt_price=1", "--captioner.cost.completion_price=10"))
    rows = rows_of(tmp_path / "out")
    assert len(rows) == COUNT + 1
    assert summary.statuses == {"ok": COUNT - 1, "rejected": 2}
    assert summary.errors == {"not_an_image": 1, "refused": 1}
    assert rows["07.png"]["caption"] == "image 7 for 'Describe this image in one sentence.'"
    (only,) = rows["07.png"]["captions"]
    known = {"text": rows["07.png"]["caption"], "prompt": "caption", "truncated": False}
    assert only == dict.fromkeys(row_schemas.CAPTION_LIST.value_type.names) | known
    assert (rows["07.png"]["width"], rows["07.png"]["height"], rows["07.png"]["model"]) == (50, 40, "tiny")
    assert rows["07.png"]["regions"] is None
    assert rows["03.png"]["error"] == "I can't help with that."
    assert summary.usage == {  # of the broken image nothing is sent
        "requests": COUNT, "retries": 0, "prompt_tokens": 100 * COUNT, "completion_tokens": 10 * COUNT,
        "cost": pytest.approx(COUNT * (100 * 1 + 10 * 10) / 1e6),
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["usage"] == summary.usage
    assert any(line.startswith(f"used: {COUNT} requests, 0 retries") for line in summary.lines())


def test_nothing_that_is_written_holds_the_key_or_image_data(configure, server, tmp_path):
    server.behave = lambda number, body: ("ok", "echo", "500")[number % 3]
    run(configure("--captioner.requests.attempts=1"))
    written = files_of(tmp_path / "out")
    assert server.keys[0] == f"Bearer {SECRET}"
    assert b"endpoint" in written
    assert SECRET.encode() not in written
    assert b"base64" not in written


def test_the_same_command_goes_on_where_a_run_ended(configure, server, tmp_path):
    limited = ("--captioner.cost.prompt_price=1", "--captioner.cost.completion_price=0")
    first = run(configure(*limited, "--captioner.cost.budget=0.0010"))
    assert bulk_run.exit_code(first) == 1
    assert first.usage["cost"] == pytest.approx(0.0010)  # two units of five images at 0.0001 each
    assert first.units_done == 2
    (problem,) = first.problems
    assert problem.startswith("budget: 0.0010 of captioner.cost.budget 0.001 are spent")
    asked = len(server.bodies)
    again = run(configure(*limited, "--captioner.cost.budget=0.0010"))
    assert len(server.bodies) == asked + 1  # the check before the run
    assert again.units_done == 2
    last = run(configure(*limited, "--captioner.cost.budget=1"))
    assert bulk_run.exit_code(last) == 0
    assert last.usage["requests"] == COUNT
    assert len(rows_of(tmp_path / "out")) == COUNT + 1


def test_failures_of_the_server_count_for_the_error_budget(configure, server):
    server.behave = lambda number, body: "500" if caption_of(body).startswith("image 3 ") else "ok"
    options = ("--captioner.requests.attempts=1",)
    summary = run(configure(*options))
    assert summary.errors == {"http_500": 1, "not_an_image": 1}
    assert (summary.failed_hosts, bulk_run.exit_code(summary)) == (0, 1)
    advice = "--output.mode retry_failed tries them again"
    assert f"1 images failed, more than error_budget 0.01; {advice}" in summary.lines()
    within = run(configure(*options, "--error_budget=0.05"))
    assert bulk_run.exit_code(within) == 0
    assert f"1 images failed, within error_budget 0.05; {advice}" in within.lines()


def test_a_run_stops_when_the_server_is_down_and_goes_on_when_it_is_back(configure, server):
    server.behave = lambda number, body: "ok" if number < 7 else "401"  # the check, and the first unit
    size = "--output.unit_size=6"
    stopped = run(configure(size))
    assert bulk_run.exit_code(stopped) == 1
    assert (stopped.statuses, stopped.units_missing) == ({"ok": 6, "failed": 18}, 1)
    (line,) = [one for one in stopped.lines() if one.startswith("the captioner's server failed for all")]
    assert "3 units in a row" in line
    assert "the key comes from OPENAI_API_KEY, which is set. The same command goes on" in line
    server.behave, server.most_at_once = lambda number, body: "ok", 0
    last = run(configure(size, "--output.mode=retry_failed"))
    assert bulk_run.exit_code(last) == 0
    assert last.statuses == {"ok": COUNT, "rejected": 1}
    assert server.most_at_once > 1  # not image by image: none of them is suspected of killing a worker


def test_another_prompt_is_another_fingerprint(configure):
    run(configure("--input.limit=2"))
    with pytest.raises(UsageError, match=r"captioner\.prompts\.caption was .* and is now"):
        run(configure("--input.limit=2", '--captioner.prompts={"caption": "Name the colors."}'))
    with pytest.raises(UsageError, match=r"captioner\.quality was 90 and is now 50"):
        run(configure("--input.limit=2", "--captioner.images.quality=50"))


def test_prompts_read_the_columns_of_a_table(configure, server, photos, tmp_path):
    names = [f"{number:02}.png" for number in range(3)]
    titles = ["one", 'two "quoted"', None]
    table = pa.table({"uri": [str(photos / name) for name in names], "title": titles})
    pq.write_table(table, tmp_path / "photos.parquet")
    prompts = '--captioner.prompts={"short": "Describe {title}.", "long": "Describe it at length."}'
    source = [f"--input.uri={tmp_path / 'photos.parquet'}", "--input.form=table"]
    run(configure(*source, f'--input.allow=["{photos}"]', prompts))
    asked = {prompt_of(body) for body in server.bodies}
    described = {'Describe "one".', r'Describe "two \"quoted\"".', 'Describe "".'}
    assert asked >= described | {"Describe it at length."}
    for row in rows_of(tmp_path / "out").values():
        assert [one["prompt"] for one in row["captions"]] == ["short", "long"]
        assert row["caption"] == row["captions"][0]["text"]
        assert row["title"] in titles


def test_a_server_that_is_not_there_is_found_before_the_run(configure, tmp_path):
    config = configure("--captioner.url=http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match=r"captioner.url: no answer from http://127.0.0.1:9/v1"):
        caption_job(config)
    assert not (tmp_path / "out").exists()


def coca_options(folder):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    safetensors.torch.save_file(tiny_coca().state_dict(), folder / "open_clip_model.safetensors")
    return [f"--captioner.weights={folder}", "--decoding.max_length=6", "--decoding.n_best=2"]


def test_a_coca_captions_a_folder_whatever_the_batch(photos, tmp_path):
    (tmp_path / "model").mkdir()
    found = []
    for batch in (1, 16):
        options = [f"--input.uri={photos}", f"--output.uri={tmp_path / str(batch)}", "--input.limit=6"]
        options += [*coca_options(tmp_path / "model"), f"--resources.worker.batch_size={batch}"]
        config = parse_captioning(["--config=configs/caption/coca.yaml", *options])
        assert run(config).statuses == {"ok": 6}
        found.append({name: row["captions"] for name, row in rows_of(tmp_path / str(batch)).items()})
    texts = [{name: [one["text"] for one in row] for name, row in one.items()} for one in found]
    assert texts[0] == texts[1]
    assert all(len(row) == 2 and row[0]["log_probability"] < 0 for row in found[0].values())


def test_a_model_of_transformers_captions_a_folder(photos, tmp_path):
    pytest.importorskip("transformers")
    from tests.captioner.engines import tiny_models

    model = tiny_models.only_words(tiny_models.blip(tmp_path / "model"))
    options = [f"--input.uri={photos}", f"--output.uri={tmp_path / 'out'}", "--input.limit=6"]
    options += [f"--captioner.model={model}", "--captioner.generation.max_tokens=5"]
    config = parse_captioning(["--config=configs/caption/transformers.yaml", *options])
    summary = run(config)
    assert summary.statuses == {"ok": 6}
    assert not summary.usage
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["fingerprint"]["captioner"]["kind"] == "transformers"
    assert len(record["fingerprint"]["captioner"]["weights"]) == 64


def test_the_kind_of_captioner_decides_the_config():
    where = ["--input.uri=a", "--output.uri=b"]
    demo = parse_captioning(["--config=configs/caption/demo.yaml", *where])
    assert isinstance(demo, CaptionDatasetConfig)
    with pytest.raises(UsageError, match=r"captioner.kind: 'blip' is not one of glied, coca, transformers"):
        parse_captioning([*where, "--captioner.kind=blip"])
    with pytest.raises(UsageError, match=r"regions.*Valid keys: .*captioner.url"):
        parse_captioning(["--config=configs/caption/endpoint.yaml", "--regions.kind=torchvision"])
    with pytest.raises(UsageError, match=r"only captioner.kind glied reads"):
        parse_captioning(["--config=configs/caption/endpoint.yaml", "--input.form=features"])


def test_keys_of_earlier_builds_work_with_a_warning(tmp_path, caplog):
    old = tmp_path / "old.yaml"
    old.write_text(
        "input: {uri: a}\noutput: {uri: b}\ncaptioner:\n  kind: endpoint\n  url: http://host/v1\n  model: m\n"
        "  max_tokens: 7\n  extra: {top_k: 5}\n  longest_side: 99\n  attempts: 2\n  prompt_price: 1.0\n"
    )
    captioner = parse_captioning(
        [f"--config={old}", "--captioner.system=Be brief.", "--captioner.budget=3"]
    ).captioner
    assert (captioner.generation.max_tokens, captioner.generation.extra) == (7, {"top_k": 5})
    assert (captioner.images.longest_side, captioner.requests.attempts) == (99, 2)
    assert (captioner.cost.prompt_price, captioner.cost.budget) == (1.0, 3.0)
    assert captioner.prompting.system == "Be brief."
    assert "captioner.budget is now captioner.cost.budget" in caplog.text
    old.write_text(
        "input: {uri: a}\noutput: {uri: b}\ncaptioner:\n  kind: transformers\n  model: m\n  beam_size: 3\n"
        "  n_best: 2\n  pad_batches: true\n"
    )
    captioner = parse_captioning([f"--config={old}", "--captioner.top_k=5"]).captioner
    assert (captioner.generation.beam_size, captioner.generation.n_best) == (3, 2)
    assert (captioner.sampling.top_k, captioner.compute.pad_batches) == (5, True)


def test_groups_of_settings_have_the_fingerprint_of_earlier_builds():
    """Runs of builds without groups are resumed."""
    from glied.captioner.engines.config import EndpointConfig
    from glied.captioner.engines.endpoint import endpoint_fingerprint
    from tests.flat_settings import flat

    found = endpoint_fingerprint(flat(EndpointConfig, url="http://host/v1", model="m", quality=50))
    assert found == {
        "kind": "endpoint", "url": "http://host/v1", "model": "m", "system": "", "n_best": 1,
        "max_tokens": 300, "cut_answers": "fail", "temperature": 0.0, "top_p": None, "seed": None,
        "prompts": {"caption": "Describe this image in one sentence."}, "extra": {}, "longest_side": 1024,
        "quality": 50, "detail": "",
    }  # fmt: skip


def test_text_rules_apply_to_all_prompts_and_are_part_of_the_fingerprint(configure, tmp_path):
    prompts = '--captioner.prompts={"short": "Say.", "long": "Describe."}'
    rules = ["--text.max_words=3", "--text.trigger=sks", "--input.limit=2", prompts]
    run(configure(*rules))
    row = rows_of(tmp_path / "out")["00.png"]
    texts = [(one["prompt"], one["text"], one["raw_text"]) for one in row["captions"]]
    assert texts == [
        ("short", "sks, image 0 for", "image 0 for 'Say.'"),
        ("long", "sks, image 0 for", "image 0 for 'Describe.'"),
    ]
    assert (row["caption"], row["caption_source"]) == ("sks, image 0 for", "model")
    with pytest.raises(UsageError, match=r"text\.max_words was 3 and is now 4"):
        run(configure(*rules, "--text.max_words=4"))
    with pytest.raises(UsageError, match=r"text was .* and is now null"):
        run(configure("--input.limit=2", prompts))


@pytest.fixture
def table(photos, tmp_path):
    """Options for a table of images, of which some have a caption."""
    names = [f"{number:02}.png" for number in range(4)]
    columns = {
        "uri": [str(photos / name) for name in names],
        "caption": ["old", None, "", "older"],
        "size": [1, 2, 3, 4],
    }
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    return [
        f"--input.uri={tmp_path / 'photos.parquet'}",
        "--input.form=table",
        f'--input.allow=["{photos}"]',
    ]


@pytest.mark.parametrize(
    ("mode", "captions", "asked"),
    [
        ("keep", ["old", "image 1", "image 2", "older"], 2),
        ("replace", ["image 0", "image 1", "image 2", "image 3"], 4),
        ("append", ["old; image 0", "image 1", "image 2", "older; image 3"], 4),
        ("prepend", ["image 0; old", "image 1", "image 2", "image 3; older"], 4),
    ],
)
def test_existing_captions_of_a_column(configure, server, tmp_path, table, mode, captions, asked):
    existing = [
        "--text.existing.column=caption",
        f"--text.existing.mode={mode}",
        "--text.existing.separator=; ",
    ]
    run(configure(*table, *existing, "--text.max_words=2"))
    rows = list(read_rows(str(tmp_path / "out")))
    assert [row["caption"] for row in rows] == captions
    assert len(server.bodies) == asked + 1  # the check before the run
    sources = {"keep": "input", "replace": "model", "append": "input+model", "prepend": "model+input"}
    assert [row["caption_source"] for row in rows] == [sources[mode], "model", "model", sources[mode]]
    assert [row["input_caption"] for row in rows] == ["old", None, "", "older"]


def test_columns_that_the_input_lacks_are_found_before_the_run(configure, tmp_path, table):
    for options, message in (
        (
            ["--text.existing.column=nope"],
            r"text\.existing\.column names the column nope; .* the columns input_caption",
        ),
        (['--captioner.prompts={"a": "{nope}"}'], r"captioner\.prompts\.a names the column nope"),
        (["--text.existing.column=size"], r"the column size is int64; captions are text"),
    ):
        with pytest.raises(UsageError, match=message):
            run(configure(*table, *options))
    with pytest.raises(UsageError, match=r"names the column title; input.uri .* has no columns"):
        run(configure('--captioner.prompts={"a": "{title}"}'))
    assert not (tmp_path / "out" / "run.json").exists()


def test_existing_captions_beside_the_images(configure, server, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("00.png", "01.png", "02.png"):
        (folder / name).write_bytes((photos / name).read_bytes())
    (folder / "01.txt").write_text("an old caption\n")
    (folder / "02.txt").write_text(" \n")
    run(configure(f"--input.uri={folder}", "--text.existing.sidecar=txt"))
    rows = rows_of(tmp_path / "out")
    assert rows["01.png"]["caption"] == "an old caption"
    assert rows["02.png"]["caption"].startswith("image 2 ")
    assert "sidecar" not in rows["00.png"]
    assert len(server.bodies) == 3


def test_a_null_in_a_prompt_may_fail_the_row(configure, tmp_path, table):
    prompts = '--captioner.prompts={"a": "Improve {caption}."}'
    run(configure(*table, prompts, "--captioner.prompting.null_values=fail"))
    rows = list(read_rows(str(tmp_path / "out")))
    assert [row["error_kind"] for row in rows] == [None, "missing_value", None, None]
    assert rows[0]["caption"] == "image 0 for 'Improve \"old\".'"


def test_settings_that_need_a_clip_are_refused_without_one(configure):
    for option in ("--quality.best_by=clip_score", "--quality.low_clip_score=0.5"):
        with pytest.raises(UsageError, match=r"need a clip that scores"):
            configure(option)
    with pytest.raises(UsageError, match=r"text\.existing\.sidecar belongs to input\.form files"):
        configure("--text.existing.sidecar=txt", "--input.form=webdataset")


@pytest.mark.slow
def test_a_coca_is_scored_and_its_best_caption_chosen(photos, tmp_path):
    (tmp_path / "model").mkdir()
    options = [
        f"--input.uri={photos}",
        f"--output.uri={tmp_path / 'out'}",
        "--input.limit=3",
        "--decoding.beam_size=3",
    ]
    options += [*coca_options(tmp_path / "model"), "--clip.model=RN50", "--clip.allow_random=true"]
    options += ["--quality.best_by=clip_score", "--quality.low_clip_score=10"]
    run(parse_captioning(["--config=configs/caption/coca.yaml", *options]))
    for row in rows_of(tmp_path / "out").values():
        scores = [one["clip_score"] for one in row["captions"]]
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
        assert (row["clip_score"], row["caption"]) == (scores[0], row["captions"][0]["text"])
        assert row["low_clip_score"] is True
        assert row["repeats"] in (True, False)
        assert row["truncated"] == row["captions"][0]["truncated"]
