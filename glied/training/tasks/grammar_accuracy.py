"""How accurately a grammar head distinguishes correct captions from broken ones."""

from torch import Tensor

from glied.clip.grammar_head import CORRUPTIONS

CORRECT = 0
"""Number of the kind of a correct caption."""
BAD = 1 + 2 * len(CORRUPTIONS)
"""Number of the kind of a bad caption of a captioner."""
LENGTHS = ((1, 7), (8, 12), (13, 20), (21, 99))
"""Ranges of the number of words, for each of which accuracy is reported."""


def accuracies(right: Tensor, kinds: Tensor, lengths: Tensor) -> dict[str, float]:
    """How well correct and broken captions are distinguished, in percent; chance is 50.

    Args:
        right: [n] bool, whether the head was right.
        kinds: [n], as in `GrammarBatch`.
        lengths: [n], words.

    Returns:
        "accuracy": the lowest over corruptions. "accuracy_<corruption>", "accuracy_words_<from>_<to>": means
        of the accuracy on correct captions and on broken ones, each weighing one half. "correct",
        "correct_words_...": the accuracy on correct captions alone. "once_<corruption>": as the first, where
        the corruption was drawn once; where that leaves correct captions, 100 cannot be reached.
        "bad_captions": as the first, for the captioner's own.
    """
    correct, apart = kinds == CORRECT, kinds > len(CORRUPTIONS)
    figures: dict[str, float] = {}
    on_correct = _percent(right[correct])
    for number, kind in enumerate(CORRUPTIONS, 1):
        figures[f"accuracy_{kind}"] = (on_correct + _percent(right[kinds == number])) / 2
    worst = {"accuracy": min(figures.values()), **figures, "correct": on_correct}
    for number, kind in enumerate(CORRUPTIONS, 1 + len(CORRUPTIONS)):
        if (kinds == number).any():
            worst[f"once_{kind}"] = (on_correct + _percent(right[kinds == number])) / 2
    if (kinds == BAD).any():
        worst["bad_captions"] = (on_correct + _percent(right[kinds == BAD])) / 2
    for first, last in LENGTHS:
        inside = (lengths >= first) & (lengths <= last) & ~apart
        if (inside & correct).any() and (inside & ~correct).any():
            good, bad = _percent(right[inside & correct]), _percent(right[inside & ~correct])
            worst[f"accuracy_words_{first}_{last}"] = (good + bad) / 2
            worst[f"correct_words_{first}_{last}"] = good
    return worst


def _percent(right: Tensor) -> float:
    return 100 * float(right.float().mean())
