"""Unit vectors of images and captions, with any CLIP of open_clip.

Shapes: ``B`` images or captions, ``E`` width of the joint embedding, ``T`` tokens of the context.
"""

import contextlib
import json
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
from glied.clip.model import open_clip_model
from glied.clip.preprocessing import Pixels
from glied.clip.text_encoder import has_text_tower, read_texts, text_width
from glied.clip.tokenizer import clip_tokenizer, token_table_rows
from glied.errors import UsageError


class ClipScorer:
    """Unit vectors of images and captions, whose cosine is what CLIP thinks of the pair.

    Always float32 on the inside, under any autocast or TF32 setting of the caller: half precision moves
    the scores by more than captions differ.
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
        """Take over `model`: it is put into evaluation mode, in float32, on `device`.

        Args:
            model: as `build_clip` makes it; brings its preprocessing along.
            model_config: open_clip's config of it.
            prompt: stands before the captions.
            batch_size: images or captions encoded at once.
            device: where results are, too.
            used_tokens: [n] int64, the only rows of the token table that mean something; None: all do.
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
        decisive = {"model_config": dict(model_config), "preprocess": preprocess, "prompt": prompt}
        self.fingerprint: Mapping[str, Any] = json.loads(
            json.dumps(decisive | {"weights": weights_digest(model, shapes=True)})
        )
        self.model: Any = model.to(self.device)

    # No gradient, but not inference mode: rewards enter losses, and those cannot save inference tensors.
    @torch.no_grad()
    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Upright RGB images [H, W, 3] uint8 -> their unit vectors [B, E] float32, in the same order.

        Each image is resized by itself as the model's preprocessing says, so its neighbors do not matter.
        """
        found = [torch.zeros(0, self.size, device=self.device)]
        for batch in _batches(images, self.batch_size):
            resized = torch.from_numpy(np.stack([self.pixels.resize(image) for image in batch]))
            pixels = self.pixels.normalize(resized.to(self.device))
            with _full_precision(self.device):
                found.append(F.normalize(self.model.encode_image(pixels), dim=-1))
        return torch.cat(found)

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str], *, prompt: bool = True) -> Tensor:
        """Captions -> their unit vectors [B, E] float32, behind the prompt unless `prompt` is False.

        A caption too long for the context loses its last words, never the end token that CLIP reads.

        Raises:
            UsageError: a word of which the model has no token row; a score made without the word would
                look like any other. `unknown_words` tells beforehand.
        """
        found = [torch.zeros(0, self.size, device=self.device)]
        for tokens in self._token_batches(captions, prompt=prompt):
            with _full_precision(self.device):
                if has_text_tower(self.model):
                    projected = read_texts(self.model, tokens).projected
                else:
                    projected = self.model.encode_text(tokens)
            found.append(F.normalize(projected, dim=-1))
        return torch.cat(found)

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
        """Words that `encode_texts` would refuse, each once: for a check before work begins.

        Only a checkpoint that was saved with its used tokens has any.
        """
        if self._known is None:
            return []
        words = dict.fromkeys(word for text in texts for word in text.split())
        return [word for word in words if not self._known[self.tokenizer.encode(word)].all()]

    def _token_batches(self, captions: Sequence[str], *, prompt: bool) -> Iterator[Tensor]:
        for batch in _batches(captions, self.batch_size):
            yield self._tokens([f"{self.prompt} {text}" if prompt else text for text in batch]).to(
                self.device
            )

    def _tokens(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts)  # [B, T]
        if self._known is not None and not self._known[tokens].all():
            words = ", ".join(self.unknown_words(texts))
            raise UsageError(f"this CLIP has never seen these words: {words}; score with one that knows them")
        return tokens


def load_clip(config: ClipConfig) -> ClipScorer:
    """The scorer that `config` names; raises as `open_clip_model`, and `UsageError` for a missing GPU."""
    device = torch.device(config.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {config.device}, but there is no GPU here")
    opened = open_clip_model(config)
    return ClipScorer(
        opened.model,
        opened.model_config,
        prompt=config.prompt,
        batch_size=config.batch_size,
        device=device,
        used_tokens=opened.used_tokens,
    )


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Within, products of float32 are float32; the caller's TF32 and autocast settings come back after it."""
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
