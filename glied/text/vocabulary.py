"""The vocabulary, which maps words to ids, and word lists."""

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
    """Load the words of a vocabulary.json or attributes.json that jobs/prepare_coco.py wrote.

    Raises:
        UsageError: there is no such file, or it has another format.
    """
    try:
        words = json.loads(storage.read_bytes(uri))["words"]
    except FileNotFoundError as error:
        raise UsageError(f"no word list at {uri}: jobs/prepare_coco.py writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{uri} is not a word list, {{"words": [...]}}: {error}') from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f'{uri} is not a word list: "words" must be a list of words')
    return words


def image_counts(captions: Iterable[Sequence[str]]) -> Counter[str]:
    """Count the images whose captions contain each word, given each image's captions; no special tokens."""
    counts = Counter(word for texts in captions for word in {w for text in texts for w in tokenize(text)})
    return Counter({word: count for word, count in counts.items() if word not in SPECIAL})


def by_count(counts: Mapping[str, int]) -> list[str]:
    """Sort words by count, most frequent first, ties alphabetically."""
    return sorted(counts, key=lambda word: (-counts[word], word))


class Vocabulary:
    """A mapping between words and ids; ids 0 to 3 are `<pad>`, `<bos>`, `<eos>` and `<unk>`."""

    def __init__(self, words: Sequence[str]) -> None:
        """Assign ids to `words` in order, after the special tokens.

        Raises:
            UsageError: a word occurs twice or is a special token.
        """
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        self.ids = {word: index for index, word in enumerate(self.words)}
        self._of_captions = {word: index for word, index in self.ids.items() if word not in SPECIAL}
        if len(self.ids) != len(self.words):
            raise UsageError("vocabulary: a word occurs twice")

    @classmethod
    def from_captions(cls, captions: Iterable[str], minimum_count: int = 5) -> "Vocabulary":
        """Take the words that occur `minimum_count` times or more, most frequent first, ties by alphabet."""
        counts = Counter(token for caption in captions for token in tokenize(caption))
        kept = {word: n for word, n in counts.items() if n >= minimum_count and word not in SPECIAL}
        return cls(by_count(kept))

    def __len__(self) -> int:
        """The number of ids, including the special tokens."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        """Whether `word` has its own id."""
        return word in self.ids

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens, without begin and end tokens.

        Unknown tokens, and the names of special tokens, which mean nothing in a caption, become `<unk>`.
        """
        return [self._of_captions.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ids up to the first `<eos>`, without `<pad>` and `<bos>`."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self.words[index])
        return words

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the JSON form."""
        return hashlib.sha256(json.dumps(self.to_json(), ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> list[str]:
        """Return the words in the order of their ids, without the special tokens."""
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
