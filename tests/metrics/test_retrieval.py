import numpy as np
import pytest

from glied.metrics.retrieval import retrieval, text_to_image_ranks


def normalized(rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, 8))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def naive_rank(captions: np.ndarray, images: np.ndarray, row: int) -> int:
    similarities = [float(captions[row] @ image) for image in images]
    return 1 + sum(
        similarity >= similarities[row] for other, similarity in enumerate(similarities) if other != row
    )


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_ranks_equal_the_naive_ones_for_any_block_size(block_bytes: int) -> None:
    images = normalized(60, 0)
    captions = images + 0.6 * normalized(60, 1)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    ranks = text_to_image_ranks(captions, images, block_bytes=block_bytes)
    assert ranks.tolist() == [naive_rank(captions, images, row) for row in range(60)]
    assert 1 < ranks.mean() < 30


def test_figures_by_hand() -> None:
    """Angles in degrees: two captions rank their image first, the others second and third."""
    images = np.array([[np.cos(a), np.sin(a)] for a in np.radians([0, 30, 60, 90])])
    captions = np.array([[np.cos(a), np.sin(a)] for a in np.radians([1, 31, 80, 29])])
    assert text_to_image_ranks(captions, images).tolist() == [1, 1, 2, 4]
    figures = retrieval(captions, images)
    assert figures == {"R@1": 50, "R@5": 100, "R@10": 100, "median rank": 1.5, "mean rank": 2}


def test_ties_count_against_the_caption() -> None:
    same = np.repeat(normalized(1, 0), 12, axis=0)
    assert retrieval(same, same)["R@10"] == 0
    assert text_to_image_ranks(same, same).tolist() == [12] * 12
    twins = np.repeat(normalized(6, 0), 2, axis=0)
    assert text_to_image_ranks(twins, twins).tolist() == [2] * 12


def test_invalid_embeddings_are_refused() -> None:
    good = normalized(3, 0)
    with pytest.raises(ValueError, match="row 1 has length 2"):
        retrieval(good * [[1], [2], [1]], good)
    with pytest.raises(ValueError, match="images: row 2 has length nan"):
        retrieval(good, np.where(np.arange(3)[:, None] == 2, np.nan, good))
    with pytest.raises(ValueError, match="must have one shape"):
        retrieval(good, good[:2])
    with pytest.raises(ValueError, match="not \\[N, E\\]"):
        retrieval(good[0], good[0])
