"""A captioner that knows more words: its weights, and rows for words that it has not learned."""

from collections.abc import Iterable

import torch

from glied.captioner.architectures import build_model
from glied.captioner.captioner import Captioner
from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.text.vocabulary import Vocabulary


def extended_vocabulary(known: Vocabulary, words: Iterable[str]) -> Vocabulary:
    """The words of a vocabulary, with the same ids, then those of `words` that it lacks, in their order."""
    return Vocabulary([*known.to_json(), *(word for word in dict.fromkeys(words) if word not in known)])


def extended_model(
    captioner: Captioner, vocabulary: Vocabulary, config: CaptionerConfig | None = None
) -> CaptioningModel:
    """A model with a captioner's weights and the rows of new words as an untrained model has them.

    Args:
        captioner: whose words are the first of `vocabulary`.
        vocabulary: of the new model.
        config: of the new model, which may differ in dropout; by default the captioner's.

    Raises:
        ValueError: the captioner's words are not the first ones, or the config is that of another model.
    """
    known = captioner.vocabulary.words
    if vocabulary.words[: len(known)] != known:
        raise ValueError("the captioner's words must be the first of the vocabulary")
    model = build_model(
        config or captioner.model.config,
        feature_size=captioner.model.feature_size,
        vocabulary_size=len(vocabulary),
    )
    state, trained = model.state_dict(), captioner.model.state_dict()
    if state.keys() != trained.keys():
        raise ValueError("the config is that of another model than the captioner's")
    with torch.no_grad():
        for name, values in trained.items():
            state[name][: len(values)] = values  # only what has a row for each word has more rows
    model.load_state_dict(state)
    return model
