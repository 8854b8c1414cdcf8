"""Sampling an archive and reading its captions, for all forms of inputs and captions."""

import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glied.config import build
from glied.errors import UsageError
from glied.teach.config import TeachConfig
from glied.teach.images import TaughtImage, read_images, table_of, write_images
from glied.teach.sampling import take_sample

COUNT = 6
START = {"captioner": "one", "attributes": "other"}


def jpeg(number: int, quality: int = 90) -> bytes:
    """Return a smooth image that differs for each number."""
    y, x = np.mgrid[0:48, 0:64] / 10
    waves = [np.sin((number + 1) * x / 3 + k) * np.cos((number % 3 + 1) * y / 2 + number) for k in range(3)]
    pixels = (np.stack(waves, axis=-1) * 127 + 128).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images a/0.jpg to a/5.jpg."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(COUNT):
        (tmp_path / "in" / "a" / f"{number}.jpg").write_bytes(jpeg(number))
    return tmp_path / "in"


def config(source: dict[str, Any] | Path, out: Path, **given: Any) -> TeachConfig:
    source = {"uri": str(source)} if isinstance(source, Path) else source
    regions = {"kind": "torchvision", "checkpoint": "glied/weights/demo/regions"}
    values = {"input": source, "output": {"uri": str(out)}, "regions": regions}
    return build(TeachConfig, values | given)


def taken(settings: TeachConfig) -> dict[str, list[str]]:
    images, _ = take_sample(settings, settings.output.uri)
    return {one.id: one.captions for one in images}


def captions_of(folder: Path, form: str) -> str:
    """Return captions of images 0 to 3, two of them of image 0, and of an image that is not in the input."""
    pairs = [
        ("0.jpg", "a dog"),
        ("0.jpg", "a puppy"),
        ("1.jpg", "two"),
        ("2.jpg", "three"),
        ("3.jpg", "four"),
    ]
    pairs.append(("other.jpg", "elsewhere"))
    path = folder.parent / f"captions.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *pairs])
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"image": name, "caption": text}) + "\n" for name, text in pairs))
    else:
        names = list(dict.fromkeys(name for name, _ in pairs))
        images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
        notes = [{"image_id": names.index(name), "caption": text} for name, text in pairs]
        path.write_text(json.dumps({"images": images, "annotations": notes}))
    return str(path)


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_images_with_captions_in_a_file_are_sampled(folder, tmp_path, form, caplog) -> None:
    found = taken(config(folder, tmp_path / "out", captions=captions_of(folder, form)))
    assert found == {
        "a/0.jpg": ["a dog", "a puppy"], "a/1.jpg": ["two"], "a/2.jpg": ["three"], "a/3.jpg": ["four"],
    }  # fmt: skip
    assert "1 of 5 images are not in the input, other.jpg for one" in caplog.text


def test_captions_of_other_images_are_refused(folder, tmp_path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"image": "b/9.jpg", "caption": "a cat"}\n')
    with pytest.raises(UsageError, match=r"names no image of the input: it has 'b/9.jpg', .* the input 'a/"):
        taken(config(folder, tmp_path / "out", captions=str(path)))


def test_folder_without_images_is_refused_with_what_is_there(folder, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = config(empty, tmp_path / "out", captions=captions_of(folder, "csv"))
    with pytest.raises(UsageError, match=r"empty: no images there$"):
        taken(settings)
    (empty / "a.txt").write_text("a dog")
    for given in ({"captions": settings.captions}, {"sample": {"caption_sidecars": True}}):
        with pytest.raises(UsageError, match=r"no images there; 1 files have other extensions .*: 1 \.txt$"):
            taken(config(empty, tmp_path / "out", **given))


def test_text_files_beside_the_images_are_captions(folder, tmp_path) -> None:
    (folder / "a" / "1.txt").write_text("a boat\n\n a ship \n")
    assert taken(config(folder, tmp_path / "out", sample={"caption_sidecars": True})) == {
        "a/1.jpg": ["a boat", "a ship"]
    }


def test_missing_file_beside_other_captions_may_be_left_out(folder, tmp_path) -> None:
    with pytest.raises(
        UsageError, match=r'no caption file at none\.csv: .*\. --captions "" takes only the cap'
    ):
        taken(config(folder, tmp_path / "out", captions="none.csv", sample={"caption_sidecars": True}))


def test_missing_text_files_are_named(folder, tmp_path) -> None:
    message = (
        r"none of the 6 images .*: NAME\.txt beside NAME\.jpg was looked for, such as .*/a/0\.txt\. --cap"
    )
    for sample in ({"caption_sidecars": True}, {"caption_sidecars": True, "images": 2}):
        with pytest.raises(UsageError, match=message):
            taken(config(folder, tmp_path / "out", sample=sample))


def test_images_without_captions_are_counted(folder, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    message = "images without a caption are left out: 2 of 6"
    for count in (None, 1):
        caplog.clear()
        taken(config(folder, tmp_path / "out", captions=captions_of(folder, "csv"), sample={"images": count}))
        assert caplog.messages.count(message) == 1
    for number in range(4):
        (folder / "a" / f"{number}.txt").write_text("a dog")
    caplog.clear()
    taken(config(folder, tmp_path / "out", sample={"caption_sidecars": True}))
    assert caplog.messages == [message]
    caplog.clear()
    teacher = {"config": "configs/caption/demo.yaml"}
    taken(config(folder, tmp_path / "out", sample={"caption_sidecars": True}, teacher=teacher))
    assert caplog.messages == []


def test_captions_are_a_file_or_a_run_of_captions(folder, tmp_path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "run.json").write_text('{"run": "1", "results": "features", "fingerprint": {}}')
    for uri, found in (
        (folder, "this folder holds no run"),
        (tmp_path / "none", "there is neither a file nor a run"),
        (store, "the rows of this run are features"),
    ):
        message = f"captions .*: {found}. Name a file: COCO's JSON.*; or the run folder of jobs/caption_data"
        with pytest.raises(UsageError, match=message):
            taken(config(folder, tmp_path / "out", captions=str(uri)))


def test_column_of_a_table_holds_captions(folder, tmp_path) -> None:
    table = folder / "images.jsonl"
    rows = [{"uri": f"a/{n}.jpg", "text": text} for n, text in enumerate(["one", ["two", "zwei"], None])]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"uri": str(table), "form": "table"}
    found = taken(config(source, tmp_path / "out", sample={"caption_column": "text"}))
    assert sorted(found.values()) == [["one"], ["two", "zwei"]]
    with pytest.raises(UsageError, match="no column 'caption'"):
        taken(config(source, tmp_path / "out", sample={"caption_column": "caption"}))
    table.write_text('{"uri": "a/0.jpg", "text": null}\n')
    with pytest.raises(UsageError, match=r"none of the 1 images .*: the column text is empty in all rows"):
        taken(config(source, tmp_path / "out", sample={"caption_column": "text"}))


def test_images_in_tars_and_parquet_are_copied_out(tmp_path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number in range(3):
            for suffix, data in (("jpg", jpeg(number)), ("txt", f"caption {number}".encode())):
                member = tarfile.TarInfo(f"{number:03}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    source = {"uri": str(tmp_path / "shard.tar"), "form": "webdataset"}
    images, facts = take_sample(
        config(source, tmp_path / "out", sample={"caption_column": "txt"}), str(tmp_path / "out")
    )
    assert sorted(one.captions for one in images) == [[f"caption {number}"] for number in range(3)]
    assert {Path(one.uri).read_bytes() for one in images} == {jpeg(number) for number in range(3)}
    assert facts == {"listed": 3, "unreadable": 0, "images": 3, "captioned": 3}

    pq.write_table(pa.table({"image": [jpeg(7)], "said": ["parquet"]}), tmp_path / "part.parquet")
    source = {"uri": str(tmp_path / "part.parquet"), "form": "parquet"}
    images, _ = take_sample(
        config(source, tmp_path / "out", sample={"caption_column": "said"}), str(tmp_path / "out")
    )
    assert [one.captions for one in images] == [["parquet"]]
    assert Path(images[0].uri).read_bytes() == jpeg(7)


def test_sample_is_drawn_by_name_and_seed(folder, tmp_path) -> None:
    (folder / "notes.json").write_text("{}")
    teacher = {"config": "configs/caption/demo.yaml"}
    draws = [taken(config(folder, tmp_path / "out", teacher=teacher, sample={"images": n})) for n in (2, 4)]
    assert len(draws[0]) == 2
    assert set(draws[0]) < set(draws[1])
    other = {"images": 4, "seed": 5}
    assert set(taken(config(folder, tmp_path / "out", teacher=teacher, sample=other))) != set(draws[1])


def half_captioned(folder: Path, form: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the input and the settings of 200 images, 100 of which have captions."""
    folder.mkdir()
    texts = {f"{number:03}": f"caption {number}" if number % 2 else "" for number in range(200)}
    if form == "files":
        for name, text in texts.items():
            (folder / f"{name}.jpg").write_bytes(jpeg(0))
            (folder / f"{name}.txt").write_text(text)
        return {"uri": str(folder)}, {"caption_sidecars": True}
    if form == "table":
        rows = [{"uri": f"{name}.jpg", "text": text} for name, text in texts.items()]
        (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return {"uri": str(folder / "t.jsonl"), "form": form}, {"caption_column": "text"}
    table = pa.table({"image": [jpeg(0)] * 200, "name": [*texts], "text": [*texts.values()]})
    pq.write_table(table, folder / "t.parquet")
    source = {"uri": str(folder / "t.parquet"), "form": form, "id_column": "name"}
    return source, {"caption_column": "text"}


@pytest.mark.parametrize("form", ["files", "table", "parquet"])
def test_as_many_images_as_asked_for_have_captions(tmp_path, form) -> None:
    source, sample = half_captioned(tmp_path / "in", form)
    whole = taken(config(source, tmp_path / "out", sample=sample))
    assert len(whole) == 100
    assert all(whole.values())
    for count in (5, 90, 150):
        settings = config(source, tmp_path / "out", sample=sample | {"images": count})
        images, facts = take_sample(settings, settings.output.uri)
        assert facts["images"] == facts["captioned"] == len(images) == min(count, 100)
        draws = sorted(whole, key=lambda name: hashlib.sha256(f"0 {name}".encode()).hexdigest())
        assert [one.id for one in images] == draws[:count]


def test_near_duplicates_and_broken_images_are_left_out(folder, tmp_path) -> None:
    (folder / "a" / "0 again.jpg").write_bytes(jpeg(0, quality=60))
    (folder / "a" / "broken.jpg").write_bytes(b"<html>")
    settings = config(
        folder,
        tmp_path / "out",
        teacher={"config": "configs/caption/demo.yaml"},
        sample={"near_duplicates": 3},
    )
    images, facts = take_sample(settings, settings.output.uri)
    assert facts == {"listed": 8, "unreadable": 1, "near_duplicates": 1, "images": 6, "captioned": 0}
    assert len({one.id for one in images} & {"a/0.jpg", "a/0 again.jpg"}) == 1


def test_images_are_written_and_read_back(tmp_path) -> None:
    images = [TaughtImage("a,b.jpg", "/x/a,b.jpg", ["é\nline"]), TaughtImage("c.jpg", "s3://b/c.jpg")]
    write_images(str(tmp_path / "images.jsonl"), images)
    assert read_images(str(tmp_path / "images.jsonl")) == images
    assert table_of(images).decode() == 'id,uri\n"a,b.jpg","/x/a,b.jpg"\nc.jpg,s3://b/c.jpg\n'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to learn from"),
        (
            {"captions": "a.csv", "filter": {"clip": {"checkpoint": "clip"}}},
            "filter chooses among a teacher's",
        ),
        ({"caption_column": "text"}, "caption_column is for input.form table"),
        ({"captions": "a.csv", "overrides": {"captoner": {}}}, "overrides: captoner; the jobs are features"),
        ({"captions": "a.csv", "reward": "clip_s_grammar"}, "needs a CLIP with a grammar head"),
        (
            {"captions": "a.csv", "reward": "none", "start": START | {"cross_entropy": False}},
            "leave nothing to train",
        ),
    ],
)
def test_contradictory_configs_are_refused(tmp_path, given, message) -> None:
    with pytest.raises(UsageError, match=message):
        config(tmp_path, tmp_path / "out", **given)
