"""Familiarity of images, computed by hand and on data with a known distribution."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from glied.captioner import familiarity
from glied.captioner.captioner import Captioner
from glied.captioner.familiarity import FILE, RELATIONS, WEIGHTS, Familiarity, Relations, load_familiarity
from glied.errors import UsageError
from glied.text.vocabulary import Vocabulary

WORDS = Vocabulary([f"word{i}" for i in range(26)])
SIZE = 12
FREE = 8
"""Independent values; the others are sums of these plus a little noise."""
REGIONS = 6


def images(
    count: int, seed: int, *, noise: float = 0.05, spread: float = 1.0, shift: float = 0.0
) -> np.ndarray:
    """Return region features [count, R, F] that vary around each image's mean."""
    draw = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(FREE, SIZE - FREE))
    free = draw.normal(size=(count, 1, FREE)) + spread * draw.normal(size=(count, REGIONS, FREE))
    bound = free @ mixing + noise * draw.normal(size=(count, REGIONS, SIZE - FREE))
    return (np.concatenate([free, bound], axis=2) + 5 + shift).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    return Familiarity.fit(images(3000, 0), images(1000, 1))


def relations(directions, variances=1.0, mean=0.0, scale=1.0) -> Relations:
    count, size = np.shape(directions)
    full = [np.full(size, one, np.float32) for one in (mean, scale)]
    return Relations(*full, np.float16(directions), np.full(count, variances, np.float32))


def test_deviations_by_hand():
    one = relations([[1, -1, 0], [0, 0, 1]], variances=4, mean=1, scale=2)
    # Standardized (2, 0, -1), which is 2 and -1 along the directions.
    np.testing.assert_allclose(one.deviations(np.float32([[5, 1, -1]])), [[1, 0.25]])


def test_distance_and_rank_by_hand():
    one = Familiarity(
        image=relations([[1, 0]]),
        moment=relations([[0, 1]], variances=9),
        columns=np.int32([1]),
        median=np.log(np.float32([4, 1, 1])),
        spread=np.float32([1, 2, 0.5]),
        distances=np.float32([0, 0.5, 2, 2, 9]),
    )
    image = np.float32([[1, 0], [5, 2]])
    # From the mean (3, 1): 9. From the second value's mean square 2: 4 / 9. The regions' standard deviations
    # are 0.5 and 1.5, so the contrast is 1.
    expected = np.log(9 / 4) + 0.5 * np.log(4 / 9) / 2 + 0
    assert WEIGHTS.tolist() == [1, 0.5, 1]
    assert one.distance(image) == pytest.approx(expected, rel=1e-5)
    for distances, rank in (([-9, 1], 2 / 3), ([-9, -8], 1 / 3), ([1, 1], 1)):
        assert dataclasses.replace(one, distances=np.float32(distances))(image) == rank
    assert one.distance(image / 10 + 0.9) > one.distance(image / 5 + 0.8)  # less contrast, larger distance


def test_distance_in_files_of_the_earlier_format_by_hand():
    one = Familiarity(
        image=relations([[1, 0]]),
        moment=relations([[0, 1]], variances=9),
        columns=np.int32([1]),
        median=np.log(np.float32([4, 1, 2.5, 1.1, 1])),
        spread=np.float32([1, 2, 1, 1, 0.5]),
        distances=np.float32([0, 0.5, 2, 2, 9]),
        region=relations(np.eye(2)),
    )
    # From the mean (2, 1): 4. From the second value's mean square 2: 4 / 9. From the regions (1, 13) / 2:
    # their 10 % quantile is 1.1 and their minimum 0.5, which has half the weight.
    logs = [np.log(4 / 4), np.log(4 / 9) / 2, np.log(1.1 / 2.5), np.log(1.1 / 1.1), np.log(0.5) / 0.5]
    expected = sum(logs[:4]) + logs[4] / 2
    assert one.distance(np.float32([[1, 0], [3, 2]])) == pytest.approx(expected, rel=1e-5)


def test_files_of_the_earlier_format_keep_their_digest():
    folder = Path(__file__).parents[1] / "fixtures/v0_1/runs/glied_tiny/best"
    old = load_familiarity(str(folder))
    assert old.region is not None
    assert old.digest == hashlib.sha256((folder / FILE).read_bytes()).hexdigest()


def test_relations_are_the_components_of_lowest_variance(monkeypatch):
    values = images(3000, 0)[:, 0]
    monkeypatch.setattr(familiarity, "_CHUNK", 700)
    found = familiarity._spectrum(values).relations(4)
    standardized = (values.astype(np.float64) - values.mean(axis=0)) / values.std(axis=0)
    variances, components = np.linalg.eigh(np.cov(standardized.T, bias=True))
    np.testing.assert_allclose(found.variances, variances[:4], rtol=1e-2)  # directions are stored as float16
    np.testing.assert_allclose(abs(found.directions @ components[:, :4]), np.eye(4), atol=2e-3)
    np.testing.assert_allclose(found.deviations(values).mean(axis=0), 1, rtol=1e-2)


def test_predictable_values_are_found():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(500, 6))
    values[:, 4] = values[:, 1] + 0.01 * draw.normal(size=500)
    values[:, 2] = 3  # constant, so it carries no information
    assert familiarity._spectrum(values.astype(np.float32)).predictable(2).tolist() == [1, 4]


def test_images_of_the_same_kind_are_familiar_and_others_are_not(fitted):
    same = [fitted(one) for one in images(1000, 2)]
    assert 0.002 <= np.mean(np.less(same, 0.01)) <= 0.03
    assert np.quantile(same, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    scrambled = images(50, 3)[:, :, np.random.default_rng(1).permutation(SIZE)]
    for others in (images(50, 3, noise=1.0), images(50, 3, shift=30), scrambled):
        assert np.mean([fitted(one) < familiarity.UNFAMILIAR for one in others]) >= 0.95


def test_images_of_weak_features_are_not_familiar(fitted):
    image = images(1, 4)[0]
    weak = image.mean() + 0.3 * (image - image.mean())
    assert fitted._logs(weak)[2] == pytest.approx(fitted._logs(image)[2] - np.log(0.3), rel=1e-4)
    assert fitted(weak) < familiarity.UNFAMILIAR


def test_images_of_a_single_region_are_recognized_too():
    fitted = Familiarity.fit(images(3000, 0)[:, :1], images(1000, 1)[:, :1])
    assert 0.002 <= np.mean([fitted(one) < 0.01 for one in images(1000, 2)[:, :1]]) <= 0.03
    strange = images(50, 3, noise=1.0)[:, :1]
    assert np.mean([fitted(one) < familiarity.UNFAMILIAR for one in strange]) >= 0.9


def test_few_validation_images_make_no_image_unfamiliar():
    strange = np.full((1, SIZE), 1e4, np.float32) * np.arange(SIZE)
    least = {count: Familiarity.fit(images(500, 0), images(count, 1))(strange) for count in (1, 20, 99, 100)}
    assert least == {1: 1 / 2, 20: 1 / 21, 99: 1 / 100, 100: 1 / 101}
    assert [count for count, value in least.items() if value < familiarity.UNFAMILIAR] == [
        familiarity.LEAST_VALIDATION
    ]


@pytest.mark.parametrize("training", [images(1, 0), images(3, 0), np.ones((20, REGIONS, SIZE), np.float32)])
def test_degenerate_training_images_still_give_a_rank(training):
    fitted = Familiarity.fit(training, training)
    assert fitted(training[0]) == 1 or len(training) == 3
    strange = np.full((1, SIZE), 1e6, np.float32) * np.arange(SIZE)
    for one in (strange, np.full((1, SIZE), np.nan, np.float32), np.empty((0, SIZE), np.float32)):
        assert fitted(one) == 1 / (len(training) + 1)


def test_familiarity_is_stored_beside_the_weights_and_changes_no_digest(make_model, fitted, tmp_path):
    Captioner(make_model(), WORDS).save(str(tmp_path))
    old = Captioner.load(str(tmp_path))
    assert old.familiarity is None
    fitted.save(str(tmp_path))
    new = Captioner.load(str(tmp_path))
    assert new.familiarity is not None
    assert new.digest == old.digest
    assert new.familiarity.digest == fitted.digest
    strange = images(20, 3, shift=4)
    assert [new.familiarity(one) for one in strange] == [fitted(one) for one in strange]
    new.save(str(tmp_path / "again"))
    assert load_familiarity(str(tmp_path / "again")).digest == fitted.digest


def test_the_file_is_small():
    size, count = 2048, 2 * familiarity.PREDICTABLE
    big = Familiarity(
        relations(np.zeros((RELATIONS, size))),
        relations(np.zeros((RELATIONS, count))),
        np.zeros(count // 2, np.int32),
        *(np.zeros(length, np.float32) for length in (3, 3, 5000)),
    )
    assert len(big._to_bytes()) < 200_000


def test_invalid_files_are_named(make_model, fitted, tmp_path):
    Captioner(make_model(), WORDS).save(str(tmp_path))
    file = tmp_path / FILE
    arrays = fitted._arrays()
    known = {"format": "glied-familiarity-2"}
    wrong = {
        "image.mean": np.zeros(3, np.float32),
        "moment.directions": np.zeros((2, 5), np.float16),
        "image.variances": np.zeros(0, np.float32),
        "distances": np.zeros(0, np.float32),
        "spread": np.zeros((1, 1), np.float32),
    }
    for data, message in (
        (b"no", "broken"),
        (safetensors.numpy.save(arrays), "format is None"),
        (safetensors.numpy.save(arrays, {"format": "glied-familiarity-1"}), "it has no 'region.mean'"),
        (safetensors.numpy.save({"image.mean": fitted.image.mean}, known), "it has no 'image.scale'"),
        *((safetensors.numpy.save(arrays | {name: array}, known), "shape") for name, array in wrong.items()),
        (safetensors.numpy.save(arrays | {"columns": fitted.columns + 5}, known), "columns are not numbers"),
    ):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=message):
            Captioner.load(str(tmp_path))
    other = np.random.default_rng(0).normal(size=(300, 2, 7)).astype(np.float32)
    Familiarity.fit(other, other).save(str(tmp_path))
    with pytest.raises(UsageError, match="features of 7 values, the captioner reads 12"):
        Captioner.load(str(tmp_path))


def test_the_stored_arrays_are_the_fields_of_the_class():
    assert {*familiarity._NAMES[familiarity._EARLIER_FORMAT], *familiarity._PLAIN} == {
        field.name for field in dataclasses.fields(Familiarity)
    }
