"""Words: the table between words and ids, and lists of words."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from glied import storage
from glied.errors import UsageError
from glied.text.tokenizer import tokenize

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def load_words(uri: str) -> list[str]:
    """The words of a vocabulary.json or attributes.json that jobs/prepare_coco.py wrote.

    Raises:
        UsageError: there is no such file, or it is of another form.
    """
    try:
        words = json.loads(storage.read_bytes(uri))["words"]
    except FileNotFoundError as error:
        raise UsageError(f"no word list at {uri}: jobs/prepare_coco.py writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{uri} is no word list, {{"words": [...]}}: {error}') from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f'{uri} is no word list: "words" must be a list of words')
    return words


def image_counts(captions: Iterable[Sequence[str]]) -> Counter[str]:
    """In how many images' captions each word stands, given each image's; special tokens are no words."""
    counts = Counter(word for texts in captions for word in {w for text in texts for w in tokenize(text)})
    return Counter({word: count for word, count in counts.items() if word not in SPECIAL})


def by_count(counts: Mapping[str, int]) -> list[str]:
    """Words by how often they were counted, the commonest first, ties by alphabet."""
    return sorted(counts, key=lambda word: (-counts[word], word))


class Vocabulary:
    """The table between words and ids; ids 0 to 3 are `<pad>`, `<bos>`, `<eos>` and `<unk>`."""

    def __init__(self, words: Sequence[str]) -> None:
        """Give ids to `words` in order, after the special tokens.

        Raises:
            UsageError: a word stands twice or is a special token.
        """
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        self.ids = {word: index for index, word in enumerate(self.words)}
        self._of_captions = {word: index for word, index in self.ids.items() if word not in SPECIAL}
        if len(self.ids) != len(self.words):
            raise UsageError("vocabulary: a word stands twice")

    @classmethod
    def from_captions(cls, captions: Iterable[str], minimum_count: int = 5) -> "Vocabulary":
        """The words that occur at least `minimum_count` times, the commonest first, ties by alphabet."""
        counts = Counter(token for caption in captions for token in tokenize(caption))
        kept = {word: n for word, n in counts.items() if n >= minimum_count and word not in SPECIAL}
        return cls(by_count(kept))

    def __len__(self) -> int:
        """The number of ids, the special ones included."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        """Whether `word` has an id of its own."""
        return word in self.ids

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens, `<unk>` for unknown ones and special ones, which mean nothing in a caption; adds no
        begin or end."""
        return [self._of_captions.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of ids up to the first `<eos>`; `<pad>` and `<bos>` are left out."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self.words[index])
        return words

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON form, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> list[str]:
        """The words without the special ones, in the order of their ids."""
        return list(self.words[len(SPECIAL) :])

    @classmethod
    def from_json(cls, words: Sequence[str], digest: str | None = None) -> "Vocabulary":
        """Rebuild a vocabulary from `to_json`.

        Raises:
            UsageError: the words do not have the expected `digest`.
        """
        vocabulary = cls(words)
        if digest is not None and vocabulary.digest != digest:
            raise UsageError(f"vocabulary digest is {vocabulary.digest[:12]}, expected {digest[:12]}")
        return vocabulary
