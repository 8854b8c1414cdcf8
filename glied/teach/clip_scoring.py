"""How captions fit their images by CLIP, whose vectors of the images are stored."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score
from glied.data import features
from glied.metrics.retrieval import retrieval
from glied.rewards.clip_reward import ImageVectors
from glied.teach.nested import located

log = logging.getLogger(__name__)


class CaptionScorer:
    """Scores captions with one CLIP; words that it does not know do not count."""

    def __init__(self, clip: ClipConfig, store: str, device: str) -> None:
        """Load the CLIP and the vectors of a feature store that it wrote.

        Raises:
            UsageError: there is no such CLIP or store, or another CLIP wrote it.
        """
        self._scorer = load_clip(replace(clip, device=device, checkpoint=located(clip.checkpoint)))
        self._vectors = ImageVectors(store, self._scorer)
        self._images = set(features.image_ids(store))

    def clip_s(self, captions: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[str, float]]]:
        """Each caption of each image with its CLIP-S, 0 to 2.5; images without a vector are left out."""
        pairs = [(image, text) for image in captions.keys() & self._images for text in captions[image]]
        scores = clip_score(self._vectors([image for image, _ in pairs]), self._encoded(pairs)).tolist()
        by_pair = dict(zip(pairs, scores, strict=True))
        return {
            image: [(text, by_pair[image, text]) for text in texts]
            for image, texts in captions.items()
            if image in self._images and texts
        }

    def figures(self, captions: Mapping[str, str]) -> dict[str, float]:
        """CLIP-S and text-to-image R@k among these images, x 100; empty where no image has a vector."""
        pairs = [(image, text) for image, text in captions.items() if image in self._images]
        if not pairs:
            return {}
        images, texts = self._vectors([image for image, _ in pairs]), self._encoded(pairs)
        found: dict[str, Any] = {"CLIP-S": 100 * float(clip_score(images, texts).mean())}
        return found | retrieval(texts.numpy(), images.numpy()) | {"pool": len(pairs)}

    def _encoded(self, pairs: Iterable[tuple[str, str]]) -> Tensor:
        texts = [text for _, text in pairs]
        unknown = set(self._scorer.unknown_words(texts))
        if unknown:
            log.warning("the CLIP does not know these words: %s", ", ".join(sorted(unknown)[:20]))
            texts = [" ".join(word for word in text.split() if word not in unknown) for text in texts]
        with torch.inference_mode():
            return self._scorer.encode_texts(texts).cpu()
