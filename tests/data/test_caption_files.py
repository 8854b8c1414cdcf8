"""Caption files in many variants: what is read from each, or the error line."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glied.config import parse
from glied.data import coco
from glied.data.caption_files import FORMS
from glied.data.prepare import PrepareConfig, prepare
from glied.errors import UsageError
from glied.reports.evaluate import EvaluateConfig, evaluate

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = range(6)


def form(change: Any = None, **parts: Any) -> str:
    """Return six images with a caption each in COCO's format; `change` alters each image and annotation."""
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in NUMBERS]
    annotations = [{"id": n, "image_id": n, "caption": f"a dog number {n}"} for n in NUMBERS]
    if change:
        for image, annotation in zip(images, annotations, strict=True):
            change(image, annotation)
    return json.dumps({"images": images, "annotations": annotations, **parts})


def named(text: str) -> Any:
    """Give all images this name, with "#" replaced by the number."""
    return lambda image, _: image.update(file_name=text.replace("#", str(image["id"])))


def with_caption(caption: Any) -> Any:
    """Give all images this caption."""
    return lambda _, annotation: annotation.update(caption=caption)


def ids(change: Any) -> Any:
    """Change the ids of images and annotations."""

    def apply(image: dict, annotation: dict) -> None:
        image["id"], annotation["image_id"] = change(image["id"]), change(annotation["image_id"])

    return apply


def one(key: str, value: Any, *, where: str) -> str:
    """Change one image or annotation."""
    content = json.loads(form())
    content[where][2][key] = value
    return json.dumps(content)


def extra(**lists: Any) -> str:
    content = json.loads(form())
    for key, items in lists.items():
        content[key] += items
    return json.dumps(content)


READ: dict[str, tuple[str | bytes, str, int, list[str]]] = {
    # name: content, names and number of the images, captions of the second one
    "bom": (b"\xef\xbb\xbf" + form().encode(), "#.jpg", 6, ["a dog number 1"]),
    "utf16": (form().encode("utf-16"), "#.jpg", 6, ["a dog number 1"]),
    "utf32": (form().encode("utf-32"), "#.jpg", 6, ["a dog number 1"]),
    "text-ids": (form(ids(str)), "#.jpg", 6, ["a dog number 1"]),
    "float-ids": (form(lambda image, _: image.update(id=float(image["id"]))), "#.jpg", 6, ["a dog number 1"]),
    "folders": (form(named("train/#.jpg")), "train/#.jpg", 6, ["a dog number 1"]),
    "twice": (extra(images=[{"id": 0, "file_name": "0.jpg"}]), "#.jpg", 6, ["a dog number 1"]),
    "unlisted": (extra(annotations=[{"image_id": 77, "caption": "x"}]), "#.jpg", 6, ["a dog number 1"]),
    "captionless": (extra(images=[{"id": 9, "file_name": "9.jpg"}]), "#.jpg", 6, ["a dog number 1"]),
    "empty-caption": (one("caption", " ", where="annotations"), "#.jpg", 5, ["a dog number 1"]),
    "sizes": (form(lambda image, _: image.update(width="640", height=True)), "#.jpg", 6, ["a dog number 1"]),
    "lone-surrogate": (form(with_caption("a dog \ud83d runs")), "#.jpg", 6, ["a dog   runs"]),
    "emoji": (form(with_caption("a dog \U0001f600")), "#.jpg", 6, ["a dog \U0001f600"]),
    "lines": (
        form(with_caption("a dog\nruns\ton\u2028a beach")),
        "#.jpg",
        6,
        ["a dog\nruns\ton\u2028a beach"],
    ),
    "special-words": (form(with_caption("<pad> <eos> a dog")), "#.jpg", 6, ["<pad> <eos> a dog"]),
    "list": (
        json.dumps([{"image": f"{n}.jpg", "caption": f"a dog number {n}"} for n in NUMBERS]),
        *("#.jpg", 6, ["a dog number 1"]),
    ),
    "jsonl-named-json": (
        "\n".join(json.dumps({"image": f"{n}.jpg", "captions": ["a dog", "it runs"]}) for n in NUMBERS),
        *("#.jpg", 6, ["a dog", "it runs"]),
    ),
}

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "latin1": (
        form(with_caption("café")).encode().replace(b"\\u00e9", b"\xe9"),
        r"is not UTF-8 \(byte 0xe9 at \d+\)",
    ),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xd8", "is not UTF-8"),
    "trailing": (form() + "\n\0", "not JSON: Extra data"),
    "cut": (form()[:-7], "not JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "nothing": ("", "captions.json is empty; it can be COCO's JSON"),
    "blank": (" \n", "is empty"),
    "no-entries": (" []", "has no captions: it is an empty list"),
    "a-number": ("3", "does not contain captions"),
    "no-images": (json.dumps({"images": [], "annotations": []}), "none of its 0 images has a caption"),
    "images-as-object": (json.dumps({"images": {"1": {"id": 1}}, "annotations": []}), "has no list 'images'"),
    "no-annotations": (json.dumps({"images": []}), "has no list 'annotations'"),
    "text-and-number-ids": (
        form(lambda image, _: image.update(id=str(image["id"]))),
        r'6 captions of images that are not listed\): ids "1" and 1 are not the same',
    ),
    "list-ids": (form(ids(lambda number: [number])), r"id \[0\] is neither a whole number nor a text"),
    "null-id": (form(ids(lambda number: number or None)), "id None is neither"),
    "bool-id": (form(ids(bool)), "id False is neither"),
    "half-id": (form(ids(lambda number: number + 0.5)), r"id 0\.5 is neither"),
    "null-name": (form(lambda image, _: image.update(file_name=None)), "image 0 has the file_name None"),
    "number-name": (form(lambda image, _: image.update(file_name=7)), "image 0 has the file_name 7"),
    "empty-name": (form(named("")), "image 0 has the file_name ''"),
    "same-name": (form(named("same.jpg")), r"image 1 \(same\.jpg\) is a duplicate of image 0"),
    "list-caption": (
        form(with_caption(["a dog", "a cat"])),
        r"a caption of image 0 is \['a dog', 'a cat'\]: it must",
    ),
    "nan-caption": (
        form().replace('"a dog number 1"', "NaN"),
        "a caption of image 1 is nan: it must be text, one annotation per caption",
    ),
    "nan-in-list": ('[{"image": "a.jpg", "caption": NaN}]', "entry 1: every entry needs image_id"),
    "entry-without-image": ('[{"caption": "a"}]', "entry 1: every entry needs image_id"),
}


def save(folder: Path, content: str | bytes, name: str = "captions.json") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def photographs(folder: Path, name: str) -> str:
    for number in NUMBERS:
        path = folder / "photos" / name.replace("#", str(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return str(folder / "photos")


def prepare_own(folder: Path, captions: str, images: str, *options: str) -> dict[str, Any]:
    given = [f"--config={ROOT / 'configs' / 'prepare' / 'own.yaml'}", f"--captions=['{captions}']"]
    given += [f"--images={images}", f"--out={folder / 'out'}", "--split.val=1", "--split.test=1"]
    return prepare(parse(PrepareConfig, [*given, "--minimum_count=1", "--attribute_words=2", *options]))


@pytest.mark.parametrize("case", READ)
def test_valid_files_are_read_prepared_and_scored(tmp_path: Path, case: str) -> None:
    content, name, count, second = READ[case]
    uri = save(tmp_path, content)
    captions = coco.load_captions(uri)
    assert len(captions) == count
    assert captions[name.replace("#", "1")] == second

    manifest = prepare_own(tmp_path, uri, photographs(tmp_path, name))
    assert sum(manifest["images"].values()) == count
    lines = [(tmp_path / "out" / split / "images.csv").read_text().splitlines()[1:] for split in coco.SPLITS]
    for line in itertools.chain.from_iterable(lines):
        image_id, path = line.split(",")
        assert Path(path).is_file()
        assert path.endswith(image_id)
    words = json.loads((tmp_path / "out" / "vocabulary.json").read_text())["words"]
    assert "dog" in words
    assert not {"<pad>", "<eos>"} & set(words)

    save(tmp_path, "image,caption\n" + "".join(f"{one},a dog\n" for one in captions), "hypotheses.csv")
    config = EvaluateConfig(captions=str(tmp_path / "hypotheses.csv"), references=uri, metrics=["BLEU"])
    assert evaluate(config).systems[0].captions == dict.fromkeys(captions, "a dog")


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    uri = save(tmp_path, content)
    (tmp_path / "hypotheses.jsonl").write_text('{"image": "1.jpg", "caption": "a dog"}')
    config = EvaluateConfig(captions=str(tmp_path / "hypotheses.jsonl"), references=uri, metrics=["BLEU"])
    for use in (
        lambda: coco.load_captions(uri),
        lambda: prepare_own(tmp_path, uri, photographs(tmp_path, "#.jpg")),
        lambda: evaluate(config),
    ):
        with pytest.raises(UsageError, match=message) as found:
            use()
        assert "\n" not in str(found.value)
        assert uri in str(found.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "image,caption\na.jpg,a dog\na.jpg,a cat\n", {"a.jpg": ["a dog", "a cat"]}),
        ("a.CSV", "\ufeffimage,caption\r\na.jpg,a dog\r\n", {"a.jpg": ["a dog"]}),
        ("a.csv", "Caption,File_Name,more\n\"a dog, \"\"big\"\"\",a.jpg,\n", {"a.jpg": ['a dog, "big"']}),
        ("a.csv", f"image,caption\na.jpg,{'long ' * 40_000}\n", {"a.jpg": ["long " * 40_000]}),
        ("a.csv", "image,caption\na.jpg,\na.jpg,a dog\n\n", {"a.jpg": ["a dog"]}),
        ("a.tsv", "image_id\tcaption\n7\ta dog, it runs\n", {"7": ["a dog, it runs"]}),
        ("captions.txt", "image,caption\na.jpg,a dog\n", {"a.jpg": ["a dog"]}),
        ("a.csv", '\ufeffImage;Caption;more\r\na.jpg;"a dog; it runs";\r\n', {"a.jpg": ["a dog; it runs"]}),
        ("a.csv", "\nimage\tcaption\na.jpg\ta dog, it runs\n", {"a.jpg": ["a dog, it runs"]}),
        ("a.tsv", "image,caption\na.jpg,a dog\n", {"a.jpg": ["a dog"]}),
        ("a.txt", "image|caption\na.jpg|a dog\n", {"a.jpg": ["a dog"]}),
        ("a.csv", "image,caption,a;b\na;1.jpg,a dog; a cat,\n", {"a;1.jpg": ["a dog; a cat"]}),
        ("a.jsonl", '{"id": 1, "captions": ["x", null]}\n\n{"id": 3, "text": "y"}', {"1": ["x"], "3": ["y"]}),
        ("a.jsonl", f'{{"image": "a.jpg", "caption": "x", "n": {"9" * 5_000}}}', {"a.jpg": ["x"]}),
        ("a.json", f'[{{"id": {"9" * 5_000}, "caption": "x"}}]', {"9" * 5_000: ["x"]}),
        ("a.ndjson", '{"image": "a.jpg", "caption": "x"}', {"a.jpg": ["x"]}),
        ("a.json", '{"image": "a.jpg", "caption": "x"}', {"a.jpg": ["x"]}),
        ("a.jsonl", '{"image": "a\\ud83d.jpg", "caption": "x"}', {"a\\ud83d.jpg": ["x"]}),
    ],
)  # fmt: skip
def test_tables_and_lines(tmp_path: Path, name: str, content: str, expected: dict[str, list[str]]) -> None:
    assert coco.load_captions(save(tmp_path, content, name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "picture,words\na.jpg,x\n", r"the columns are 'picture, words'. It can be COCO's JSON"),
        (
            "a.csv",
            "image,caption\na.jpg,a dog, a cat\n",
            "line 2: 3 fields instead of 2; .* comma need quotes",
        ),
        ("a.csv", 'image,caption\na.jpg,"a dog\nb.jpg,a cat\n', "line 2: .* is a closing quote missing"),
        (
            "a.csv",
            'image,caption\na.jpg,"a\ndog"\n\nb.jpg,"a cat\n' + "c.jpg,x\n" * 9,
            "line 5: .* is a closing quote missing",
        ),
        ("a.csv", "image,caption\n,a dog\n", "line 2: the image name is empty"),
        ("a.csv", "", r"a\.csv is empty; it can be COCO's JSON"),
        ("a.csv", "\ufeff\n", r"a\.csv is empty"),
        ("a.jsonl", "", r"a\.jsonl is empty"),
        ("a.csv", "image,caption\r\n\r\n", "has no captions: it is a header without rows below it"),
        ("a.csv", "image;caption\na.jpg;a dog; a cat\n", "line 2: 3 fields .*; .* a semicolon need quotes"),
        ("a.csv", "image;words\na.jpg;a dog\n", "the columns are 'image;words'"),
        ("a.tsv", "image\tcaption\na.jpg\n", "line 2: 1 fields instead of 2; .* tab"),
        (
            "a.jsonl",
            '{"image": "a.jpg", "caption": "x"}\n{"image": 1.5, "caption": "x"}',
            "line 2: every entry",
        ),
        ("a.jsonl", '{"image": "a.jpg"', "line 1: not JSON"),
        ("none.csv", None, "no caption file at .* it can be COCO's JSON"),
    ],
)
def test_invalid_tables_and_lines(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    uri = str(tmp_path / name) if content is None else save(tmp_path, content, name)
    with pytest.raises(UsageError, match=message):
        coco.load_captions(uri)


def test_the_error_for_an_unknown_format_lists_the_formats(tmp_path: Path) -> None:
    save(tmp_path, form())
    for name in ("run.parquet", "table.xlsx"):
        uri = save(tmp_path, b"PK\x03\x04\xff\xfe\xff", name)
        config = EvaluateConfig(captions=uri, references=str(tmp_path / "captions.json"), metrics=["BLEU"])
        with pytest.raises(UsageError) as found:
            evaluate(config)
        assert FORMS in str(found.value)


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        ("/data/#.jpg", "#.jpg", "#.jpg"),
        ("../#.jpg", "deep/er/#.jpg", "deep/er/#.jpg"),
        ("http://x.org/#.jpg", "#.jpg", "#.jpg"),
        ("train\\#.jpg", "train/#.jpg", "train/#.jpg"),
        ("#.jpg", "two/#.jpg", "two/#.jpg"),
    ],
)
def test_photographs_are_found_for_any_path_before_their_names(
    tmp_path: Path, names: str, files: str, expected: str
) -> None:
    images = photographs(tmp_path, files)
    prepare_own(tmp_path, save(tmp_path, form(named(names))), images)
    for split in coco.SPLITS:
        for line in (tmp_path / "out" / split / "images.csv").read_text().splitlines()[1:]:
            name, path = line.split(",")
            assert path == f"{images}/{expected.replace('#', name[0])}"


def test_missing_photographs_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    uri = save(tmp_path, form())
    for folder in (tmp_path / "nowhere", f"[{tmp_path}/a, {tmp_path}/b]"):
        with pytest.raises(
            UsageError, match=r"0 of 6 photographs are below .*, 6 are missing, first \d\.jpg"
        ):
            prepare_own(tmp_path, uri, str(folder))
    with pytest.raises(UsageError, match=r"images .* is a file; name the folder"):
        prepare_own(tmp_path, uri, uri)
    images = photographs(tmp_path, "#.jpg")
    (tmp_path / "photos" / "3.jpg").unlink()
    with pytest.raises(UsageError, match=r"5 of 6 photographs are below .*, 1 are missing, first 3\.jpg"):
        prepare_own(tmp_path, uri, images)
    assert not list((tmp_path / "out").rglob("*.json"))
    manifest = prepare_own(tmp_path, uri, images, "--skip_missing=true")
    assert (sum(manifest["images"].values()), manifest["without_photograph"]) == (5, 1)


def test_images_of_the_same_name_keep_their_folders(tmp_path: Path) -> None:
    content = json.loads(
        form(lambda image, _: image.update(file_name=f"{image['id'] % 2}/{image['id'] // 2}.jpg"))
    )
    for image in content["images"]:
        path = tmp_path / "photos" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    uri = save(tmp_path, json.dumps(content))
    prepare_own(tmp_path, uri, str(tmp_path / "photos"))
    pairs = [
        line.split(",")
        for split in coco.SPLITS
        for line in (tmp_path / "out" / split / "images.csv").read_text().splitlines()[1:]
    ]
    assert sorted(name for name, _ in pairs) == sorted(image["file_name"] for image in content["images"])
    assert all(path == f"{tmp_path}/photos/{name}" for name, path in pairs)

    for image in content["images"]:
        image["file_name"] = f"x/{image['file_name']}"
    other = save(tmp_path, json.dumps(content | {"images": content["images"]}), "other.json")
    (tmp_path / "photos" / "0" / "0.jpg").rename(tmp_path / "photos" / "0.jpg")
    (tmp_path / "photos" / "1" / "0.jpg").unlink()
    with pytest.raises(UsageError, match=r"both match 0\.jpg of images"):
        prepare_own(tmp_path / "again", other, str(tmp_path / "photos"))


def test_missing_words_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri, images = save(tmp_path, form()), photographs(tmp_path, "#.jpg")
    with pytest.raises(UsageError, match="no word of the captions occurs 100 times: lower minimum_count"):
        prepare_own(tmp_path, uri, images, "--minimum_count=100")
    prepare_own(tmp_path, uri, images, "--attribute_words=1000")
    assert "attribute_words is 1000, but the captions have only 7 words" in caplog.text
    with pytest.raises(UsageError, match=r"split\.val_list .*none\.txt: no such file"):
        prepare_own(tmp_path, uri, images, f"--split.val_list={tmp_path / 'none.txt'}")
    with pytest.raises(UsageError, match=r"split\.val 0 and split\.test 1 must be at least 1"):
        prepare_own(tmp_path, uri, images, "--split.val=0")
