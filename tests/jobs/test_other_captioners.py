"""The configs of captioners that others trained, through Ray: CoCa, transformers, `transformers serve`."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from glied import Captioner
from glied.bulk.run.committed_rows import read_rows
from glied.errors import UsageError
from tests.captioner.engines import transformers_server
from tests.captioner.engines.coca_models import CONFIG, tiny_coca

COUNT = 12
KINDS = ["coca", "transformers", "endpoint"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = random.integers(0, 255, (48, 40 + 8 * (number % 3), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "broken.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Options of each kind's config that put a tiny model in place of the published one."""
    pytest.importorskip("transformers")
    pytest.importorskip("uvicorn", reason="transformers serve needs transformers[serving]")
    from tests.captioner.engines import tiny_models

    coca = tmp_path_factory.mktemp("coca")
    (coca / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    safetensors.torch.save_file(tiny_coca().state_dict(), coca / "open_clip_model.safetensors")
    model = tiny_models.only_words(tiny_models.llava(tmp_path_factory.mktemp("llava")))
    prompts = '--captioner.prompts={"short": "word1 word2", "long": "word3"}'
    with transformers_server.serve(model, coca / "server.log") as url:
        yield {
            "coca": [f"--captioner.weights={coca}", "--decoding.max_length=6"],
            "transformers": [f"--captioner.model={model}", "--captioner.generation.max_tokens=6", prompts],
            "endpoint": [
                f"--captioner.model={model}",
                f"--captioner.url={url}",
                "--captioner.generation.max_tokens=6",
                "--captioner.generation.cut_answers=keep",
                prompts,
            ],
        }


@pytest.fixture
def job(monkeypatch, capsys):
    """Run a job in this process; returns its exit code and what it printed."""

    def run(name: str, *options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *options])
        code = importlib.import_module(f"glied.commands.{name}").main()
        return code, capsys.readouterr().out

    return run


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_and_what_follows_it(kind, job, options, photos, ray_session, tmp_path):
    out, config = tmp_path / "out", [f"--config=configs/caption/{kind}.yaml", *options[kind]]
    places = [f"--input.uri={photos}", f"--output.uri={out}", "--resources.worker.count=1"]
    code, text = job("caption_dataset", *config, *places)
    assert code == 0, text
    assert f"{COUNT + 1} of {COUNT + 1} images done ({COUNT} ok, 1 rejected)" in text
    rows = {row["id"]: row for row in read_rows(str(out))}
    assert len(rows) == COUNT + 1
    assert rows["broken.jpg"]["error_kind"] == "not_an_image"
    good = {name: row for name, row in rows.items() if row["status"] == "ok"}
    assert len({row["caption"] for row in good.values()}) > 1
    prompts = {"coca": [None] * 3, "transformers": ["short", "long"], "endpoint": ["short", "long"]}[kind]
    assert all([one["prompt"] or None for one in row["captions"]] == prompts for row in good.values())

    again = job("caption_dataset", *config, *places)
    assert again[0] == 0
    assert "0 images this time" in again[1]
    image = str(photos / "03.png")
    assert job("caption_image", image, *config) == (0, f"{image}: {rows['03.png']['caption']}\n")
    after(job, out, tmp_path, rows)


def after(job, out, tmp_path, rows):
    """Export, evaluate and show a run."""
    table = tmp_path / "table"
    assert job("export", "--run", str(out), "--form", "parquet", "--out", str(table))[0] == 0
    assert pq.read_table(next(table.glob("*.parquet"))).num_rows == COUNT + 1
    captions = {name: row["caption"] for name, row in rows.items()}
    images = [{"id": number, "file_name": name} for number, name in enumerate(captions)]
    annotations = [
        {"id": number, "image_id": number, "caption": caption or "none"}
        for number, caption in enumerate(captions.values())
    ]
    references = tmp_path / "references.json"
    references.write_text(json.dumps({"images": images, "annotations": annotations}))
    figures = tmp_path / "figures.json"
    measured = ["--metrics", '["BLEU", "CIDEr"]', "--partial", "true", "--out", str(figures)]
    assert job("evaluate", "--captions", str(out), "--references", str(references), *measured)[0] == 0
    found = json.loads(figures.read_text())
    assert found["images"] == COUNT + 1  # the broken one counts as an empty caption
    assert 90 < found["metrics"]["BLEU-1"] < 100
    page = tmp_path / "gallery.html"
    code, text = job("gallery", "--run", str(out), "--out", str(page))
    assert code == 0
    assert f"{COUNT + 1} images, 0 of them explained" in text
    shown = page.read_text()
    assert all(str(htmlsafe_json_dumps(caption)) in shown for caption in captions.values() if caption)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", KINDS)
def test_the_python_api_gives_the_captions_of_the_job(kind, job, options, photos):
    files = [str(photos / f"{number:02}.png") for number in range(3)]
    given = dict(option[2:].split("=", 1) for option in options[kind])
    captioner = Captioner.load(f"caption/{kind}.yaml", options=given)
    code, text = job("caption_image", *files, f"--config=configs/caption/{kind}.yaml", *options[kind])
    assert code == 0
    assert [f"{file}: {one.text}" for file, one in zip(files, captioner.caption(files), strict=True)] == (
        text.splitlines()
    )
    one = captioner.caption(files[0])
    assert (one.familiarity, one.attributes) == (None, ())
    assert len(one.alternatives) == (3 if kind == "coca" else 2)
    if kind == "coca":
        fewer = Captioner.load("caption/coca.yaml", options=given, beam_size=1)
        assert len(fewer.caption(files[0]).alternatives) == 1


def test_options_of_the_python_api_that_an_endpoint_lacks():
    with pytest.raises(UsageError, match=r"beam_size 3: the server of an endpoint decides on that"):
        Captioner.load("caption/endpoint.yaml", beam_size=3)
    with pytest.raises(UsageError, match=r"device cuda: the model of an endpoint is where its server is"):
        Captioner.load("caption/endpoint.yaml", device="cuda")


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("coca", [], "hf download laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k --local-dir DIR"),
        ("transformers", [], "hf download Salesforce/blip-image-captioning-base --local-dir DIR"),
        ("endpoint", ["--captioner.url=http://127.0.0.1:9/v1"], "captioner.url: no answer from http://127"),
    ],
)
def test_without_weights_or_a_server_one_line_says_what_to_do(
    run_job, photos, tmp_path, kind, options, message
):
    where = [f"--input.uri={photos}", f"--output.uri={tmp_path / 'out'}"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    done = run_job("caption_dataset", f"--config=configs/caption/{kind}.yaml", *where, *options, **offline)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not (tmp_path / "out").exists()
