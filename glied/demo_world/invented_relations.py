"""Which relations captions invent: relations that are false, and that no true caption states of such objects.

A grammar head reads text alone. It can learn that nobody rides a vase, but not that this dog stands on the
other side: most false relations could be true of another scene, and must not count as bad language.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from glied.demo_world.scene_precision import SceneFacts, StatedRelation, mentions, relations
from glied.text.tokenizer import tokenize

Known = tuple[str, frozenset[str], str]
"""Kind, possible meanings of the words between, kind."""


class InventedRelations:
    """Finds the invented relations of captions."""

    def __init__(self, scenes: Iterable[Mapping[str, Any]]) -> None:
        """Learn what the true captions of `scenes`, lines of annotations.jsonl, state."""
        self._scenes = {scene["file_name"]: scene for scene in scenes}
        texts = (text for one in self._scenes.values() for text in (*one["captions"], one["description"]))
        self._known = {known for text in texts for one in _stated(text) for known in _kinds(one)}

    def __call__(self, file_name: str, caption: str) -> bool:
        """Whether a caption of an image invents a relation; False for images that are no scenes."""
        scene = self._scenes.get(file_name)
        if scene is None:
            return False
        unheard = [one for one in _stated(caption) if self._known.isdisjoint(_kinds(one))]
        return bool(unheard) and not all(map(SceneFacts.of(scene).holds, unheard))


def _stated(text: str) -> list[StatedRelation]:
    words = tokenize(text)
    return list(relations(words, mentions(words)))


def _kinds(stated: StatedRelation) -> list[Known]:
    """A stated relation by the kinds that it may be about."""
    pairs = product(stated.subject.kinds, stated.partner.kinds)
    return [(subject, stated.relations, partner) for subject, partner in pairs]
