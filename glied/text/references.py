"""Reference captions as the rewards read them, and the table of their document frequencies."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from glied.text.cider import DocumentFrequencies
from glied.text.ngrams import Packed
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import EOS, Vocabulary


class EncodedReferences:
    """The references of images as word ids, each with the end token; encoded when first asked for."""

    def __init__(self, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> None:
        """`captions` by image name; words that the vocabulary does not know become `<unk>`."""
        self.captions, self.vocabulary = captions, vocabulary
        self._encoded: dict[str, Packed] = {}

    def __call__(self, image: str) -> Packed:
        """The references of an image; raises KeyError where it has none."""
        found = self._encoded.get(image)
        if found is None:
            encode = self.vocabulary.encode
            found = Packed.of([[*encode(tokenize(text)), EOS] for text in self.captions[image]])
            self._encoded[image] = found
        return found


def references_digest(captions: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of all captions with their images' names, whatever their order; hexadecimal."""
    content = {image: list(texts) for image, texts in captions.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_frequencies(
    folder_uri: str, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary
) -> DocumentFrequencies:
    """Count the n-grams of training references, end token included, and store the table for `cider` rewards.

    Raises:
        UsageError: there are no captions.
    """
    references = EncodedReferences(captions, vocabulary)
    frequencies = DocumentFrequencies.of(references(image) for image in captions)
    frequencies.save(folder_uri, **_counted(captions, vocabulary))
    return frequencies


def load_frequencies(
    folder_uri: str, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary
) -> DocumentFrequencies:
    """Read the table of these training references.

    Raises:
        UsageError: it is missing, or was counted over other references or with another vocabulary.
    """
    return DocumentFrequencies.load(folder_uri, **_counted(captions, vocabulary))


def _counted(captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> dict[str, str]:
    return {"references": references_digest(captions), "vocabulary": vocabulary.digest}
