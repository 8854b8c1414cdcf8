"""FineCapEval's word recall: the share of annotated background, object and relation words in a caption.

There are two versions. `word_recall` compares Porter stems of both sides, word by word. `published_recall`
reproduces the script published with the data (github.com/j-min/CLIP-Caption-Reward,
tools/eval_finecapeval.py), for comparison with the paper (Cho et al. 2022, arXiv 2205.13115). The script
lowercases and stems only the references, and counts a word as recalled if it is a substring of the raw
caption.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from glied.data.finecapeval import CRITERIA, PHRASE_SEPARATOR, Annotation
from glied.text.tokenizer import tokenize

Recall = dict[str, dict[str, float]]
"""Share of recalled words, from 0 to 1, by criterion and image."""

_BRACKET = re.compile(r"-[lr][rsc]b-")


def word_recall(captions: Mapping[str, str], annotations: Iterable[Annotation]) -> Recall:
    """Compute the share of words whose stem is in the caption, per phrase, averaged over an image's phrases.

    Phrases of all annotators have equal weight, and rows with missing fields count with the fields they have.
    Phrases without words are ignored; images without phrases of a criterion have no value for it.

    Args:
        captions: caption by image.
        annotations: rows of these images.
    """
    caption_stems = {image: frozenset(stems(caption)) for image, caption in captions.items()}
    pooled: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in annotations:
        for criterion in CRITERIA:
            for words in map(stems, row.phrases(criterion)):
                if words:
                    share = sum(word in caption_stems[row.image] for word in words) / len(words)
                    pooled[criterion, row.image].append(share)
    return _means(pooled)


def published_recall(captions: Mapping[str, str], annotations: Iterable[Annotation]) -> Recall:
    """Compute the recall of the published script, for comparison with the paper only.

    Rows with a missing field are dropped and the remaining phrases of an image are pooled; a phrase without
    words and an image without phrases count as 0. The script's tokenizer is used without its sentence
    splitter, which would have to be downloaded; the results differ only for phrases of several sentences.

    Args:
        captions: caption by image, raw.
        annotations: rows of these images.
    """
    pooled: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in annotations:
        if not row.complete:
            continue
        for criterion in CRITERIA:
            scores = pooled[criterion, row.image]
            for phrase in row.field(criterion).lower().split(PHRASE_SEPARATOR):
                if len(phrase) > 1:
                    words = _published_words(phrase)
                    scores.append(sum(word in captions[row.image] for word in words) / max(len(words), 1))
    return _means(pooled)


def overall_captions(annotations: Iterable[Annotation]) -> dict[str, list[str]]:
    """Collect the annotators' whole descriptions by image; omits images without any."""
    captions: dict[str, list[str]] = defaultdict(list)
    for row in annotations:
        if row.caption.strip():
            captions[row.image].append(row.caption)
    return dict(captions)


def stems(text: str) -> list[str]:
    """Return the Porter stems of the words of a text, letters and digits only, without bracket tokens."""
    tokens = (token for token in tokenize(text) if not _BRACKET.fullmatch(token))
    words = (re.sub(r"[\W_]+", "", stem(token)) for token in tokens)
    return [word for word in words if word]


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Return the lower-case Porter stem of a word, by nltk as in the published script."""
    return _porter()(word)


@functools.cache
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer  # takes half a second to import

    return PorterStemmer().stem


@functools.cache
def _treebank() -> Callable[[str], list[str]]:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer().tokenize


def _published_words(phrase: str) -> list[str]:
    words = (re.sub(r"[^a-zA-Z0-9]", "", stem(token)) for token in _treebank()(phrase))
    return [word for word in words if word]


def _means(pooled: Mapping[tuple[str, str], Sequence[float]]) -> Recall:
    recall: Recall = {criterion: {} for criterion in CRITERIA}
    for (criterion, image), scores in pooled.items():
        recall[criterion][image] = sum(scores) / len(scores) if scores else 0.0
    return recall
