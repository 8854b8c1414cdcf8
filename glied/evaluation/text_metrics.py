"""CIDEr, BLEU and ROUGE-L of captions, computed by pycocoevalcap on our tokens.

The tokenizer equals the PTB tokenizer of the COCO tools, so no Java is needed and the values are theirs.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from glied.captioner.vocabulary import tokenize
from glied.errors import UsageError


def cider(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """Corpus CIDEr-D x 100 (Vedantam et al. 2015), document frequencies from these references.

    Args:
        hypotheses: caption by image id.
        references: reference captions by image id; ids without a hypothesis do not count.
    """
    tokens, reference_tokens = _tokenized(hypotheses, references)
    return 100 * float(Cider().compute_score(reference_tokens, tokens)[0])


def text_metrics(hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """CIDEr, BLEU-1..4 and ROUGE-L, each x 100, as pycocoevalcap computes them.

    Raises:
        UsageError: a hypothesis has no references, or there is none at all.
    """
    tokens, reference_tokens = _tokenized(hypotheses, references)
    with contextlib.redirect_stdout(io.StringIO()):  # Bleu prints its lengths
        bleu, _ = Bleu(4).compute_score(reference_tokens, tokens, verbose=0)
    rouge, _ = Rouge().compute_score(reference_tokens, tokens)
    scores, _ = Cider().compute_score(reference_tokens, tokens)
    metrics = {"CIDEr": scores, **{f"BLEU-{n}": value for n, value in enumerate(bleu, 1)}, "ROUGE-L": rouge}
    return {name: 100 * float(value) for name, value in metrics.items()}


def cider_by_image(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """CIDEr-D x 100 of each image's caption, by image id."""
    tokens, reference_tokens = _tokenized(hypotheses, references)
    _, scores = Cider().compute_score(reference_tokens, tokens)
    return {name: 100 * float(score) for name, score in zip(tokens, scores, strict=True)}


def _tokenized(
    hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Both sides as the scorers want them: tokens joined by spaces, ids in the same order."""
    if not hypotheses:
        raise UsageError("no captions to score")
    missing = [name for name in hypotheses if not references.get(name)]
    if missing:
        raise UsageError(f"{len(missing)} captions have no references: {', '.join(map(str, missing[:5]))}")
    tokens = {name: [" ".join(tokenize(text))] for name, text in hypotheses.items()}
    reference_tokens = {name: [" ".join(tokenize(text)) for text in references[name]] for name in tokens}
    return tokens, reference_tokens
