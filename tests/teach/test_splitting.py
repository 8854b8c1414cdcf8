import pytest

from glied.data.coco import CaptionedImage
from glied.errors import UsageError
from glied.teach.images import TaughtImage
from glied.teach.schedule import ScheduleConfig
from glied.teach.splitting import check_varied, commonest_caption, size_of, split


def test_split_has_every_image_once_and_depends_on_the_seed() -> None:
    images = [TaughtImage(f"{number}.jpg", "", ["a dog"]) for number in range(40)]
    splits = split(images, ScheduleConfig(), 0)
    assert {name: len(found) for name, found in splits.items()} == {"train": 24, "val": 8, "test": 8}
    names = [one.file_name for found in splits.values() for one in found]
    assert sorted(names) == sorted(one.id for one in images)
    assert split(images, ScheduleConfig(), 1)["test"] != splits["test"]
    with pytest.raises(UsageError, match="10 images with captions leave none"):
        split(images[:10], ScheduleConfig(), 0)


def test_size_counts_training_captions_and_their_words() -> None:
    train = [
        CaptionedImage(1, "1.jpg", ["a dog runs", "a dog"]),
        CaptionedImage(2, "2.jpg", ["one two three four"]),
    ]
    size = size_of({"train": train, "val": train[:1], "test": []})
    assert (size.images, size.captions, size.validation, size.length) == (2, 3, 1, 4)


@pytest.mark.parametrize(
    ("captions", "commonest"),
    [
        (["a cat", "a dog runs", "A dog runs."], "a dog runs"),
        (["a dog on grass", "a dog on sand", "zebra", "a dog"], "a dog"),
    ],
)
def test_chosen_caption_is_the_most_frequent_or_most_typical(captions, commonest) -> None:
    assert commonest_caption([CaptionedImage(1, "1.jpg", captions)]) == commonest


def test_captions_that_are_all_the_same_are_refused() -> None:
    images = [
        CaptionedImage(number, f"{number}.jpg", [text]) for number, text in enumerate(["A dog.", "a dog"])
    ]
    with pytest.raises(UsageError, match="every image has the caption 'a dog': there is nothing to learn"):
        check_varied({"train": images[:1], "val": images[1:]})
    check_varied({"train": images, "val": [CaptionedImage(3, "3.jpg", ["a cat"])]})
