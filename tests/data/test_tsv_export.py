from pathlib import Path

import pyarrow as pa
import pytest

from glied.data import coco, features, published_features
from glied.data.tsv_export import export_tsv
from glied.errors import StorageError, UsageError
from tests.data.published_files import Image, images, tsv_bytes


def write_store(folder: Path, every: list[Image]) -> str:
    """Write images named <id>.jpg, after an image without regions."""
    found = [published_features.Published(one.boxes, one.features, one.width, one.height) for one in every]
    names = [f"{one.id}.jpg" for one in every]
    table = features.write(found, names, fingerprint={"extractor": "a"}, dtype=features.EXACT)
    rejected = pa.Table.from_pylist(
        [dict.fromkeys(table.schema.names) | {"id": "x.jpg"}], schema=table.schema
    )
    folder.mkdir()
    (folder / "unit.parquet").write_bytes(features.parquet_bytes(pa.concat_tables([rejected, table])))
    return str(folder)


def test_captions_give_the_ids_and_images_without_regions_are_left_out(tmp_path) -> None:
    every = images(3)
    store = write_store(tmp_path / "store", every)
    named = [coco.CaptionedImage(int(one.id), f"{one.id}.jpg", ["a dog"]) for one in every]
    (tmp_path / "captions.json").write_bytes(coco.write_captions(named))
    out = tmp_path / "out.tsv"
    assert export_tsv(store, str(out), captions=str(tmp_path / "captions.json")) == 3
    assert out.read_bytes() == tsv_bytes(every)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.json", "out.tsv", "store"]

    (tmp_path / "captions.json").write_bytes(coco.write_captions(named[:2]))
    with pytest.raises(UsageError, match=rf"does not have {every[2].id}\.jpg"):
        export_tsv(store, str(out), captions=str(tmp_path / "captions.json"))


def test_an_unwritable_destination_is_named(tmp_path) -> None:
    store = write_store(tmp_path / "store", images(1))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        export_tsv(store, str(tmp_path / "file" / "out.tsv"))
