import numpy as np
import pytest

from glied.errors import UsageError
from glied.vision.crops import CopyConfig, CropConfig, draw_crop
from glied.vision.images import Picture


def gradient(width: int, height: int) -> np.ndarray:
    """Return an image whose red encodes the column and green the row."""
    rows, columns = np.indices((height, width))
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def test_crops_stay_inside_and_vary():
    config = CropConfig(smallest=0.5, stretch=1.5)
    drawn = [draw_crop((200, 100), config, np.random.default_rng(seed)) for seed in range(200)]
    areas = []
    for (left, top, right, bottom), _ in drawn:
        assert 0 <= left < right <= 200 + 1e-9
        assert 0 <= top < bottom <= 100 + 1e-9
        areas.append((right - left) * (bottom - top) / 20_000)
    assert 0.45 < min(areas) < 0.6
    assert 0.95 < max(areas) <= 1
    assert 60 < sum(mirrored for _, mirrored in drawn) < 140
    plain = [
        draw_crop((9, 9), CropConfig(smallest=1, stretch=1, flip=False), np.random.default_rng(s))
        for s in range(9)
    ]
    assert all(box == (0, 0, 9, 9) and not mirrored for box, mirrored in plain)


def test_a_copy_is_a_part_of_its_image():
    image = gradient(200, 100)
    mirrored = 0
    for number in range(40):
        copy = CopyConfig(seed=1, smallest=0.5)(f"{number}.jpg", Picture(image, 400, 200)).pixels
        columns, rows = copy[0, :, 0].astype(int), copy[:, 0, 1].astype(int)
        turned = columns[0] > columns[-1]
        mirrored += turned
        assert (np.diff(columns) == (-1 if turned else 1)).all()
        assert (np.diff(rows) == 1).all()
        assert copy.flags.c_contiguous
    assert 8 < mirrored < 32


def test_copies_depend_on_seed_and_name_alone():
    picture = Picture(gradient(200, 100), 400, 200)
    first = CopyConfig(seed=1)("a.jpg", picture)
    again = CopyConfig(seed=1)("a.jpg", picture)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert (first.width, first.height) == (2 * first.pixels.shape[1], 2 * first.pixels.shape[0])
    for seed, name in ((2, "a.jpg"), (1, "b.jpg")):
        other = CopyConfig(seed=seed)(name, picture).pixels
        assert other.shape != first.pixels.shape or (other != first.pixels).any()
    assert CopyConfig(seed=1)("a", Picture(gradient(1, 1), 1, 1)).pixels.shape == (1, 1, 3)


def test_ranges():
    for change in ({"smallest": 0.0}, {"smallest": 1.1}, {"stretch": 0.9}):
        with pytest.raises(UsageError, match="smallest"):
            CropConfig(**change)
