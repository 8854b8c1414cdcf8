"""CLIP embeddings of images and captions, with any CLIP of open_clip.

Shapes: ``B`` images or captions, ``E`` width of the joint embedding, ``T`` context length in tokens.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from glied.checkpoint import weights_digest
from glied.clip.config import PROMPT, ClipConfig
from glied.clip.fingerprint import clip_fingerprint
from glied.clip.model import open_clip_model
from glied.clip.preprocessing import Pixels
from glied.clip.text_encoder import has_text_tower, read_texts, text_width
from glied.clip.tokenizer import clip_tokenizer, token_table_rows
from glied.errors import UsageError


class ClipScorer:
    """Encodes images and captions as unit vectors, whose cosine is the CLIP similarity.

    It always computes in float32, whatever the caller's autocast or TF32 setting: the error of half precision
    is larger than the score difference between captions.
    """

    def __init__(
        self,
        model: nn.Module,
        model_config: Mapping[str, Any],
        *,
        prompt: str = PROMPT,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        used_tokens: Tensor | None = None,
    ) -> None:
        """Take ownership of `model`: it is put into evaluation mode in float32 on `device`.

        Args:
            model: a model made by `build_clip`, with its preprocessing.
            model_config: its open_clip config.
            prompt: text before the captions.
            batch_size: images or captions to encode at once.
            device: device of the model and of the results.
            used_tokens: [n] int64, the trained rows of the token table; None if all are.
        """
        self.device = torch.device(device)
        self.prompt = prompt
        self.batch_size = batch_size
        self.size = int(model_config["embed_dim"])
        self.tokenizer = clip_tokenizer(model_config["text_cfg"])
        preprocess = open_clip.get_model_preprocess_cfg(model)
        self.pixels = Pixels(preprocess)
        self.resolution = int(np.max(preprocess["size"]))
        self._known: Tensor | None = None
        if used_tokens is not None:
            self._known = torch.zeros(token_table_rows(model_config), dtype=torch.bool)
            self._known[used_tokens] = True
        model = model.eval().float()
        self.fingerprint: Mapping[str, Any] = clip_fingerprint(
            model_config, preprocess, prompt=prompt, weights=weights_digest(model, shapes=True)
        )
        self.model: Any = model.to(self.device)

    # no_grad, not inference mode: rewards enter losses, and autograd cannot save inference tensors.
    @torch.no_grad()
    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Encode upright RGB images [H, W, 3] uint8 as unit vectors [B, E] float32, in the same order.

        Each image is preprocessed separately, so the result does not depend on the other images.
        """
        vectors = [torch.zeros(0, self.size, device=self.device)]
        for batch in _batches(images, self.batch_size):
            resized = torch.from_numpy(np.stack([self.pixels.resize(image) for image in batch]))
            pixels = self.pixels.normalize(resized.to(self.device))
            with _full_precision(self.device):
                vectors.append(F.normalize(self.model.encode_image(pixels), dim=-1))
        return torch.cat(vectors)

    @torch.no_grad()
    def encode_pooled(self, pooled: Tensor) -> Tensor:
        """Encode images by what a timm image tower made of them: pooled maps [B, F] -> unit vectors [B, E].

        `glied.vision.extractors.image_vectors` says for which region extractors these are the pooled maps.
        """
        with _full_precision(self.device):
            return F.normalize(self.model.visual.head(pooled.to(self.device)), dim=-1)

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str], *, prompt: bool = True) -> Tensor:
        """Encode captions as unit vectors [B, E] float32, with the prompt unless `prompt` is False.

        A caption too long for the context loses its last words, but never the end token, whose feature CLIP
        uses.

        Raises:
            UsageError: the model's token table lacks a word; a score without it would look valid but be
                wrong. `unknown_words` checks this beforehand.
        """
        vectors = [torch.zeros(0, self.size, device=self.device)]
        for tokens in self._token_batches(captions, prompt=prompt):
            with _full_precision(self.device):
                if has_text_tower(self.model):
                    projected = read_texts(self.model, tokens).projected
                else:
                    projected = self.model.encode_text(tokens)
            vectors.append(F.normalize(projected, dim=-1))
        return torch.cat(vectors)

    @torch.no_grad()
    def encode_and_pool_texts(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions -> what `encode_texts` gives, [B, E], and features before projection, [B, W]; in one pass.

        Raises:
            UsageError: as `encode_texts` and `read_texts`.
        """
        vectors = [torch.zeros(0, self.size, device=self.device)]
        pooled = [torch.zeros(0, text_width(self.model), device=self.device)]
        for tokens in self._token_batches(captions, prompt=True):
            with _full_precision(self.device):
                read = read_texts(self.model, tokens)
            vectors.append(F.normalize(read.projected, dim=-1))
            pooled.append(read.pooled)
        return torch.cat(vectors), torch.cat(pooled)

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct words that `encode_texts` would reject, for a check before the work begins.

        Only checkpoints that were saved with `used_tokens` reject words.
        """
        if self._known is None:
            return []
        words = dict.fromkeys(word for text in texts for word in text.split())
        return [word for word in words if not self._knows(word)]

    def known_parts(self, texts: Sequence[str]) -> list[str]:
        """Return the texts without the words that `encode_texts` would reject.

        White space becomes single spaces if the model rejects words at all.
        """
        if self._known is None:
            return list(texts)
        unknown = set(self.unknown_words(texts))
        return [" ".join(word for word in text.split() if word not in unknown) for text in texts]

    def check_prompt(self) -> None:
        """Refuse a prompt that `encode_texts` would reject with every caption.

        Raises:
            UsageError: the model's token table lacks a word of it.
        """
        if words := self.unknown_words([self.prompt]):
            raise UsageError(
                f"clip.prompt: this CLIP does not know these words: {', '.join(words)}; use other words, "
                "or a CLIP that was trained on them"
            )

    def _knows(self, text: str) -> bool:
        return self._known is None or bool(self._known[self.tokenizer.encode(text)].all())

    def _token_batches(self, captions: Sequence[str], *, prompt: bool) -> Iterator[Tensor]:
        for batch in _batches(captions, self.batch_size):
            yield self._tokens([f"{self.prompt} {text}" if prompt else text for text in batch]).to(
                self.device
            )

    def _tokens(self, texts: list[str]) -> Tensor:
        if self._known is not None:  # as `unknown_words` reads them: the tokenizer makes a word of U+0085
            texts = [" ".join(text.split()) for text in texts]
        tokens = self.tokenizer(texts)  # [B, T]
        if self._known is not None and not self._known[tokens].all():
            words = ", ".join(self.unknown_words(texts))
            raise UsageError(
                f"this CLIP does not know these words: {words}; use one that was trained on them"
            )
        return tokens


def load_clip(config: ClipConfig) -> ClipScorer:
    """Load the scorer that `config` names.

    Raises as `open_clip_model`, and `UsageError` for an unknown device, a missing GPU or a prompt with words
    that the CLIP does not know.
    """
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        raise UsageError(f"device {config.device!r} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {config.device}, but there is no GPU here")
    opened = open_clip_model(config)
    scorer = ClipScorer(
        opened.model,
        opened.model_config,
        prompt=config.prompt,
        batch_size=config.batch_size,
        device=device,
        used_tokens=opened.used_tokens,
    )
    scorer.check_prompt()
    return scorer


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Compute float32 products in full precision.

    Restores the caller's TF32 and autocast settings on exit.
    """
    backends: Any = torch.backends  # its stubs lack some of these
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for product, precision in zip(products, before, strict=True):
            product.fp32_precision = precision
