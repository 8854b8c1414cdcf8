"""Preparation of COCO from a web server, and of the user's own data."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from glied.commands import prepare_coco
from glied.config import parse
from glied.data import coco, prepare
from glied.data.prepare import PrepareConfig
from glied.errors import JobError, UsageError
from glied.text.references import load_frequencies
from glied.text.vocabulary import SPECIAL, Vocabulary, load_words
from tests.data import photographs
from tests.file_server import FileServer, serve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path):
    photographs.publish(tmp_path / "web")
    with serve(tmp_path / "web") as running:
        yield running


def configure(server: FileServer, folder: Path, *options: str) -> PrepareConfig:
    """Return configs/prepare/coco_tiny.yaml with the files of this server."""
    archives = [{"url": f"{server.url}/{name}2014.zip"} for name in ("train", "val")]
    addresses = [f"--splits.url={server.url}/caption_datasets.zip", f"--archives={json.dumps(archives)}"]
    addresses.append(f"--sizes.url={server.url}/annotations_trainval2014.zip")
    config = f"--config={ROOT / 'configs' / 'prepare' / 'coco_tiny.yaml'}"
    return parse(PrepareConfig, [config, f"--out={folder / 'coco'}", *addresses, *options])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_everything_for_training_is_made_from_the_published_files(server, tmp_path, monkeypatch) -> None:
    config, out = configure(server, tmp_path), tmp_path / "coco"
    manifest = prepare.prepare(config)
    assert manifest["images"] == {"train": 12, "val": 3, "test": 3}
    assert manifest["captions"] == {"train": 36, "val": 9, "test": 9}
    train = coco.load_images(str(out / "train" / "captions.json"))
    texts = ["A dog on a beach.", "The dog is at the beach!", "a dog, beach"]
    assert train[0] == coco.CaptionedImage(100, "COCO_train2014_000000000100.jpg", texts, 64, 48)
    assert train[-1].file_name == "COCO_val2014_000000000111.jpg"  # restval is part of train
    for split, images in (("train", 12), ("val", 3), ("test", 3)):
        names = [image.file_name for image in coco.load_images(str(out / split / "captions.json"))]
        assert sorted(os.listdir(out / split / "images")) == sorted(names)
        assert len(names) == images
        for name in names:
            number = int(name[-16:-4])
            assert (out / split / "images" / name).read_bytes() == photographs.jpeg(number)
    assert not (tmp_path / "evil.jpg").exists()
    assert not list(tmp_path.rglob("evil*"))

    vocabulary = Vocabulary(load_words(str(out / "vocabulary.json")))
    assert "kitchen" in vocabulary  # 4 images of all splits with 3 captions each: more than 5 times
    assert len(vocabulary) == len(SPECIAL) + manifest["words"]
    references = coco.load_captions(str(out / "train" / "captions.json"))
    assert load_frequencies(str(out / "cider"), references, vocabulary).documents == 12
    assert load_words(str(out / "attributes.json"))[:2] == ["a", "at"]
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == entry["sha256"]
    assert {"vocabulary.json", "cider/model.safetensors", "val/captions.json"} <= set(manifest["files"])
    assert {one["digest"] for one in manifest["downloads"].values()} == {"recorded at the first download"}


def test_a_second_run_does_nothing(server, tmp_path) -> None:
    config = configure(server, tmp_path)
    first = prepare.prepare(config)
    before = snapshot(tmp_path / "coco")
    server.requests.clear()
    assert prepare.prepare(config) == first
    assert server.requests == []
    assert snapshot(tmp_path / "coco") == before


def test_unpacked_files_may_be_deleted_and_outputs_may_not(server, tmp_path) -> None:
    config, out = configure(server, tmp_path), tmp_path / "coco"
    first = prepare.prepare(config)
    for name in ("train2014.zip", "val2014.zip"):
        (out / "downloads" / name).unlink()
    server.requests.clear()
    assert prepare.prepare(config) == first
    assert server.requests == []
    lost = next((out / "val" / "images").iterdir())
    lost.unlink()
    assert prepare.prepare(config) == first
    assert lost.exists()
    assert {path for path, _ in server.requests} == {"/train2014.zip", "/val2014.zip"}


def test_an_interrupted_run_resumes_in_the_middle_of_a_file(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prepare.Downloads, "__init__", _without_pauses)
    size = (tmp_path / "web" / "val2014.zip").stat().st_size
    prepare.prepare(configure(server, tmp_path / "other"))
    server.requests.clear()
    server.breaks = [1 << 30] * 3 + [size // 2] + [0] * 6  # three complete files and half of the fourth
    with pytest.raises(JobError, match="the same command resumes"):
        prepare.prepare(configure(server, tmp_path))
    assert not (tmp_path / "coco" / "manifest.json").exists()
    broken = server.requests[3][0]
    server.requests.clear()
    assert prepare.prepare(configure(server, tmp_path))["images"]["train"] == 12
    assert server.requests == [(broken, f"bytes={size // 2}-")]
    wanted, found = (snapshot(tmp_path / name / "train") for name in ("other/coco", "coco"))
    assert {name: data for name, (_, data) in found.items()} == {
        name: data for name, (_, data) in wanted.items()
    }


def _without_pauses(
    self: Any, folder: Path, *, verify: bool = False, start=prepare.Downloads.__init__
) -> None:
    start(self, folder, verify=verify, pause_s=0.0)


def test_a_wrong_digest_is_refused_in_one_line(server, tmp_path, monkeypatch, capsys) -> None:
    zeros = f"sha256:{'0' * 64}"
    options = [f"--config={ROOT / 'configs' / 'prepare' / 'coco_tiny.yaml'}", f"--out={tmp_path / 'coco'}"]
    options += [f"--splits.url={server.url}/caption_datasets.zip", f"--splits.digest={zeros}"]
    monkeypatch.setattr("sys.argv", ["prepare_coco.py", *options, "--archives=[]", "--sizes=null"])
    with pytest.raises(JobError, match=r"but its digest in the config is 0+; what came was deleted"):
        prepare_coco.main()
    assert not (tmp_path / "coco" / "downloads" / "caption_datasets.zip").exists()


def test_missing_photographs_and_wrong_numbers_fail(server, tmp_path) -> None:
    one = json.dumps([{"url": f"{server.url}/train2014.zip"}])
    with pytest.raises(JobError, match=r"10 photographs are not in any archive, first COCO_val2014_0"):
        prepare.prepare(configure(server, tmp_path, f"--archives={one}"))
    with pytest.raises(JobError, match=r"\[12, 3, 3\] images in train, val, test, expected \[113287, 50"):
        prepare.prepare(configure(server, tmp_path, "--expected=[113287,5000,5000]"))


def test_lost_or_changed_files_are_made_again(server, tmp_path) -> None:
    config, out = configure(server, tmp_path), tmp_path / "coco"
    prepare.prepare(config)
    wanted = (out / "vocabulary.json").read_bytes()
    (out / "vocabulary.json").unlink()
    prepare.prepare(config)
    assert (out / "vocabulary.json").read_bytes() == wanted
    (out / "vocabulary.json").write_bytes(wanted[::-1])
    prepare.prepare(configure(server, tmp_path, "--verify=true"))
    assert (out / "vocabulary.json").read_bytes() == wanted
    changed = prepare.prepare(configure(server, tmp_path, "--minimum_count=50"))
    assert changed["words"] == 1


def test_a_broken_archive_is_named(server, tmp_path) -> None:
    data = (tmp_path / "web" / "val2014.zip").read_bytes()
    (tmp_path / "web" / "val2014.zip").write_bytes(data.replace(photographs.jpeg(108)[20:40], bytes(20)))
    with pytest.raises(JobError, match=r"val2014\.zip is broken: Bad CRC"):
        prepare.prepare(configure(server, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "is not a Karpathy split: KeyError 'images'"),
        (lambda content: content["images"][0].pop("sentences"), "KeyError 'sentences'"),
        (lambda content: content["images"][0].update(filename="../evil.jpg"), "is not a plain file name"),
    ],
)
def test_a_split_in_another_format_is_refused(tmp_path, change, message: str) -> None:
    content = photographs.karpathy()
    change(content)
    (tmp_path / "dataset_coco.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        prepare.prepare(
            parse(
                PrepareConfig,
                [f"--out={tmp_path}", "--dataset=coco", f"--splits.url={tmp_path / 'dataset_coco.json'}"],
            )
        )


def test_published_word_counts_include_all_splits_and_one_unknown_word() -> None:
    content = photographs.karpathy()
    # Five kinds and four places, three times per image, and "a", "on", "the", "is", "at".
    assert coco.read_karpathy(content, "x").published_words == 14
    content["images"][-1]["sentences"][0]["tokens"].append("rare")
    assert coco.read_karpathy(content, "x").published_words == 15
    assert len(coco.read_karpathy(content, "x", restval=False).images["train"]) == 8


def own(folder: Path, count: int = 20, **names: str) -> str:
    entries = [{"id": 7 * i, "file_name": f"album{i % 2}/photo{i}.jpg"} for i in range(count)]
    texts = [{"image_id": 7 * i, "caption": f"a red house number {i % 3}"} for i in range(count)]
    for entry in entries:
        photograph = folder / entry["file_name"]
        photograph.parent.mkdir(parents=True, exist_ok=True)
        photograph.write_bytes(b"a photograph")
    (folder / "captions.json").write_text(json.dumps({"images": entries, "annotations": texts}))
    return str(folder / "captions.json")


def prepare_own(folder: Path, *options: str) -> dict[str, Any]:
    captions = own(folder / "own")
    config = f"--config={ROOT / 'configs' / 'prepare' / 'own_tiny.yaml'}"
    defaults = [config, f"--out={folder / 'out'}", f"--captions=['{captions}']", f"--images={folder / 'own'}"]
    return prepare.prepare(parse(PrepareConfig, [*defaults, *options]))


def test_own_captions_are_split_by_names_and_seed(tmp_path) -> None:
    manifest = prepare_own(tmp_path, "--split.val=3", "--split.test=4")
    assert manifest["images"] == {"train": 13, "val": 3, "test": 4}
    names = {
        split: [one.file_name for one in coco.load_images(str(tmp_path / "out" / split / "captions.json"))]
        for split in coco.SPLITS
    }
    ranked = sorted(
        (name for some in names.values() for name in some),
        key=lambda name: hashlib.sha256(f"0 {name}".encode()).hexdigest(),
    )
    assert set(names["test"]) == set(ranked[:4])
    assert set(names["val"]) == set(ranked[4:7])
    lines = (tmp_path / "out" / "test" / "images.csv").read_text().splitlines()
    number = int(names["test"][0].removeprefix("photo").removesuffix(".jpg"))
    assert lines[:2] == ["id,uri", f"photo{number}.jpg,{tmp_path}/own/album{number % 2}/photo{number}.jpg"]


def test_own_splits_can_be_given_as_lists(tmp_path) -> None:
    (tmp_path / "val.txt").write_text("photo3.jpg\n14\n\n")  # a name and an id
    manifest = prepare_own(tmp_path, f"--split.val_list={tmp_path / 'val.txt'}", "--split.test=2")
    assert manifest["images"] == {"train": 16, "val": 2, "test": 2}
    val = coco.load_captions(str(tmp_path / "out" / "val" / "captions.json"))
    assert sorted(val) == ["photo2.jpg", "photo3.jpg"]

    (tmp_path / "val.txt").write_text("photo99.jpg\n")
    with pytest.raises(
        UsageError, match=r"split\.val_list: 1 of its 1 images have no captions, first photo99"
    ):
        prepare_own(tmp_path, f"--split.val_list={tmp_path / 'val.txt'}")
    (tmp_path / "val.txt").write_text("photo3.jpg\n")
    lists = [f"--split.{split}_list={tmp_path / 'val.txt'}" for split in ("val", "test")]
    with pytest.raises(UsageError, match=r"split\.val_list and split\.test_list: an image is named in two"):
        prepare_own(tmp_path, *lists)
    with pytest.raises(
        UsageError, match=r"leave none for training: lower split\.val \(12\), split\.test \(8\)"
    ):
        prepare_own(tmp_path, "--split.val=12", "--split.test=8")


def test_two_processes_do_not_prepare_the_same_folder(tmp_path) -> None:
    with prepare._locked(tmp_path), pytest.raises(UsageError, match="another process is preparing"):
        prepare_own(tmp_path, f"--out={tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset=own"], "dataset own takes captions"),
        (["--dataset=coco", "--captions=['x.json']"], "dataset own takes captions"),
        (["--dataset=coco", "--splits.url=a.zip", "--expected=[1]"], "not a list of three numbers"),
        (["--dataset=coco", "--splits.url=a.zip", "--out=s3://bucket"], "is not a local path"),
        (["--dataset=coco", "--splits.url=http://a/b.zip", "--sizes.url=http://c/b.zip"], "same file name"),
        (["--dataset=coco", "--splits.url=b.zip", "--archives=[{url: a.zip}]", "--images=x"], "not both"),
    ],
)
def test_contradictory_settings_are_refused(tmp_path, options: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(PrepareConfig, [f"--out={tmp_path}", *options])


def test_a_copy_of_the_folder_stays_complete(server, tmp_path) -> None:
    """A folder that is copied to another machine needs no downloads there."""
    prepare.prepare(configure(server, tmp_path))
    shutil.copytree(tmp_path / "coco", tmp_path / "copy" / "coco")
    server.requests.clear()
    assert prepare.prepare(configure(server, tmp_path / "copy"))["images"]["val"] == 3
    assert server.requests == []
