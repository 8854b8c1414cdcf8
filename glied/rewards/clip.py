"""CLIP-S and RefCLIP-S with any CLIP of open_clip, and checkpoints of small CLIPs of our own.

Shapes: ``B`` images or captions, ``R`` references of an image, ``E`` width of the joint embedding,
``T`` tokens of the context.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from glied import checkpoint
from glied.errors import StorageError, UsageError
from glied.rewards.config import PROMPT, ClipConfig, known_tags
from glied.rewards.pixels import Pixels
from glied.rewards.text_encoder import has_text_tower, read_texts, text_width

FORMAT = "glied-clip-1"
CLIP_WEIGHT = 2.5

_USED_TOKENS = "used_tokens"
_TOKEN_TABLES = ("token_embedding.weight", "text.token_embedding.weight")
_PREPROCESSING = {field.name for field in dataclasses.fields(PreprocessCfg)}
_RESIZE_MODES = ("shortest", "longest", "squash")


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
            self._known = torch.zeros(_table_rows(model_config), dtype=torch.bool)
            self._known[used_tokens] = True
        model = model.eval().float()
        decisive = {"model_config": dict(model_config), "preprocess": preprocess, "prompt": prompt}
        self.fingerprint: Mapping[str, Any] = json.loads(
            json.dumps(decisive | {"weights": weights_digest(model)})
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


def clip_score(image: Tensor, text: Tensor) -> Tensor:
    """CLIP-S: 2.5 * max(cos(image, text), 0); image [B,E], text [B,E] -> [B], 0 or more.

    Hessel et al. 2021 (arXiv 2104.08718), equation 1; DESIGN section 3.
    """
    return CLIP_WEIGHT * _cosine(image, text)


def ref_clip_score_reward(image: Tensor, text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """RefCLIP-S as rewarded: harmonic mean of CLIP-S and 2.5 * max over references of max(cos(text, ref), 0).

    Cho et al. 2022 (arXiv 2205.13115) weigh both terms alike; DESIGN section 3.

    Args:
        image: [B, E].
        text: [B, E].
        references: [B, R, E], encoded with the prompt as captions are.
        mask: [B, R], True where a reference is real.

    Returns:
        [B]; 0 where either term is, or where an image has no reference.
    """
    return _harmonic_mean(clip_score(image, text), CLIP_WEIGHT * _nearest(text, references, mask))


def ref_clip_score_metric(image: Tensor, text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """RefCLIP-S as measured: harmonic mean of CLIP-S and max over references of max(cos(text, ref), 0).

    Hessel et al. 2021 (arXiv 2104.08718), section 3: no 2.5 on the reference term, so these figures and
    the reward's are not to be compared. Arguments and result as in `ref_clip_score_reward`.
    """
    return _harmonic_mean(clip_score(image, text), _nearest(text, references, mask))


def pad_references(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Vectors of each image's references, [r, E] each -> [B, R, E] and mask [B, R], True where real."""
    padded = torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
    counts = torch.tensor([len(one) for one in vectors])
    return padded, torch.arange(padded.shape[1]) < counts[:, None]


def build_clip(model_config: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None = None) -> nn.Module:
    """A CLIP of an open_clip config, on the CPU in float32, with random weights from torch's generator.

    Args:
        model_config: embed_dim, vision_cfg, text_cfg and so on, as in open_clip's JSON files.
        preprocess: what differs from open_clip's usual one, e.g. `{"resize_mode": "squash"}`.

    Raises:
        UsageError: open_clip cannot build it.
    """
    config = copy.deepcopy(dict(model_config))
    try:
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in config["text_cfg"]:
            config["text_cfg"]["hf_model_pretrained"] = False
        model: Any = _model_class(config)(**config)
    except (TypeError, KeyError, ImportError, RuntimeError, OSError) as error:
        raise UsageError(f"open_clip cannot build this CLIP: {type(error).__name__}: {error}") from error
    open_clip.set_model_preprocess_cfg(model, preprocessing(preprocess or {}, model.visual.image_size))
    return model


@dataclasses.dataclass(frozen=True)
class OpenedClip:
    """A CLIP as it was stored.

    Attributes:
        model: on the CPU in float32; brings its preprocessing along.
        model_config: open_clip's config of it.
        used_tokens: [n] int64, the only rows of the token table that mean something; None: all do.
    """

    model: nn.Module
    model_config: Mapping[str, Any]
    used_tokens: Tensor | None


def open_clip_model(config: ClipConfig) -> OpenedClip:
    """The CLIP that `config` names. Nothing is unpickled, and torch's generator stays as it was.

    Raises:
        UsageError: no such weights or checkpoint, or they do not fit.
        StorageError: published weights could not be fetched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # random weights are the same ones every time
        return _load_own(config) if config.checkpoint else _load_published(config)


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


def save_clip(
    folder_uri: str,
    model: nn.Module,
    model_config: Mapping[str, Any],
    *,
    used_tokens: Iterable[int] | None = None,
    half: bool = True,
    **extra: Any,
) -> None:
    """Write a checkpoint folder for `ClipConfig.checkpoint`: weights, config and preprocessing of `model`.

    Args:
        folder_uri: path or URI.
        model: as `build_clip` made it.
        model_config: what it was built from.
        used_tokens: the rows of the token table to store, as `token_ids` finds them; start, end and padding
            are added. Loaded, the other rows are zero and words that need them are refused. None: all rows.
        half: store float16; use is in float32.
        extra: further metadata.

    Raises:
        UsageError: the model has no token table of which a part could be stored.
    """
    tensors = model.state_dict()
    if used_tokens is not None:
        ids = torch.tensor(sorted({*used_tokens, *token_ids([], model_config)}))
        table = _token_table(tensors)
        tensors |= {table: tensors[table].cpu()[ids], _USED_TOKENS: ids.int()}
    metadata = extra | {
        "format": FORMAT,
        "model_config": dict(model_config),
        "preprocess": open_clip.get_model_preprocess_cfg(model),
    }
    checkpoint.save(folder_uri, tensors, metadata, half=half)


def token_ids(texts: Iterable[str], model_config: Mapping[str, Any]) -> list[int]:
    """Tokens of all `texts` at full length, of the prompt, and start, end and padding; ascending.

    Raises:
        UsageError: the model does not use CLIP's own tokenizer.
    """
    if model_config["text_cfg"].get("hf_tokenizer_name"):
        raise UsageError("only models with CLIP's own tokenizer can store a part of their token table")
    tokenizer = clip_tokenizer(model_config["text_cfg"])
    ids = set(tokenizer([""]).unique().tolist())
    for text in (PROMPT, *texts):
        ids.update(tokenizer.encode(text))
    return sorted(ids)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """max(cos, 0) of vectors [..., E] -> [...]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).clamp(min=0)


def _nearest(text: Tensor, references: Tensor, mask: Tensor) -> Tensor:
    """Cosine with the nearest real reference, at least 0: [B,E], [B,R,E], [B,R] -> [B]."""
    cosines = _cosine(text[:, None], references).masked_fill(~mask, 0.0)  # [B, R]
    return F.pad(cosines, (0, 1)).amax(dim=1)  # R may be 0


def _harmonic_mean(a: Tensor, b: Tensor) -> Tensor:
    """2ab / (a + b), and 0 where both are 0: [B], [B] -> [B], for numbers from 0 on."""
    total = a + b
    return torch.where(total > 0, 2 * a * b / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def _load_own(config: ClipConfig) -> OpenedClip:
    stored = checkpoint.load(config.checkpoint)
    if stored.metadata.get("format") != FORMAT:
        raise UsageError(
            f"{config.checkpoint} holds no CLIP: its format is {stored.metadata.get('format')!r}"
        )
    model_config = stored.metadata["model_config"]
    model = build_clip(model_config, preprocess=stored.metadata["preprocess"])
    tensors = stored.tensors
    used_tokens = tensors.pop(_USED_TOKENS, None)
    if used_tokens is not None:
        used_tokens = used_tokens.long()
        table = _token_table(tensors)
        whole = torch.zeros(_table_rows(model_config), tensors[table].shape[1])
        whole[used_tokens] = tensors[table]
        tensors[table] = whole
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(f"the weights in {config.checkpoint} do not fit its config: {error}") from error
    return OpenedClip(model, model_config, used_tokens)


def _load_published(config: ClipConfig) -> OpenedClip:
    model_config = open_clip.get_model_config(config.model)
    if not config.weights:
        return OpenedClip(build_clip(model_config), model_config, None)
    path, published = _weights_file(config)
    # OpenAI's weights and some others are wrong under the plain name's GELU; open_clip only warns of it.
    model_config["quick_gelu"] = bool(published.get("quick_gelu") or model_config.get("quick_gelu"))
    model = build_clip(model_config, preprocess=_preprocessing_of(published))
    try:
        open_clip.load_checkpoint(model, path, strict=True, weights_only=True)
    except (RuntimeError, KeyError, ValueError, EOFError, StopIteration, AttributeError) as error:
        raise UsageError(f"weights {config.weights!r} do not fit {config.model}: {error}") from error
    except (pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = (
            "not safetensors, nor a pickle of nothing but tensors (others are refused, they can run code)"
        )
        raise UsageError(f"weights {config.weights!r}: {reason}") from error
    return OpenedClip(model, model_config, None)


def _weights_file(config: ClipConfig) -> tuple[str, Mapping[str, Any]]:
    """Local path of the weights, and open_clip's entry for the tag they are of."""
    published = open_clip.get_pretrained_cfg(config.model, config.weights)
    if published:
        try:
            return open_clip.download_pretrained(published), published
        except Exception as error:  # whatever the hub's client raises
            advice = "without internet, name a local copy in weights and the tag in weights_tag"
            message = f"cannot fetch weights {config.weights} of {config.model}: {error}; {advice}"
            raise StorageError(message) from error
    if not Path(config.weights).is_file():
        found = f"weights {config.weights!r}: no such file here, and no published tag of {config.model}"
        raise UsageError(f"{found}, which has {known_tags(config.model)}")
    if config.weights_tag:
        return config.weights, open_clip.get_pretrained_cfg(config.model, config.weights_tag)
    return config.weights, _only_preprocessing(config.model)


def _only_preprocessing(model: str) -> Mapping[str, Any]:
    """The preprocessing that all published weights of an architecture share.

    Raises:
        UsageError: they differ, so that a file without its tag could silently get another's mean.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    entries = [_preprocessing_of(open_clip.get_pretrained_cfg(model, tag)) for tag in tags]
    if any(entry != entries[0] for entry in entries):
        raise UsageError(
            f"the preprocessing of {model} depends on its weights: say in weights_tag which the file is of, "
            f"{known_tags(model)}"
        )
    return entries[0] if entries else {}


def _preprocessing_of(published: Mapping[str, Any]) -> dict[str, Any]:
    return {key: published[key] for key in _PREPROCESSING if key in published}


def preprocessing(given: Mapping[str, Any], size: int | tuple[int, int]) -> dict[str, Any]:
    """open_clip's usual preprocessing for a model's image size, overlaid by `given`.

    Raises:
        UsageError: `given` has unknown keys, or a mode of resizing that open_clip does not know.
    """
    unknown = given.keys() - _PREPROCESSING
    if unknown:
        raise UsageError(f"preprocess has {sorted(unknown)}; its keys are {sorted(_PREPROCESSING)}")
    whole = dataclasses.asdict(PreprocessCfg()) | {"size": size} | dict(given)
    if whole["resize_mode"] not in _RESIZE_MODES:
        raise UsageError(f"resize_mode {whole['resize_mode']!r}: must be one of {', '.join(_RESIZE_MODES)}")
    return whole


def _model_class(config: dict[str, Any]) -> type[nn.Module]:
    """open_clip's class for a config, whose `custom_text` is taken out: it is no argument of the class."""
    if not (config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]):
        return open_clip.CLIP
    return open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP


def clip_tokenizer(text_config: Mapping[str, Any]) -> Any:
    """open_clip's tokenizer of a model, texts -> [B, T] int64; longer texts lose their last words."""
    length = text_config.get("context_length", DEFAULT_CONTEXT_LENGTH)
    options = dict(text_config.get("tokenizer_kwargs") or {})
    name = text_config.get("hf_tokenizer_name")
    if not name:
        # Reductions drop words at random; scores are of the first words that fit.
        return open_clip.SimpleTokenizer(context_length=length, **options | {"reduction_mask": ""})
    try:
        mode = text_config.get("tokenizer_mode")
        return HFTokenizer(name, context_length=length, tokenizer_mode=mode, **options)
    except (ImportError, OSError) as error:
        message = f"the tokenizer {name} needs the package transformers and the hub's files: {error}"
        raise UsageError(message) from error


def _token_table(tensors: Mapping[str, Tensor]) -> str:
    for name in _TOKEN_TABLES:
        if name in tensors:
            return name
    raise UsageError("only CLIPs with open_clip's own text tower can store a part of their token table")


def _table_rows(model_config: Mapping[str, Any]) -> int:
    return int(model_config["text_cfg"].get("vocab_size", open_clip.CLIPTextCfg.vocab_size))


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names and values of a model, whichever file they came from."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        found.update(tensor.cpu().contiguous().flatten().numpy())
    return found.hexdigest()


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
