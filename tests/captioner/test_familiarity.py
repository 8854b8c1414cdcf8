"""How familiar images are, by hand and on data whose distribution is known."""

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from glied.captioner import familiarity
from glied.captioner.captioner import Captioner
from glied.captioner.familiarity import FILE, Familiarity, load_familiarity, pooled
from glied.captioner.vocabulary import Vocabulary
from glied.errors import UsageError
from glied.vision.timm_cells import _regions

WORDS = Vocabulary([f"word{i}" for i in range(26)])
SIZE = 12
SCALES = np.linspace(3, 0.1, SIZE)


def images(count: int, seed: int, *, scales: np.ndarray = SCALES, shift: float = 0.0) -> np.ndarray:
    """Pooled features [count, F] of a Gaussian along the axes."""
    values = np.random.default_rng(seed).normal(size=(count, len(scales))) * scales + 5 + shift
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Familiarity:
    return Familiarity.fit(images(3000, 0), images(1000, 1))


def by_hand(mean, directions, variances, rest, distances) -> Familiarity:
    return Familiarity(
        np.float32(mean),
        np.float16(directions),
        np.float32(variances),
        np.float32(rest),
        np.float32(distances),
    )


def test_distance_and_rank_by_hand():
    one = by_hand([1, 0, 0], [[1, 0, 0]], [4], [2], [0.5, 1, 1, 3, 9])
    assert one.distance(np.float32([3, 0, 0])) == 1  # 2**2 / 4
    assert one.distance(np.float32([1, 1, -1])) == 1  # (1 + 1) / 2
    assert one.distance(np.float32([5, 2, 0])) == 6
    # Of five validation images four are at least as far as distance 1, one as distance 6, none as 12.
    assert one(np.float32([[3, 0, 0]])) == 5 / 6
    assert one(np.float32([[5, 2, 0]])) == 2 / 6
    assert one(np.float32([[5, 4, 0]])) == 1 / 6
    assert one(np.float32([[1, 0, 0]])) == 1


def test_the_distance_is_that_of_the_covariance_whichever_matrix_is_decomposed():
    for count in (8, 3000):  # fewer and more images than feature values
        training = images(count, 0).astype(np.float64)
        fitted = Familiarity.fit(training, training)
        values, vectors = np.linalg.eigh(np.cov(training.T, bias=True))
        kept = min(count // 4, SIZE // 2)
        assert len(fitted.variances) == kept
        np.testing.assert_allclose(fitted.variances, values[::-1][:kept], rtol=1e-4)
        along = vectors.T[::-1][:kept] @ (images(5, 3) - training.mean(axis=0)).T
        squares = ((images(5, 3) - training.mean(axis=0)) ** 2).sum(axis=1) - (along**2).sum(axis=0)
        expected = (along**2 / values[::-1][:kept, None]).mean(axis=0) + squares / values[::-1][kept:].sum()
        found = [fitted.distance(one) for one in images(5, 3)]
        np.testing.assert_allclose(found, expected, rtol=5e-3)  # directions are float16


def test_an_average_training_image_has_distance_two(fitted):
    distances = [fitted.distance(one) for one in images(3000, 0)]
    assert np.mean(distances) == pytest.approx(2, rel=1e-3)


def test_images_of_the_same_kind_are_familiar_and_others_are_not(fitted):
    same = [fitted(one[None]) for one in images(1000, 2)]
    assert 0.002 <= np.mean(np.less(same, 0.01)) <= 0.03
    assert np.quantile(same, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.06)
    for others in (images(50, 3, shift=30), images(50, 3, scales=9 * SCALES[::-1]), 50 * np.eye(SIZE)):
        assert max(fitted(one[None]) for one in others) < familiarity.UNFAMILIAR


def test_what_lies_within_the_components_and_what_lies_outside_both_count(fitted):
    mean = np.full(SIZE, 5.0, np.float32)
    within, outside = mean.copy(), mean.copy()
    within[0] += 30 * SCALES[0]
    outside[-1] += 60 * SCALES[-1]
    assert fitted(mean[None]) > 0.99
    assert fitted(within[None]) < familiarity.UNFAMILIAR
    assert fitted(outside[None]) < familiarity.UNFAMILIAR


def test_few_validation_images_condemn_no_image():
    strange = np.full((1, SIZE), 1e4, np.float32)
    least = {count: Familiarity.fit(images(500, 0), images(count, 1))(strange) for count in (1, 20, 99, 100)}
    assert least == {1: 1 / 2, 20: 1 / 21, 99: 1 / 100, 100: 1 / 101}
    assert [count for count, value in least.items() if value < familiarity.UNFAMILIAR] == [
        familiarity.LEAST_VALIDATION
    ]


@pytest.mark.parametrize("training", [images(1, 0), images(3, 0), np.ones((20, SIZE), np.float32)])
def test_degenerate_training_images_still_give_a_rank(training):
    fitted = Familiarity.fit(training, training)
    assert fitted(training[:1]) == 1 or len(training) == 3
    assert fitted(np.full((1, SIZE), 1e6, np.float32)) == 1 / (len(training) + 1)
    assert fitted(np.full((1, SIZE), np.nan, np.float32)) == 1 / (len(training) + 1)


def test_the_pooled_feature_of_cells_is_that_of_the_whole_image():
    cells = np.random.default_rng(0).normal(size=(SIZE, 7, 7)).astype(np.float32)
    found = _regions(np.zeros((40, 60, 3), np.uint8), cells)
    np.testing.assert_allclose(pooled(found.features), found.features[0], atol=1e-6)


def test_it_is_stored_beside_the_weights_and_changes_no_digest(make_model, fitted, tmp_path):
    Captioner(make_model(), WORDS).save(str(tmp_path))
    old = Captioner.load(str(tmp_path))
    assert old.familiarity is None
    fitted.save(str(tmp_path))
    new = Captioner.load(str(tmp_path))
    assert new.familiarity is not None
    assert new.digest == old.digest
    assert new.familiarity.digest == fitted.digest
    strange = images(20, 3, shift=4)
    assert [new.familiarity(one[None]) for one in strange] == [fitted(one[None]) for one in strange]
    new.save(str(tmp_path / "again"))
    assert load_familiarity(str(tmp_path / "again")).digest == fitted.digest


def test_it_is_small():
    size, shown = 2048, familiarity.COMPONENTS
    big = by_hand(np.zeros(size), np.zeros((shown, size)), np.ones(shown), [1], np.zeros(5000))
    assert len(big._to_bytes()) < 320_000


def test_files_that_do_not_fit_are_named(make_model, fitted, tmp_path):
    Captioner(make_model(), WORDS).save(str(tmp_path))
    file = tmp_path / FILE
    arrays = {name: getattr(fitted, name) for name in familiarity._SHAPES}
    known = {"format": "glied-familiarity-1"}
    for data, message in (
        (b"no", "broken"),
        (safetensors.numpy.save(arrays), "format is None"),
        (safetensors.numpy.save({"mean": fitted.mean}, known), "it has no 'directions'"),
        (safetensors.numpy.save(arrays | {"mean": np.zeros(3, np.float32)}, known), "do not fit each other"),
        (safetensors.numpy.save(arrays | {"distances": np.zeros(0, np.float32)}, known), "do not fit"),
        (
            safetensors.numpy.save(arrays | {"rest": np.zeros((1, 1), np.float32)}, known),
            "rest has the shape",
        ),
    ):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=message):
            Captioner.load(str(tmp_path))
    other = images(300, 0, scales=np.ones(7))
    Familiarity.fit(other, other).save(str(tmp_path))
    with pytest.raises(UsageError, match="features of 7 values, the captioner reads 12"):
        Captioner.load(str(tmp_path))


def test_the_stored_arrays_are_what_the_class_has():
    assert set(familiarity._SHAPES) == {field.name for field in dataclasses.fields(Familiarity)}
