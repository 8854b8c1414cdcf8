import pytest

from glied.teach import choosing

CAPTIONS = {
    "1.jpg": [("a dog", 0.5), ("a brown dog", 0.9), ("a cat", 0.1)],
    "2.jpg": [("grass", 0.2), ("a field", 0.2)],
    "3.jpg": [("nothing", 0.05)],
    "4.jpg": [],
}


def test_captions_with_the_best_scores_are_kept_in_order() -> None:
    assert choosing.best(CAPTIONS, keep=2, drop=0) == {
        "1.jpg": ["a brown dog", "a dog"], "2.jpg": ["grass", "a field"], "3.jpg": ["nothing"],
    }  # fmt: skip


@pytest.mark.parametrize(("drop", "kept"), [(0.3, 3), (0.4, 2), (0.99, 1)])
def test_images_whose_best_caption_has_a_low_score_are_left_out(drop, kept) -> None:
    assert [*choosing.best(CAPTIONS, keep=1, drop=drop)] == ["1.jpg", "2.jpg", "3.jpg"][:kept]
