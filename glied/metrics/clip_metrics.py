"""CLIP metrics of captions: CLIP-S, RefCLIP-S, text-to-image retrieval, p(grammatical)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glied import storage
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import REQUIRED, GrammarScorer, has_grammar, load_grammar, unfit
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score, pad_references, ref_clip_score_metric
from glied.errors import ImageError, UsageError
from glied.metrics.bootstrap import Array
from glied.metrics.retrieval import RECALLED, summary, text_to_image_ranks
from glied.vision.images import decode

_CHUNK = 256
_UNKNOWN_SHARE = 0.25
"""Share of unknown words above which texts are refused. The CLIP of the photographs lacks 0.9 % of the words
of Flickr8k's validation captions; the CLIP of the scenes, which is not for them, 45 %."""
_EXAMPLES = 10


@dataclass(frozen=True)
class ClipFigures:
    """The CLIP metrics of one captions file.

    Attributes:
        values: all figures; scores, recalls and probabilities are x 100.
        by_image: per-image values of those that are means over images, [N] each in the order of the captions.
    """

    values: dict[str, float]
    by_image: dict[str, Array]


class ClipMetrics:
    """Scores captions with one CLIP; encodes the images once for all captions files."""

    def __init__(self, config: ClipConfig, images: str) -> None:
        """Load the CLIP, and its grammar head if it has one.

        Args:
            config: names the CLIP.
            images: folder (path or URI) of the images.

        Raises:
            UsageError: as `load_clip` and `load_grammar`.
        """
        self.grammar: GrammarScorer | None = load_grammar(config) if has_grammar(config) else None
        self.clip = self.grammar.clip if self.grammar else load_clip(config)
        self._config, self._folder = config, images
        self._encoded: dict[str, Tensor] = {}
        self._encoded_references: dict[str, Tensor] = {}
        self._notes: dict[str, None] = {}

    def __call__(
        self, captions: Mapping[str, str], references: Mapping[str, Sequence[str]] | None = None
    ) -> ClipFigures:
        """Score one caption per image; empty captions score 0.

        Words that the CLIP does not know are left out; `notes` counts them.

        Args:
            captions: caption by image name.
            references: references by image name; without them RefCLIP-S is omitted.

        Raises:
            UsageError: an image is missing or broken, or the CLIP does not know the language of the texts.
        """
        names, texts = list(captions), self._known_parts("captions", list(captions.values()))
        if references is not None:
            references = self._known_references({name: references[name] for name in names})
        images = self._images(names)
        grammatical, vectors = self._encode_captions(texts)
        has_caption = torch.tensor([bool(text.strip()) for text in texts])
        ranks = text_to_image_ranks(vectors.numpy(), images.numpy())
        by_image = {"CLIP-S": _percent(clip_score(images, vectors) * has_caption)}
        if references is not None:
            encoded, mask = self._references(references)
            scores = ref_clip_score_metric(images, vectors, encoded, mask)
            by_image["RefCLIP-S"] = _percent(scores * has_caption)
        by_image |= {f"R@{k}": 100 * (ranks <= k).astype(np.float64) for k in RECALLED}
        if grammatical is not None:
            by_image["p(grammatical)"] = _percent(grammatical * has_caption)
        means = {name: float(values.mean()) for name, values in by_image.items()}
        return ClipFigures(means | summary(ranks) | {"pool": len(names)}, by_image)

    def recipe(self) -> dict[str, Any]:
        """Return what identifies the CLIP and its inputs, for the results file."""
        names = {"checkpoint": self._config.checkpoint, "model": self._config.model}
        facts = names | {"weights_sha256": self.clip.fingerprint["weights"], "images": self._folder}
        facts |= {key: self.clip.fingerprint[key] for key in ("prompt", "preprocess")}
        return facts | {"grammar_sha256": self.grammar.digest if self.grammar else None}

    def notes(self) -> list[str]:
        """Return the words that were left out, and a warning if the grammar head is too inaccurate."""
        weak = unfit(self.grammar.figures) if self.grammar else []
        head = f"p(grammatical) is unreliable: its accuracy is {', '.join(weak)}; {REQUIRED:g} % is needed"
        return [*self._notes, *([head] if weak else [])]

    def _known_parts(self, what: str, texts: Sequence[str]) -> list[str]:
        """Return the texts without the words that the CLIP does not know.

        Raises:
            UsageError: those are so many that scores would mean nothing.
        """
        unknown = set(self.clip.unknown_words(texts))
        if not unknown:
            return list(texts)
        words = [word for text in texts for word in text.split()]
        left_out = Counter(word for word in words if word in unknown)
        count, examples = left_out.total(), ", ".join(word for word, _ in left_out.most_common(_EXAMPLES))
        found = (
            f"the CLIP in {self._config.checkpoint} does not know {count} of {len(words)} words of the {what}"
        )
        if count > _UNKNOWN_SHARE * len(words):
            raise UsageError(f"{found} ({examples}): use a CLIP that was trained on such texts")
        self._notes[f"{found}, which are left out: {examples}"] = None
        return self.clip.known_parts(texts)

    def _known_references(self, references: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        texts = iter(self._known_parts("references", [one for own in references.values() for one in own]))
        return {name: [next(texts) for _ in own] for name, own in references.items()}

    def _encode_captions(self, texts: Sequence[str]) -> tuple[Tensor | None, Tensor]:
        """Return p(grammatical) [N], or None without a head, and vectors [N, E]."""
        if self.grammar is None:
            return None, self.clip.encode_texts(texts).cpu()
        probabilities, vectors = self.grammar.score(texts)
        return probabilities.cpu(), vectors.cpu()

    def _images(self, names: Sequence[str]) -> Tensor:
        """Encode the images, [N, E]."""
        missing = [name for name in names if name not in self._encoded]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            vectors = self.clip.encode_images([self._decoded(name) for name in chunk]).cpu()
            self._encoded |= dict(zip(chunk, vectors, strict=True))
        return torch.stack([self._encoded[name] for name in names])

    def _decoded(self, name: str) -> Any:
        uri = storage.join(self._folder, name)
        try:
            return decode(storage.read_bytes(uri))
        except (FileNotFoundError, ImageError) as error:
            raise UsageError(f"images: {uri} cannot be read: {error}") from error

    def _references(self, references: Mapping[str, Sequence[str]]) -> tuple[Tensor, Tensor]:
        """Encode the references: vectors [N, R, E] and a mask [N, R], True for real references."""
        missing = {name: texts for name, texts in references.items() if name not in self._encoded_references}
        vectors = self.clip.encode_texts([text for texts in missing.values() for text in texts]).cpu()
        parts = vectors.split([len(texts) for texts in missing.values()])
        self._encoded_references |= dict(zip(missing, parts, strict=True))
        return pad_references([self._encoded_references[name] for name in references])


def _percent(values: Tensor) -> Array:
    return 100 * values.double().numpy()
