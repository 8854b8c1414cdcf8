"""FineCapEval's word recall: how much a caption says of the background, objects and relations people named.

Two readings. `word_recall` compares Porter stems on both sides, word by word. `published_recall` repeats the
script published with the data (github.com/j-min/CLIP-Caption-Reward, tools/eval_finecapeval.py), so that
figures can be put beside the paper's (Cho et al. 2022, arXiv 2205.13115): there only the references are
lowercased and stemmed, and a word counts as found when it is a substring of the raw caption.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from glied.data.finecapeval import CRITERIA, PHRASE_SEPARATOR, Annotation
from glied.text.tokenizer import tokenize

Recall = dict[str, dict[str, float]]
"""Share of words found, from 0 to 1, by criterion and image."""

_BRACKET = re.compile(r"-[lr][rsc]b-")


def word_recall(captions: Mapping[str, str], annotations: Iterable[Annotation]) -> Recall:
    """Share of each phrase's words whose stem is among the caption's, averaged over the phrases of an image.

    The phrases of all its annotators count alike; rows with missing fields count with what they have. Phrases
    without words do not count, images without phrases of a criterion have no value there.

    Args:
        captions: caption by image.
        annotations: rows of these images.
    """
    found = {image: frozenset(stems(caption)) for image, caption in captions.items()}
    pooled: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in annotations:
        for criterion in CRITERIA:
            for words in map(stems, row.phrases(criterion)):
                if words:
                    share = sum(word in found[row.image] for word in words) / len(words)
                    pooled[criterion, row.image].append(share)
    return _means(pooled)


def published_recall(captions: Mapping[str, str], annotations: Iterable[Annotation]) -> Recall:
    """Recall as the published script counts it, for comparison with the paper only.

    Rows with a missing field are dropped; an image's remaining phrases are pooled; a phrase without words and
    an image without phrases count as 0. The script's tokenizer is used without its sentence splitter, which
    is a download: they differ only where a phrase holds several sentences.

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
    """The annotators' whole descriptions by image; images that have none are left out."""
    captions: dict[str, list[str]] = defaultdict(list)
    for row in annotations:
        if row.caption.strip():
            captions[row.image].append(row.caption)
    return dict(captions)


def stems(text: str) -> list[str]:
    """Porter stems of the words of a text, letters and digits only; brackets are no words."""
    tokens = (token for token in tokenize(text) if not _BRACKET.fullmatch(token))
    words = (re.sub(r"[\W_]+", "", stem(token)) for token in tokens)
    return [word for word in words if word]


@functools.lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The Porter stem (nltk's, as in the published script) of a word, in lower case."""
    return _porter()(word)


@functools.cache
def _porter() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer  # half a second that only FineCapEval pays

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
