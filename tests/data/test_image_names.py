"""Matching ids of stores, names in captions files, and file names."""

import json
from pathlib import Path

import numpy as np
import pytest

from glied.data import features
from glied.data.captioned_regions import CaptionedRegions, RewardedRegions
from glied.data.image_names import ImageNames, parts
from glied.data.tsv_export import export_tsv
from glied.errors import UsageError
from glied.reports.evaluate import EvaluateConfig, evaluate
from glied.rewards.clip_reward import ImageVectors
from glied.vision.extractors.clip_images import image_fingerprint
from tests.training.tasks.rewarded import one_region


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/1.jpg", ("1.jpg", "a")),
        ("s3://bucket/a/1.jpg", ("1.jpg", "a", "bucket", "s3:")),
        ("..\\a\\.\\1.jpg", ("1.jpg", "a")),
        ("/", ()),
        ("a\\ud83d1.jpg", ("a\\ud83d1.jpg",)),
    ],
)
def test_parts(name: str, expected: tuple[str, ...]) -> None:
    assert parts(name) == expected


@pytest.mark.parametrize(
    ("known", "name", "expected"),
    [
        (["1.jpg"], "1.jpg", "1.jpg"),
        (["1.jpg"], "photos/a/1.jpg", "1.jpg"),
        (["a/1.jpg"], "1.jpg", "a/1.jpg"),
        (["a/1.jpg", "b/1.jpg"], "x/b/1.jpg", "b/1.jpg"),
        (["1.jpg", "a/1.jpg"], "x/a/1.jpg", "a/1.jpg"),
        (["1.jpg", "a/1.jpg"], "1.jpg", "1.jpg"),
        (["a/1.jpg"], "b/1.jpg", None),
        (["1.jpg"], "1.png", None),
        (["/"], "/x", None),
    ],
)
def test_names_match_with_and_without_folders(known: list[str], name: str, expected: str | None) -> None:
    assert ImageNames(known, "the captions").find(name) == expected


def test_ambiguous_names_are_refused() -> None:
    names = ImageNames(["a/1.jpg", "b/1.jpg", "c/2.jpg"], "captions.json")
    with pytest.raises(
        UsageError, match=r"^1\.jpg matches both a/1\.jpg and b/1\.jpg of captions\.json: use the"
    ):
        names.find("1.jpg")
    assert names.join(["x/a/1.jpg", "x/b/1.jpg", "3.jpg"], "store") == {
        "x/a/1.jpg": "a/1.jpg",
        "x/b/1.jpg": "b/1.jpg",
    }
    with pytest.raises(
        UsageError, match=r"2\.jpg and x/c/2\.jpg of store both match c/2\.jpg of captions\.json"
    ):
        names.join(["2.jpg", "x/c/2.jpg"], "store")


IDS = ["photos/a/1.jpg", "photos/b/1.jpg", "photos/2.jpg"]


def write_store(folder: Path, ids: list[str], fingerprint: dict) -> str:
    folder.mkdir(parents=True)
    regions = [one_region(np.eye(8)[number]) for number in range(len(ids))]
    (folder / "part.parquet").write_bytes(
        features.parquet_bytes(features.write(regions, ids, fingerprint=fingerprint))
    )
    return str(folder)


def write_captions(path: Path, names: list[str]) -> str:
    images = [{"id": 10 + n, "file_name": name} for n, name in enumerate(names)]
    texts = [{"image_id": 10 + n, "caption": f"a thing {n}"} for n in range(len(names))]
    path.write_text(json.dumps({"images": images, "annotations": texts}))
    return str(path)


def rows(store: str) -> list[dict]:
    import pyarrow.parquet as pq

    return [row for path in features.paths(store) for row in pq.read_table(path).to_pylist()]


def test_images_of_the_same_name_have_their_own_captions(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", IDS, {})
    captions = write_captions(tmp_path / "captions.json", ["b/1.jpg", "a/1.jpg", "2.jpg"])
    data = CaptionedRegions(features=store, captions=captions)
    data.check()
    assert [(row["id"], texts) for row, texts in data.pair(rows(store))] == [
        ("photos/a/1.jpg", ["a thing 1"]),
        ("photos/b/1.jpg", ["a thing 0"]),
        ("photos/2.jpg", ["a thing 2"]),
    ]
    assert export_tsv(store, str(tmp_path / "out.tsv"), captions=captions) == 3
    ids = [line.split("\t")[0] for line in (tmp_path / "out.tsv").read_text().splitlines()]
    assert ids == ["11", "10", "12"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.jpg", "2.jpg"], r"photos/a/1\.jpg and photos/b/1\.jpg of .*store both match 1\.jpg of"),
        (["a/1.jpg", "c/1.jpg", "2.jpg"], r"no captions for 1 images of .*store, e\.g\. photos/b/1\.jpg"),
    ],
)
def test_captions_that_do_not_distinguish_images_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    store = write_store(tmp_path / "store", IDS, {})
    captions = write_captions(tmp_path / "captions.json", names)
    with pytest.raises(UsageError, match=message):
        CaptionedRegions(features=store, captions=captions).check()
    with pytest.raises(UsageError):
        export_tsv(store, str(tmp_path / "out.tsv"), captions=captions)


class Scorer:
    """The part of a CLIP that its fingerprint uses."""

    size = 8

    def __init__(self) -> None:
        from torch import nn

        self.fingerprint = {"model_config": {"vision_cfg": {}}, "preprocess": {}}
        self.model = nn.Module()
        self.model.visual = nn.Linear(2, 2)


def test_images_of_the_same_name_have_their_own_clip_vectors(tmp_path: Path) -> None:
    scorer = Scorer()
    store = write_store(tmp_path / "clip", [IDS[1], IDS[0], IDS[2]], image_fingerprint(scorer))  # type: ignore[arg-type]
    vectors = ImageVectors(store, scorer)  # type: ignore[arg-type]
    names = ["a/1.jpg", "b/1.jpg", "2.jpg"]
    vectors.check(names)
    assert vectors(names).argmax(dim=1).tolist() == [1, 0, 2]
    with pytest.raises(UsageError, match=r"1\.jpg matches both photos/b/1\.jpg and photos/a/1\.jpg"):
        vectors.check(["1.jpg"])
    with pytest.raises(UsageError, match=r"lacks 1 images, c/1\.jpg for one"):
        vectors.check(["c/1.jpg"])
    without = RewardedRegions(features=store, clip_features=store)
    assert [without.name(image_id) for image_id in IDS] == IDS


def test_runs_are_scored_against_the_references_of_their_own_images(tmp_path: Path) -> None:
    references = write_captions(tmp_path / "captions.json", ["a/1.jpg", "b/1.jpg", "2.jpg"])
    lines = [{"id": image_id, "caption": f"a thing {n}"} for n, image_id in enumerate(IDS)]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = EvaluateConfig(captions=str(tmp_path / "run.jsonl"), references=references, metrics=["BLEU"])
    found = evaluate(config).systems[0]
    assert found.captions == {"a/1.jpg": "a thing 0", "b/1.jpg": "a thing 1", "2.jpg": "a thing 2"}
    assert found.scores is not None
    assert found.scores.values["BLEU-1"] == pytest.approx(100)
    write_captions(tmp_path / "captions.json", ["1.jpg", "2.jpg"])
    with pytest.raises(UsageError, match=r"1 images are named twice: photos/a/1\.jpg, photos/b/1\.jpg"):
        evaluate(config)
