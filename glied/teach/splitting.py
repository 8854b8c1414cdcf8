"""The images with captions, split for training, validation and test."""

from collections import Counter
from collections.abc import Mapping, Sequence

from glied.data import coco
from glied.data.coco import CaptionedImage
from glied.errors import UsageError
from glied.metrics.text_metrics import cider
from glied.teach.images import TaughtImage
from glied.teach.schedule import DataSize, ScheduleConfig, held_out
from glied.text.tokenizer import tokenize


def split(
    images: Sequence[TaughtImage], schedule: ScheduleConfig, seed: int
) -> dict[str, list[CaptionedImage]]:
    """Train, val and test, chosen by name and seed as jobs/prepare_coco.py does.

    Raises:
        UsageError: nothing would be left to train on.
    """
    validation, test = held_out(len(images), schedule)
    captioned = [CaptionedImage(one.id, one.id, one.all_captions) for one in images]
    return coco.split_images(captioned, val=validation, test=test, seed=seed, named={})


def check_varied(splits: Mapping[str, Sequence[CaptionedImage]]) -> None:
    """Refuse captions that are all the same.

    Raises:
        UsageError: naming the caption.
    """
    texts = {
        " ".join(tokenize(text)) for images in splits.values() for one in images for text in one.captions
    }
    if len(texts) == 1:
        raise UsageError(f"every image has the caption {texts.pop()!r}: there is nothing to learn from it")


def commonest_caption(images: Sequence[CaptionedImage]) -> str:
    """The caption that stands most often; of several, the one whose words are commonest.

    It is what a captioner that looks at no image would say.
    """
    texts = Counter(" ".join(tokenize(text)) for one in images for text in one.captions)
    words = Counter(word for text, count in texts.items() for word in text.split() * count)
    total = sum(words.values())

    def typical(text: str) -> float:
        known = text.split()
        return sum(words[word] for word in known) / (total * max(1, len(known)))

    return max(texts, key=lambda text: (texts[text], typical(text), text))


def cider_on_all(caption: str, references: Mapping[str, Sequence[str]]) -> float:
    """CIDEr x 100 of one caption on all images, by their references."""
    return cider(dict.fromkeys(references, caption), references)


def size_of(splits: dict[str, list[CaptionedImage]]) -> DataSize:
    """What the schedule follows from."""
    lengths = sorted(len(tokenize(text)) for one in splits["train"] for text in one.captions)
    return DataSize(
        images=len(splits["train"]),
        captions=len(lengths),
        validation=len(splits["val"]),
        length=lengths[(len(lengths) * 95 - 1) // 100],
    )
