"""Datasets on the Hugging Face Hub as inputs, read by its own client from a local server."""

import io

import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied import fsspec_files
from glied.bulk.run.committed_rows import read_rows
from glied.errors import UsageError
from tests import fake_hub
from tests.bulk.endpoint_runs import caption_with_endpoint

COUNT = 20


def picture(number):
    """Encode an image whose color is its number, see `chat_server.caption_of`."""
    sink = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), (number * 8, 0, 0), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset with images as files and in a table as `datasets` writes it."""
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "images" / "b c").mkdir(parents=True)
    for number in range(COUNT):
        below = "b c/" if number % 2 else ""
        (folder / "images" / f"{below}{number:02}#.png").write_bytes(picture(number))
    (folder / "README.md").write_text("a card")
    rows = [{"image": {"bytes": picture(n), "path": f"{n}.png"}, "title": f"title {n}"} for n in range(COUNT)]
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture
def hub(dataset, monkeypatch):
    with fake_hub.serve(dataset) as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
        template = f"{running.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        fsspec_files.hub.cache_clear()
        yield running
    fsspec_files.hub.cache_clear()


@pytest.fixture
def caption(tmp_path):
    """Run the captioning job on an input; returns the rows by id."""

    def run(*options):
        caption_with_endpoint(f"--output.uri={tmp_path / 'out'}", *options)
        return {row["id"]: row for row in read_rows(str(tmp_path / "out"))}

    return run


@pytest.mark.parametrize("revision", ["", "@main", f"@{fake_hub.REVISION}"])
def test_images_as_files(hub, caption, revision):
    root = f"hf://datasets/someone/photos{revision}/images"
    rows = caption(f"--input.uri={root}")
    assert len(rows) == COUNT
    assert rows["b c/07#.png"]["caption"].startswith("image 7 for ")
    assert rows["b c/07#.png"]["uri"] == f"{root}/b c/07#.png"
    files = [path for _, path in hub.requests if "/resolve/" in path]
    assert len(files) == len(set(files)) == COUNT
    assert all(f"/resolve/{revision[1:] or 'main'}/" in path for path in files)
    assert sum("/tree/" in path for _, path in hub.requests) <= 4, "each folder is listed once"


def test_images_in_a_table(hub, caption):
    rows = caption("--input.uri=hf://datasets/someone/photos/data", "--input.form=parquet")
    assert len(rows) == COUNT
    captions = {row["title"]: row["caption"] for row in rows.values()}
    assert all(captions[f"title {n}"].startswith(f"image {n} for ") for n in range(COUNT))


def test_a_dataset_that_needs_a_token(hub, caption, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(UsageError, match=r"cannot list hf://datasets/someone/photos/images: .*401"):
        caption("--input.uri=hf://datasets/someone/photos/images")
    fsspec_files.hub.cache_clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert len(caption("--input.uri=hf://datasets/someone/photos/images")) == COUNT


def test_a_dataset_that_is_not_there(hub, caption):
    with pytest.raises(UsageError, match=r"input.uri hf://datasets/someone/other"):
        caption("--input.uri=hf://datasets/someone/other")


def test_a_table_names_files_of_its_dataset(hub, dataset, caption):
    lines = ["file,title", "../images/00#.png,up", "hf://datasets/someone/other/x.png,foreign"]
    lines += ["hf://datasets/someone/photos/images/02#.png,two"]
    (dataset / "links.csv").write_text("\n".join(lines))
    rows = caption(
        "--input.uri=hf://datasets/someone/photos/links.csv", "--input.form=table", "--input.uri_column=file"
    )
    kinds = {row["title"]: row["error_kind"] for row in rows.values()}
    assert kinds == {"up": "forbidden", "foreign": "forbidden", "two": None}
    captions = {row["title"]: row["caption"] for row in rows.values()}
    assert captions["two"].startswith("image 2 for ")
