"""The data that the gallery shows for each image of a run."""

import base64
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glied.bulk.captioning import (
    CaptionDatasetConfig,
    caption_factory,
    caption_fetch,
    caption_job,
    fetch_stage,
)
from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run.bulk_run import execute
from glied.bulk.run.committed_rows import read_rows
from glied.captioner.explain import Explanation, Weights
from glied.commands import gallery
from glied.config import parse, run
from glied.errors import UsageError
from glied.metrics.text_metrics import cider_by_image
from glied.regions import Regions
from glied.reports import gallery_page
from glied.reports.gallery import GalleryConfig, GalleryReport, make_gallery
from glied.reports.gallery_images import THUMBNAIL_SIDE, Explainer, read_pictures, thumbnail
from glied.vision.images import Picture
from tests.bulk import runs
from tests.bulk.models import model_options
from tests.reports.gallery_runs import BROKEN, NAMES, Page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028'\""


def made(folder: Path, out: Path, **options: Any) -> tuple[GalleryReport, dict[str, dict[str, Any]], Page]:
    """Make a page; return its report, its entries by id, and the parsed page."""
    report = make_gallery(GalleryConfig(run=str(folder / "run"), out=str(out), **options))
    read = Page(out.read_text())
    return report, {one["id"]: one for one in read.data["entries"]}, read


def evil_row() -> dict[str, Any]:
    return runs.row(
        EVIL,
        caption=EVIL,
        captions=[{"text": EVIL, "log_probability": -float("inf")}],
        regions=[{"box": [1.0, 2.0, 30.0, 20.0], "label": EVIL, "score": 0.9}],
        attributes=[{"word": EVIL, "probability": 0.5}],
        width=60,
        height=40,
    )


def test_every_image_has_its_caption_scores_references_and_picture(captioned: Path, tmp_path: Path) -> None:
    references = captioned / "captions.json"
    report, entries, _ = made(captioned, tmp_path / "g.html", references=str(references))
    assert (report.images, report.total, report.pictures, report.explained) == (8, 8, 6, 6)
    assert (report.notes, report.size) == ([], (tmp_path / "g.html").stat().st_size)
    assert sorted(entries) == sorted(NAMES + BROKEN)
    rows = {row["id"]: row for row in read_rows(str(captioned / "run"))}
    texts = {name: entries[name]["references"] for name in NAMES}
    assert [len(texts["2.png"]), texts["2.png"][1]] == [2, "the cat number 2"]
    cider = cider_by_image({name: rows[name]["caption"] for name in NAMES}, texts)
    for name in NAMES:
        one, row = entries[name], rows[name]
        assert one["caption"] == row["caption"] == one["captions"][0][0]
        assert len(one["captions"]) == 3
        assert one["scores"]["cider"] == pytest.approx(cider[name], abs=1e-3)
        assert one["scores"]["log_probability"] == pytest.approx(
            row["captions"][0]["log_probability"], abs=1e-3
        )
        assert [box[:4] for box in one["regions"]] == [
            pytest.approx([x, y, right - x, bottom - y], abs=0.6)
            for x, y, right, bottom in (region["box"] for region in row["regions"])
        ]
        assert Image.open(io.BytesIO(base64.b64decode(one["picture"]))).size == (160, 120)


def test_rejected_images_have_their_reason(captioned: Path, tmp_path: Path) -> None:
    _, entries, _ = made(captioned, tmp_path / "g.html")
    found = [(entries[name]["status"], entries[name]["error_kind"]) for name in BROKEN]
    assert found == [("rejected", "empty"), ("rejected", "not_an_image")]
    assert entries["empty.png"]["error"]
    assert entries["empty.png"]["picture"] is None


def test_words_have_the_strongest_weights_of_their_explanation(captioned: Path, tmp_path: Path) -> None:
    _, entries, _ = made(captioned, tmp_path / "g.html", explain=1)
    row = next(read_rows(str(captioned / "run")))
    (picture,) = read_pictures(str(captioned / "run"), [row])
    regions, expected = Explainer.load(str(captioned / "run"))(row, picture, None)
    one = entries[row["id"]]
    assert [name for name, other in entries.items() if other["attention"]] == [row["id"]]
    attention = one["attention"]
    assert attention["words"] == row["caption"].split()
    assert attention["probabilities"] == pytest.approx(np.exp(expected.log_probabilities[:-1]), abs=1e-3)
    assert [box[4] for box in one["regions"]] == regions.labels
    of_regions = [
        ("global", expected.regions_global.mean(axis=1)),
        ("local", expected.regions_local.mean(axis=1)),
    ]
    for view, weights in of_regions:
        for word, flat in zip(weights, attention[view]["regions"], strict=True):
            assert flat[1::2] == sorted(flat[1::2], reverse=True)
            assert flat[1::2] == pytest.approx(100 * word[flat[::2]], abs=0.51)
            assert flat[1] == round(100 * word.max())
    words = [attribute[0] for attribute in one["attributes"]]
    for place, flat in enumerate(attention["local"]["attributes"]):
        weights = dict(zip(expected.attributes, expected.attributes_local.mean(axis=1)[place], strict=True))
        assert flat[1::2] == pytest.approx([100 * weights[words[index]] for index in flat[::2]], abs=0.51)
    assert attention["pivots"] == ["", *attention["words"][:-1]]
    assert attention["collocations"][0][1] == round(100 * expected.collocations[0].mean(axis=0).max())
    assert len(attention["groupings"]) == len(regions.labels)


def test_the_worst_and_the_best_can_be_explained_first(captioned: Path, tmp_path: Path) -> None:
    chosen = {}
    for order in ("worst", "best"):
        report, entries, _ = made(captioned, tmp_path / "g.html", explain=2, explain_order=order)
        assert report.explained == 2
        chosen[order] = {name for name, one in entries.items() if one["attention"]}
    ranked = sorted(NAMES, key=lambda name: entries[name]["scores"]["log_probability"])
    assert chosen == {"worst": set(ranked[:2]), "best": set(ranked[-2:])}


def test_a_page_of_the_first_images_counts_the_rest(captioned: Path, tmp_path: Path) -> None:
    report, entries, read = made(captioned, tmp_path / "g.html", limit=4, explain=0)
    assert (report.images, report.total, report.explained) == (4, 8, 0)
    assert (len(entries), read.data["runs"][0]["total"]) == (4, 8)


def test_external_text_is_escaped_and_the_policy_allows_one_script() -> None:
    entries = [gallery_page.entry(evil_row(), references=[EVIL])]
    read = Page(
        gallery_page.render(entries, title=EVIL, runs=[gallery_page.Run(name=EVIL, total=1, model=EVIL)])
    )
    assert [read.tags.count(tag) for tag in ("script", "img", "style")] == [2, 0, 1]
    one = read.data["entries"][0]
    assert one["id"] == one["caption"] == one["captions"][0][0] == one["references"][0] == EVIL
    assert (one["regions"][0][4], one["attributes"][0][0]) == (EVIL, EVIL)
    assert one["scores"]["log_probability"] is None
    assert read.policy.startswith("default-src 'none'; img-src data:; ")
    assert re.search(r"script-src 'sha256-[^' ]+'", read.policy)
    assert "unsafe" not in read.policy


def test_pictures_are_bounded() -> None:
    picture = thumbnail(Picture(np.zeros((300, 1200, 3), dtype=np.uint8), 1200, 300))
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 4)


def test_missing_images_keep_their_captions(captioned: Path, tmp_path: Path) -> None:
    plan = runs.make_run(tmp_path / "run", [runs.row(name) for name in ("a", "b")], 2)
    shutil.copy(captioned / "run" / "run.json", tmp_path / "run" / "run.json")
    with runs.changed_record(tmp_path / "run") as record:
        record["run"] = runs.RUN
    report, entries, _ = made(tmp_path, tmp_path / "g.html")
    assert (plan.images, report.pictures) == (2, 0)
    assert report.notes == ["2 of 2 images can no longer be read"]
    assert entries["a"]["caption"] == "a picture of a"
    assert entries["a"]["picture"] is None


@pytest.mark.parametrize("change", ["fingerprint", "config"])
def test_words_are_not_explained_with_other_weights(captioned: Path, tmp_path: Path, change: str) -> None:
    shutil.copytree(captioned / "run", tmp_path / "run")
    with runs.changed_record(tmp_path / "run") as record:
        if change == "fingerprint":
            record["fingerprint"]["captioner"] = "other"
        else:
            record["config"]["captioner"]["checkpoint"] = str(tmp_path / "gone")
    report, entries, _ = made(tmp_path, tmp_path / "g.html")
    assert (report.pictures, report.explained) == (6, 0)
    assert len(report.notes) == 1
    assert report.notes[0].startswith("captions cannot be explained: ")
    assert entries["0.png"]["attention"] is None


def test_a_run_that_used_a_gpu_is_explained_without_one(captioned: Path, tmp_path: Path) -> None:
    shutil.copytree(captioned / "run", tmp_path / "run")
    with runs.changed_record(tmp_path / "run") as record:
        record["config"]["regions"]["device"] = "cuda"
        record["config"]["regions"]["compute"] |= {"jpeg": "gpu", "compile": True}
        record["config"]["captioner"]["cuda_graphs"] = True
        record["fingerprint"]["regions"]["jpeg"] = "gpu"
    report, _, _ = made(tmp_path, tmp_path / "g.html")
    assert (report.explained, report.notes) == (6, [])


def test_words_are_explained_on_one_thread(
    captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, threads = torch.get_num_threads(), []
    explain = Explainer.__call__

    def spied(self: Explainer, *arguments: Any) -> Any:
        threads.append(torch.get_num_threads())
        return explain(self, *arguments)

    monkeypatch.setattr(Explainer, "__call__", spied)
    torch.set_num_threads(2)
    try:
        made(captioned, tmp_path / "g.html", explain=2)
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    assert (threads, after) == ([1, 1], 2)


@pytest.fixture(scope="module")
def stored(captioned: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with store/, the regions of the captioned images, and run/, a run over them."""
    folder = tmp_path_factory.mktemp("stored")
    options = ["--config=configs/extract/demo.yaml", f"--regions.checkpoint={models / 'regions'}"]
    options += [f"--input.uri={captioned / 'in'}", f"--output.uri={folder / 'store'}", "--output.unit_size=3"]
    extraction = parse(ExtractRegionsConfig, options)
    execute(extract_job(extraction), run_here(Fetch(pause=0.0), extract_factory(extraction).build()))
    caption_stored(folder / "store", folder / "run", models)
    return folder


def caption_stored(store: Path, out: Path, models: Path) -> None:
    parts = [f"--{name}.checkpoint={models / name}" for name in ("attributes", "captioner")]
    options = [*parts, "--input.form=features", f"--input.uri={store}", "--regions.kind=precomputed"]
    config = parse(CaptionDatasetConfig, [*options, f"--output.uri={out}"])
    stage = caption_factory(config).build()
    execute(caption_job(config), run_here(fetch_stage(config.input, config.resources), stage))


def test_a_run_over_a_feature_store_shows_and_explains_its_images(stored: Path, tmp_path: Path) -> None:
    report, entries, read = made(stored, tmp_path / "g.html")
    assert (report.pictures, report.explained, report.notes) == (6, 6, [])
    for name in NAMES:
        assert Image.open(io.BytesIO(base64.b64decode(entries[name]["picture"]))).size == (160, 120)
        assert entries[name]["attention"]["words"] == entries[name]["caption"].split()
    assert read.data["runs"][0]["missing"] == "The image can no longer be read."


def test_images_of_published_features_are_shown_if_their_folder_is_given(
    captioned: Path, stored: Path, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(
        stored / "store" / "features", tmp_path / "published"
    )  # without the run that extracted them
    caption_stored(tmp_path / "published", tmp_path / "run", models)
    report, entries, read = made(tmp_path, tmp_path / "g.html")
    assert (report.pictures, report.explained) == (0, 0)
    assert report.notes == ["the run captioned stored features: --images FOLDER shows its images"]
    assert "--images" in read.data["runs"][0]["missing"]
    assert entries["0.png"]["caption"]
    report, entries, _ = made(tmp_path, tmp_path / "g.html", images=str(captioned / "in"))
    assert (report.pictures, report.explained, report.notes) == (6, 6, [])


def test_moved_images_are_shown_from_their_new_folder(captioned: Path, tmp_path: Path) -> None:
    shutil.copytree(captioned / "in", tmp_path / "moved")
    (tmp_path / "moved" / "0.png").unlink()
    report, _, _ = made(captioned, tmp_path / "g.html", images=str(tmp_path / "moved"))
    assert report.pictures == 5
    assert report.notes == [f"1 of 6 images can no longer be read below {tmp_path / 'moved'}"]


def test_several_runs_are_shown_in_their_order(captioned: Path, stored: Path, tmp_path: Path) -> None:
    """Both have files with the same names, but their own references and explanations."""
    folders = (str(stored / "run"), str(captioned / "run"))
    options = {"run": folders, "references": str(captioned / "captions.json"), "explain": 2, "limit": 4}
    report = make_gallery(GalleryConfig(out=str(tmp_path / "g.html"), **options))
    assert (report.images, report.total, report.explained) == (8, 16, 4)
    data = Page((tmp_path / "g.html").read_text()).data
    assert [entry["run"] for entry in data["entries"]] == [0] * 4 + [1] * 4
    assert [(run["name"], run["total"]) for run in data["runs"]] == [("run", 8), ("run", 8)]
    for place, folder in enumerate(folders):
        rows = [row["id"] for row in read_rows(folder)][:4]
        own = [entry for entry in data["entries"] if entry["run"] == place]
        assert [entry["id"] for entry in own] == rows
        assert sum(entry["attention"] is not None for entry in own) == 2
    with pytest.raises(UsageError, match="names has 1 headings for 2 runs"):
        GalleryConfig(out="x", run=folders, names=("A",))
    with pytest.raises(UsageError, match="run names no run folder"):
        GalleryConfig(out="x", run=())


def test_references_are_shown_for_the_runs_that_have_them(
    captioned: Path, photographed: Path, tmp_path: Path
) -> None:
    def make(references: Path, *folders: Path) -> list[dict[str, Any]]:
        options = {"run": tuple(map(str, folders)), "references": str(references), "explain": 0}
        make_gallery(GalleryConfig(out=str(tmp_path / "g.html"), **options))
        return Page((tmp_path / "g.html").read_text()).data["entries"]

    known = captioned / "captions.json"
    entries = make(known, photographed, captioned / "run")
    scored = {entry["run"] for entry in entries if entry["scores"]["cider"] is not None}
    assert scored == {entry["run"] for entry in entries if entry["references"]} == {1}
    with pytest.raises(UsageError, match="has no references for 16 captioned images: astronaut"):
        make(known, photographed)
    content = json.loads(known.read_text())
    content["images"] = content["images"][1:]
    partly = tmp_path / "partly.json"
    partly.write_text(json.dumps(content | {"annotations": content["annotations"][2:]}))
    with pytest.raises(UsageError, match="has no references for 1 captioned images: 0"):
        make(partly, photographed, captioned / "run")


def job(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gallery.py", *options])
    with pytest.raises(SystemExit) as ended:
        run(gallery.main)
    return int(ended.value.code or 0)


def test_the_job_prints_the_path_of_the_page(
    captioned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new" / "g.html"
    assert job(monkeypatch, "--run", str(captioned / "run"), "--out", str(out), "--limit", "2") == 0
    assert capsys.readouterr().out.startswith(f"2 of 8 images, 2 of them explained: {out} (")
    assert out.is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nowhere"], "nowhere: no such folder"),
        (["--run", "RUN", "--references", "other.json"], "other.json has no references for 6 captioned"),
        (["--run", "part"], "part: 1 of 2 units are done"),
        (["--run", "RUN", "--limit", "0"], "limit is 0"),
        (["--run", "RUN", "--explain", "-1"], "explain is -1"),
        (["--run", "RUN", "--explain_order", "random"], "explain_order"),
    ],
)
def test_the_job_reports_errors_in_one_line(
    captioned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    other = {
        "images": [{"id": 1, "file_name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "c"}],
    }
    (tmp_path / "other.json").write_text(json.dumps(other))
    runs.make_run(tmp_path / "part", [runs.row(name) for name in "ab"], 1, units=1)
    monkeypatch.chdir(tmp_path)
    given = [str(captioned / "run") if option == "RUN" else option for option in options]
    assert job(monkeypatch, *given, "--out", "g.html") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "g.html").exists()


def weights(*sizes: int) -> Weights:
    values = np.random.default_rng(0).random(sizes, dtype=np.float32)
    return values / values.sum(axis=-1, keepdims=True)


def explained(**parts: Weights) -> dict[str, Any]:
    """Return an entry's attention over four regions, two words, and two known of three attributes."""
    regions = Regions(
        boxes=np.zeros((4, 4), dtype=np.float32),
        features=np.zeros((4, 1), dtype=np.float32),
        scores=np.zeros(4, dtype=np.float32),
        labels=["dog"] * 4,
        attributes=[[]] * 4,
        width=60,
        height=40,
    )
    found = Explanation(["a", "dog"], ["red", "dog"], regions.boxes, np.log([0.5, 0.25, 1.0]), **parts)
    attributes = [{"word": word, "probability": 0.5} for word in ("red", "unheard", "dog")]
    attention = gallery_page.entry(runs.row("a", attributes=attributes), explained=(regions, found))[
        "attention"
    ]
    assert attention["probabilities"] == [0.5, 0.25]
    return attention


def test_base_has_no_local_view() -> None:
    attention = explained(regions_global=weights(2, 8, 4), attributes_global=weights(2, 8, 2))
    assert attention["local"] == {"regions": None, "attributes": None}
    assert attention["groupings"] is attention["collocations"] is None
    assert [sorted(flat[::2]) for flat in attention["global"]["regions"]] == [[0, 1, 2, 3]] * 2
    assert [sorted(flat[::2]) for flat in attention["global"]["attributes"]] == [[0, 2]] * 2


def test_without_the_pivot_attributes_attend_to_attributes() -> None:
    groupings = weights(8, 2, 2)
    attention = explained(regions_global=weights(2, 8, 4), attribute_groupings=groupings)
    assert attention["pivots"] == ["red", "dog"]
    for place, flat in enumerate(attention["collocations"]):
        by_row = dict(zip(flat[::2], flat[1::2], strict=True))
        assert [by_row[0], by_row[2]] == pytest.approx(100 * groupings.mean(axis=0)[place], abs=0.51)


def test_captions_that_text_rules_changed_are_explained_as_the_captioner_wrote_them(
    captioned: Path, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in NAMES[:2]:
        shutil.copy(captioned / "in" / name, tmp_path / "in" / name)
    (tmp_path / "in" / "1.txt").write_text("an old caption")
    options = ["--config=configs/caption/demo.yaml", *model_options(models), "--text.trigger=sks"]
    options += [f"--input.uri={tmp_path / 'in'}", f"--output.uri={tmp_path / 'run'}"]
    config = parse(CaptionDatasetConfig, [*options, "--text.existing.sidecar=txt"])
    execute(caption_job(config), run_here(caption_fetch(config), caption_factory(config).build()))
    _, entries, _ = made(tmp_path, tmp_path / "g.html")
    changed, kept = entries["0.png"], entries["1.png"]
    (row, _) = read_rows(str(tmp_path / "run"))
    raw = row["captions"][0]["raw_text"]
    assert (row["caption"], changed["caption"]) == (f"sks, {raw}", f"sks, {raw}")
    assert changed["attention"]["words"] == raw.split()
    assert changed["attention"]["written"] is True
    assert changed["about"][0]["raw"] == raw
    assert (kept["caption"], kept["attention"], kept["flags"]) == ("an old caption", None, ["input"])
