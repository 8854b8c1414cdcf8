"""Published features are imported into a store and exported again."""

import json
import logging
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from glied.bulk.chunks import run_here
from glied.bulk.importing import ImportFeaturesConfig, import_job
from glied.bulk.items import Chunk, DescribedChunk
from glied.bulk.run import bulk_run
from glied.commands import export_features, import_features
from glied.config import parse
from glied.data.published_features import import_h5py
from glied.errors import UsageError
from tests.data.published_files import Image, images, npz_bytes, tsv_bytes
from tests.stores import StoredRegions

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["karpathy_train.tsv.0", "karpathy_train.tsv.1", "karpathy_val.tsv"]


@pytest.fixture
def tsv(tmp_path) -> list[Image]:
    """Three files in tsv/ with 11 images each, and a text file."""
    every = images(33)
    (tmp_path / "tsv").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / "tsv" / name).write_bytes(tsv_bytes(every[number * 11 : number * 11 + 11]))
    (tmp_path / "tsv" / "README.txt").write_text("features")
    return every


def configure(folder: Path, *options: str) -> ImportFeaturesConfig:
    defaults = [f"--input.uri={folder / 'tsv'}", f"--output.uri={folder / 'run'}", "--output.unit_size=8"]
    return parse(ImportFeaturesConfig, [*defaults, "--extractor=bottom-up 10-100", *options])


def execute(config: ImportFeaturesConfig) -> dict[str, int]:
    return bulk_run.execute(import_job(config), run_here(config.stage)).statuses


def run_main(monkeypatch, job, *options: str) -> int:
    monkeypatch.setattr("sys.argv", [job.__name__, *options])
    return job.main()


def write_captions(path: Path, names: dict[int, str]) -> str:
    entries = [{"id": number, "file_name": name} for number, name in names.items()]
    texts = [{"image_id": number, "caption": "a dog"} for number in names]
    path.write_text(json.dumps({"images": entries, "annotations": texts}))
    return str(path)


def test_exact_features_are_exported_byte_for_byte(tsv, tmp_path, monkeypatch, capsys) -> None:
    config = f"--config={ROOT / 'configs' / 'import' / 'bottom_up_tiny.yaml'}"
    options = [config, f"--input.uri={tmp_path / 'tsv'}", f"--output.uri={tmp_path / 'run'}"]
    assert run_main(monkeypatch, import_features, *options) == 0
    assert "33 of 33 images done (33 ok)" in (printed := capsys.readouterr().out)
    assert "store: 33 images, 0.00 GB" in printed
    out = tmp_path / "out" / "again.tsv"
    assert run_main(monkeypatch, export_features, f"--store={tmp_path / 'run'}", f"--out={out}") == 0
    assert out.read_bytes() == b"".join((tmp_path / "tsv" / name).read_bytes() for name in NAMES)


def test_float16_is_the_default_and_boxes_stay_exact(tsv, tmp_path) -> None:
    assert execute(configure(tmp_path)) == {"ok": 33}
    store = StoredRegions(str(tmp_path / "run"))
    assert store.fingerprint == {"kind": "published", "extractor": "bottom-up 10-100"}
    for image in tsv:
        found = store[image.id]
        assert (found.width, found.height) == (image.width, image.height)
        assert found.boxes.tobytes() == image.boxes.tobytes()
        np.testing.assert_array_equal(found.features, image.features.astype(np.float16))


def test_captions_select_and_name_the_images(tsv, tmp_path, monkeypatch, caplog) -> None:
    chosen = {int(image.id): f"COCO_train2014_{int(image.id):012d}.jpg" for image in tsv[5:15]}
    captions = write_captions(tmp_path / "captions.json", chosen)
    with caplog.at_level(logging.INFO):
        assert execute(configure(tmp_path, f"--input.captions={captions}")) == {"ok": 10}
    assert "10 images, 23 not in captions" in caplog.text
    assert StoredRegions(str(tmp_path / "run")).ids == list(chosen.values())

    lacking = write_captions(tmp_path / "captions.json", chosen | {7: "COCO_val2014_000000000007.jpg"})
    options = [f"--input.uri={tmp_path / 'tsv'}", f"--output.uri={tmp_path / 'other'}", "--extractor=b"]
    assert run_main(monkeypatch, import_features, *options, f"--input.captions={lacking}") == 1
    assert "1 images of" in caplog.text
    assert "have no regions, first COCO_val2014_000000000007.jpg" in caplog.text


def test_truncated_lines_count_only_if_the_image_is_not_complete_elsewhere(tsv, tmp_path, caplog) -> None:
    line, other = tsv_bytes(tsv[:1]), tsv_bytes(images(1, first=5))
    file = tmp_path / "tsv" / NAMES[0]
    file.write_bytes(line[: len(line) // 2] + b"\r\n" + file.read_bytes() + tsv_bytes(tsv[2:3]) + other[:-9])
    with caplog.at_level(logging.INFO):
        assert execute(configure(tmp_path)) == {"ok": 33, "rejected": 1}
    store = StoredRegions(str(tmp_path / "run"))
    assert "33 images, 1 duplicates, 1 damaged duplicates" in caplog.text
    assert (len(store), "5" in store) == (33, False)
    np.testing.assert_array_equal(store[tsv[0].id].boxes, tsv[0].boxes)


def test_an_interrupted_import_resumes(tsv, tmp_path) -> None:
    config, whole = configure(tmp_path), run_here(configure(tmp_path).stage)

    def broken(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        for number, result in enumerate(whole(chunks)):
            if number == 6:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        bulk_run.execute(import_job(config), broken)
    there = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "features").iterdir()}
    assert 0 < len(there) < 5
    seen: list[int] = []

    def watched(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        seen.extend(chunk.unit for chunk in chunks)
        yield from whole(chunks)

    assert bulk_run.execute(import_job(config), watched).statuses == {"ok": 33}
    assert set(seen) == set(range(len(there), 5))
    assert {file: file.stat().st_mtime_ns for file in there} == there
    assert len(StoredRegions(str(tmp_path / "run"))) == 33


def test_rows_of_finished_units_are_released(tsv, tmp_path) -> None:
    """Otherwise the features of thousands of units would accumulate in the driver."""
    config, alive = configure(tmp_path, "--resources.chunk.images=4"), []

    def watched(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        tables = []
        for result in run_here(config.stage)(chunks):
            tables.append(weakref.ref(result.table))
            yield result
            del result
            alive.append(sum(table() is not None for table in tables))

    bulk_run.execute(import_job(config), watched)
    assert len(alive) == 9
    assert max(alive) <= 3  # a unit has two chunks, and the stream holds the last one


def test_a_run_is_not_resumed_with_other_captions_or_another_type(tsv, tmp_path) -> None:
    execute(configure(tmp_path))
    for option, message in (
        ("--extractor=fixed 36", "regions.extractor was"),
        ("--dtype=float32", "dtype was"),
    ):
        with pytest.raises(UsageError, match=message):
            execute(configure(tmp_path, option))
    with pytest.raises(UsageError, match="extractor is empty"):
        configure(tmp_path, "--extractor= ")


def test_npz_with_boxes_in_another_folder(tmp_path) -> None:
    every = images(5)
    for folder in ("cocobu_att", "cocobu_box"):
        (tmp_path / folder).mkdir()
    for image in every:
        (tmp_path / "cocobu_att" / f"{image.id}.npz").write_bytes(npz_bytes(image, "feat", None))
        np.save(tmp_path / "cocobu_box" / f"{image.id}.npy", image.boxes)
    (tmp_path / "cocobu_att" / f"{every[0].id}.npz").write_bytes(b"")
    sizes = [{"id": int(i.id), "file_name": f"{i.id}.jpg", "width": 640, "height": 480} for i in every]
    texts = [{"image_id": int(image.id), "caption": "a dog"} for image in every]
    (tmp_path / "captions.json").write_text(json.dumps({"images": sizes, "annotations": texts}))
    options = ["--input.form=npz", f"--input.uri={tmp_path / 'cocobu_att'}", "--dtype=float32"]
    options += [f"--input.boxes={tmp_path / 'cocobu_box'}", f"--input.captions={tmp_path / 'captions.json'}"]
    assert execute(configure(tmp_path, *options)) == {"ok": 4, "rejected": 1}
    store = StoredRegions(str(tmp_path / "run"))
    for image in every[1:]:
        found = store[f"{image.id}.jpg"]
        assert (found.width, found.height) == (640, 480)
        assert found.boxes.tobytes() + found.features.tobytes() == (
            image.boxes.tobytes() + image.features.tobytes()
        )


def test_hdf5(tmp_path) -> None:
    every = images(9)
    with import_h5py().File(tmp_path / "coco_detections.hdf5", "w") as file:
        for image in every:
            file[f"{image.id}_features"], file[f"{image.id}_boxes"] = image.features, image.boxes
        file["1_features"] = every[0].features
    options = ["--input.form=hdf5", f"--input.uri={tmp_path / 'coco_detections.hdf5'}", "--dtype=float32"]
    assert execute(configure(tmp_path, *options)) == {"ok": 9, "rejected": 1}
    store = StoredRegions(str(tmp_path / "run"))
    for image in every:
        assert store[image.id].features.tobytes() == image.features.tobytes()


def test_missing_images_are_named(tmp_path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        execute(configure(tmp_path))
    (tmp_path / "tsv").mkdir()
    with pytest.raises(UsageError, match="no file of form tsv there"):
        execute(configure(tmp_path))
    with pytest.raises(UsageError, match=r"input\.captions: no caption file at"):
        execute(configure(tmp_path, "--input.captions=none.json"))
    with pytest.raises(UsageError, match=r"input\.boxes belongs to input\.form npz"):
        configure(tmp_path, "--input.boxes=box")


def test_the_last_shard_reports_missing_images(tsv, tmp_path, monkeypatch, capsys) -> None:
    wanted = {int(image.id): f"{image.id}.jpg" for image in tsv} | {5: "a.jpg"}
    options = [f"--input.captions={write_captions(tmp_path / 'captions.json', wanted)}", "--extractor=a"]
    options += [f"--input.uri={tmp_path / 'tsv'}", f"--output.uri={tmp_path / 'run'}", "--output.unit_size=8"]
    assert run_main(monkeypatch, import_features, *options, "--output.shard=0/2") == 0
    assert "store:" not in capsys.readouterr().out
    assert run_main(monkeypatch, import_features, *options, "--output.shard=1/2") == 1  # a.jpg is in no file
    assert "store: 33 images" in capsys.readouterr().out
