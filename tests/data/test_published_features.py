import base64
import csv
import io
import sys

import numpy as np
import pytest

from glied.data import published_features
from glied.errors import ImageError, UsageError
from tests.data.published_files import Image, images, npz_bytes, tsv_bytes


def assert_same(found: published_features.Published, wanted: Image) -> None:
    assert (found.width, found.height) == (wanted.width, wanted.height)
    assert found.boxes.tobytes() == wanted.boxes.tobytes()
    assert found.features.tobytes() == wanted.features.tobytes()
    assert (found.labels, found.attributes) == ([""] * len(wanted.boxes), [[]] * len(wanted.boxes))
    assert not found.scores.any()


def test_a_line_of_the_tsv_is_read_exactly_and_written_unchanged() -> None:
    (image,) = images(1)
    line = tsv_bytes([image])
    image_id, found = published_features.parse_tsv(line)
    assert image_id == image.id
    assert_same(found, image)
    assert published_features.tsv_feature_size(line) == 16
    assert published_features.format_tsv(image_id, found) == line


def test_the_published_reader_reads_the_written_file() -> None:
    """The reader is csv with a raised field limit, as in the repository of bottom-up attention."""
    (image,) = images(1, feature_size=2048, regions=20)
    line = published_features.format_tsv(image.id, image).decode()
    limit = csv.field_size_limit(sys.maxsize)
    try:
        (row,) = csv.DictReader(io.StringIO(line), delimiter="\t", fieldnames=published_features.TSV_FIELDS)
    finally:
        csv.field_size_limit(limit)
    assert len(row["features"]) > limit
    boxes = np.frombuffer(base64.decodebytes(row["boxes"].encode()), np.float32)
    np.testing.assert_array_equal(boxes.reshape(int(row["num_boxes"]), -1), image.boxes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields[:5], "5 fields, expected 6"),
        (lambda fields: [*fields[:3], b"0", *fields[4:]], "0 boxes with"),
        (lambda fields: [*fields[:3], b"9", *fields[4:]], "9 boxes with"),
        (lambda fields: [*fields[:5], fields[5][:-3]], "base64"),
        (lambda fields: [*fields[:5], b"*" * len(fields[5])], "base64"),
        (lambda fields: [*fields[:5], base64.b64encode(b"12345")], "multiple of element size"),
    ],
)
def test_a_broken_line_is_an_image_failure(change, message: str) -> None:
    line = b"\t".join(change(tsv_bytes(images(1)).rstrip(b"\r\n").split(b"\t")))
    with pytest.raises(ImageError, match=message) as raised:
        published_features.parse_tsv(line)
    assert raised.value.kind == "corrupt"


def test_truncated_lines_are_recognized_without_decoding() -> None:
    whole = tsv_bytes(images(1, feature_size=7))
    sizes = [published_features.tsv_feature_size(whole[:cut]) for cut in range(1, len(whole))]
    assert sizes[-1] == 7  # only the line break is missing
    assert set(sizes[:-2]) == {0, 3, 6}  # a break between two numbers is recognized by the size


def test_npz_with_boxes_inside_or_in_another_file() -> None:
    (image,) = images(1)
    assert_same(published_features.parse_npz(npz_bytes(image, "feat", "bbox", size=True)), image)
    assert_same(
        published_features.parse_npz(npz_bytes(image, "x", "boxes", size=True, transposed=True)), image
    )
    beside = io.BytesIO()
    np.save(beside, image.boxes)
    found = published_features.parse_npz(npz_bytes(image, "feat", None), beside.getvalue())
    assert_same(found.sized(image.width, image.height), image)
    reach = found.sized(None, None)
    assert (reach.width, reach.height) == tuple(np.ceil(image.boxes.max(axis=0))[2:])


def test_npz_is_never_unpickled_and_an_invalid_file_is_an_image_failure() -> None:
    (image,) = images(1)
    data = io.BytesIO()
    np.savez(data, x=image.features, bbox=image.boxes, info=np.array([{"a": 1}], object))
    assert len(published_features.parse_npz(data.getvalue()).boxes) == len(image.boxes)
    pickled = io.BytesIO()
    np.savez(pickled, x=np.array([{"a": 1}], object), bbox=image.boxes)
    for broken in (pickled.getvalue(), data.getvalue()[:100], b"no npz", npz_bytes(image, "feat", None)):
        with pytest.raises(ImageError, match="corrupt"):
            published_features.parse_npz(broken)


@pytest.mark.parametrize("form", ["flat", "groups", "stacked"])
def test_hdf5_in_its_three_formats(tmp_path, form: str) -> None:
    every = images(3, regions=4)
    name = str(tmp_path / "detections.hdf5")
    with published_features.import_h5py().File(name, "w") as file:
        if form == "stacked":
            file["image_features"] = np.stack([image.features for image in every])
            file["image_bb"] = np.stack([image.boxes for image in every])
            file["ids"] = [int(image.id) for image in every]
        for image in every if form != "stacked" else []:
            prefix = f"{image.id}_" if form == "flat" else f"{image.id}/"
            file[f"{prefix}features"], file[f"{prefix}boxes"] = image.features, image.boxes
            if form == "groups":
                file[image.id].attrs.update(image_w=image.width, image_h=image.height)
    with published_features.Hdf5(name, name) as found:
        read = {image_id: found.read(image_id, number) for image_id, number, _ in found.ids()}
    assert sorted(read) == sorted(image.id for image in every)
    for image in every:
        assert_same(read[image.id].sized(image.width, image.height), image)


def test_invalid_hdf5_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(UsageError, match=r"text\.h5 is not a readable HDF5 file"):
        published_features.Hdf5(str(tmp_path / "text.h5"), "text.h5")
    with published_features.import_h5py().File(tmp_path / "other.h5", "w") as file:
        file["something"] = [1]
    with (
        published_features.Hdf5(str(tmp_path / "other.h5"), "other.h5") as other,
        pytest.raises(UsageError, match=r"other\.h5: neither <id>_features nor"),
    ):
        list(other.ids())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'glied\[hdf5\]'"):
        published_features.Hdf5(str(tmp_path / "other.h5"), "other.h5")


def test_an_id_that_would_break_the_tsv_is_refused() -> None:
    (image,) = images(1)
    with pytest.raises(UsageError, match="which TSV does not allow"):
        published_features.format_tsv("a\tb", image)
