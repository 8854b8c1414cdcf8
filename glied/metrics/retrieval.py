"""Text-to-image retrieval metrics: the rank of each caption's own image among all images (arXiv
2205.13115)."""

import numpy as np
import numpy.typing as npt

RECALLED = (1, 5, 10)
"""The values of k in R@k."""
TIE = 1e-6
"""Similarities closer than this count as equal, since the same product may round differently in another
column."""


def retrieval(captions: npt.ArrayLike, images: npt.ArrayLike) -> dict[str, float]:
    """Compute R@1, R@5, R@10 (x 100), median and mean rank of each caption's own image.

    Args:
        captions: L2-normalized embeddings [N, E]; row i is the caption of image i.
        images: L2-normalized embeddings [N, E].

    Raises:
        ValueError: as `text_to_image_ranks`.
    """
    ranks = text_to_image_ranks(captions, images)
    return {f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in RECALLED} | summary(ranks)


def summary(ranks: npt.NDArray[np.int64]) -> dict[str, float]:
    """Compute median and mean of ranks."""
    return {"median rank": float(np.median(ranks)), "mean rank": float(np.mean(ranks))}


def text_to_image_ranks(
    captions: npt.ArrayLike, images: npt.ArrayLike, *, block_bytes: int = 64 << 20
) -> npt.NDArray[np.int64]:
    """Compute the rank (1 is best) of each caption's own image among all images by cosine similarity.

    Ties count against the caption: images as similar as its own rank before it, so that identical captions or
    embeddings rank last, not first.

    Args:
        captions: L2-normalized embeddings [N, E]; row i is the caption of image i.
        images: L2-normalized embeddings [N, E].
        block_bytes: bytes of similarities to compute at a time; with 100,000 images, 64 MiB are 167 captions.

    Raises:
        ValueError: the shapes differ, or an embedding is not normalized or not finite.
    """
    texts, pictures = _embeddings("captions", captions), _embeddings("images", images)
    if texts.shape != pictures.shape:
        raise ValueError(f"captions {texts.shape} and images {pictures.shape} must have one shape [N, E]")
    count = len(texts)
    rows = max(1, block_bytes // (4 * count))
    ranks = np.empty(count, dtype=np.int64)
    for start in range(0, count, rows):
        similarity = texts[start : start + rows] @ pictures.T  # [rows, N]
        own = similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))]  # [rows]
        ranks[start : start + rows] = np.count_nonzero(similarity >= (own - TIE)[:, None], axis=1)
    return ranks


def _embeddings(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2 or not len(array):
        raise ValueError(f"{name}: shape {array.shape} is not [N, E] with N > 0")
    off = np.abs(np.linalg.norm(array, axis=1) - 1)
    if not np.all(off < 1e-2):  # also rejects NaN; half precision deviates by up to 1e-3
        row = int(np.argmax(~(off < 1e-2)))
        raise ValueError(f"{name}: row {row} has length {np.linalg.norm(array[row])}, expected 1")
    return array
