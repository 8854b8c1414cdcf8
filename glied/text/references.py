"""Encoded reference captions for the rewards, and their table of document frequencies."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from glied.text.cider import DocumentFrequencies
from glied.text.ngrams import Packed
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import EOS, Vocabulary


class EncodedReferences:
    """References of images as word ids with the end token; each image is encoded on first use."""

    def __init__(self, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> None:
        """Take `captions` by image name; words outside the vocabulary become `<unk>`."""
        self.captions, self.vocabulary = captions, vocabulary
        self._encoded: dict[str, Packed] = {}

    def __call__(self, image: str) -> Packed:
        """Return the references of an image; raises KeyError if it has none."""
        encoded = self._encoded.get(image)
        if encoded is None:
            encode = self.vocabulary.encode
            encoded = Packed.of([[*encode(tokenize(text)), EOS] for text in self.captions[image]])
            self._encoded[image] = encoded
        return encoded


def references_digest(captions: Mapping[str, Sequence[str]]) -> str:
    """Return the hexadecimal SHA-256 of all captions and image names, independent of the image order."""
    content = {image: list(texts) for image, texts in captions.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_frequencies(
    folder_uri: str, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary
) -> DocumentFrequencies:
    """Count the n-grams of the training references, with end tokens, and store the table for `cider` rewards.

    Raises:
        UsageError: there are no captions.
    """
    references = EncodedReferences(captions, vocabulary)
    frequencies = DocumentFrequencies.of(references(image) for image in captions)
    frequencies.save(folder_uri, **_digests(captions, vocabulary))
    return frequencies


def load_frequencies(
    folder_uri: str, captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary
) -> DocumentFrequencies:
    """Load the table of these training references.

    Raises:
        UsageError: it is missing, or was counted over other references or with another vocabulary.
    """
    return DocumentFrequencies.load(folder_uri, **_digests(captions, vocabulary))


def _digests(captions: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> dict[str, str]:
    return {"references": references_digest(captions), "vocabulary": vocabulary.digest}
