"""False variants of captions, which teach a CLIP what it would otherwise overlook, such as relations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glied import storage
from glied.config_checks import check_least
from glied.data import caption_files
from glied.data.pairs import IMAGE_KEYS, PairsConfig
from glied.errors import UsageError

Captions = Mapping[str, Sequence[str]]
"""False variants by true caption, or by a part of captions."""


@dataclass(frozen=True, kw_only=True)
class HardNegativesConfig:
    """False variants of the texts of pairs, with which the images are compared besides the texts."""

    train: str = ""
    """JSON lines with image, named as in train.pairs, and negatives: an object with a list of false variants
    of each true text or part of one; optionally kind, by which accuracy is reported. jobs/make_scenes.py
    writes such a file, hard_negatives.jsonl. Empty for none."""
    validation: str = ""
    """The same for validation.pairs: how often the true text is nearer to its image is reported by kind."""
    count: int = 1
    """Most false variants of a text in a step."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        check_least(self, 1, "count", key="hard_negatives")


@dataclass(frozen=True)
class FalseText:
    """A false variant of a text, and the number of its kind."""

    text: str
    kind: int


@dataclass(frozen=True)
class HardNegatives:
    """False variants of the captions of images.

    Attributes:
        kinds: names of the kinds of variants, sorted.
        by_image: for each image's URI the number of a kind, and its false captions.
    """

    kinds: tuple[str, ...] = ()
    by_image: Mapping[str, Sequence[tuple[int, Captions]]] = field(default_factory=dict)

    def variants(self, image: str, text: str) -> list[FalseText]:
        """All false variants of a text: a caption of the file that it contains is replaced by a false one."""
        found = []
        for kind, captions in self.by_image.get(image, ()):
            for caption, others in captions.items():
                place = _place(caption, text)
                if place is not None:
                    before, after = text[:place], text[place + len(caption) :]
                    found += [FalseText(f"{before}{other}{after}", kind) for other in others]
        return found

    def words(self) -> set[str]:
        """All words of the false captions."""
        captions = (captions for several in self.by_image.values() for _, captions in several)
        texts = (text for one in captions for others in one.values() for text in others)
        return {word for text in texts for word in text.split()}


def load_hard_negatives(uri: str, pairs: PairsConfig) -> HardNegatives:
    """Read the false captions of a file; nothing without a file.

    Raises:
        UsageError: the file is missing or malformed, or names no image of the pairs.
    """
    if not uri:
        return HardNegatives()
    lines = [(pairs.uri_of(image), kind, captions) for image, kind, captions in _lines(uri)]
    kinds = tuple(sorted({kind for _, kind, _ in lines}))
    known = {pair.image for pair in pairs.all}
    by_image: dict[str, list[tuple[int, Captions]]] = {}
    for image, kind, captions in lines:
        if image in known:
            by_image.setdefault(image, []).append((kinds.index(kind), captions))
    if not by_image:
        raise UsageError(f"{uri} names no image of {pairs.pairs}: images are named as there")
    return HardNegatives(kinds, by_image)


def _place(caption: str, text: str) -> int | None:
    """Where `caption` stands in `text` as whole words; None if it does not."""
    place = text.find(caption)
    while place >= 0:
        around = text[place - 1 : place] + text[place + len(caption) :][:1]
        if not any(character.isalnum() for character in around):
            return place
        place = text.find(caption, place + 1)
    return None


def _lines(uri: str) -> Iterator[tuple[str, str, Captions]]:
    """Image, kind and captions of each line."""
    try:
        text = caption_files.decoded(storage.read_bytes(uri), uri)
    except FileNotFoundError as error:
        raise UsageError(f"no hard negatives at {uri}: JSON lines are expected") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{uri}, line {number}"
            yield _entry(caption_files.load_json(line, where), where)


def _entry(item: Any, where: str) -> tuple[str, str, Captions]:
    keys = item if isinstance(item, dict) else {}
    image = next((keys[key] for key in IMAGE_KEYS if key in keys), None)
    captions: Any = keys.get("negatives")
    kind = keys.get("kind", "any")
    if not isinstance(image, str) or not image or not isinstance(kind, str) or not _is_captions(captions):
        raise UsageError(
            f'{where}: expected "image" and "negatives", an object with a list of false texts for each true '
            f"text, got {caption_files.short(item)}"
        )
    return image, kind, captions


def _is_captions(value: Any) -> bool:
    return isinstance(value, dict) and all(
        caption.strip()
        and isinstance(others, list)
        and all(isinstance(one, str) and one.strip() for one in others)
        for caption, others in value.items()
    )
