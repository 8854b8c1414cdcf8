"""Captions by models of Hugging Face transformers.

Images are prepared one by one and batched where their inputs have the same shapes, so that nothing is padded
and a caption is that of the image alone.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import huggingface_hub
import torch
from PIL import Image as Pillow
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.logging import disable_progress_bar

from glied.captioner.engines.config import TransformersConfig, flat_settings
from glied.captioner.engines.engine import NO_PROMPT, Engine, EngineCaption, Failure, Image, Outcome, Usage
from glied.captioner.engines.prompts import DEFAULT_PROMPTS, PromptError, columns_of, fill
from glied.data.caption_files import without_surrogates
from glied.errors import UsageError

Inputs: TypeAlias = dict[str, Tensor]
"""What a model reads, by argument."""
FLORENCE_PROMPTS = {"caption": "<DETAILED_CAPTION>"}
_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Inputs of a value per token, [1, T]."""
_BLOCK = 1 << 22


class TransformersEngine(Engine):
    """A model of transformers, an `engine.Engine`.

    Attributes:
        fingerprint: what the captions depend on.
    """

    def __init__(self, model: Any, processor: Any, config: TransformersConfig, identity: str) -> None:
        """Put the model into evaluation mode; it is on its device already.

        Args:
            model: with `generate`.
            processor: of the model.
            config: of the captions.
            identity: names the weights, from `identity`.

        Raises:
            UsageError: the model cannot be asked in the style of the config.
        """
        self.model, self.processor, self.config = model.eval(), processor, config
        self.style = _style(config, processor, model.config.model_type)
        self.prompts = _prompts(config, self.style, model.config.model_type)
        self.fingerprint = transformers_fingerprint(config, identity)
        self.name = model_name(config, identity)
        self.resolution = config.compute.longest_side, config.compute.longest_side
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._ends = _end_tokens(model)

    @classmethod
    def load(cls, config: TransformersConfig) -> "TransformersEngine":
        """Load the model that `config` names.

        Raises:
            UsageError: there is no such model, it needs code that was not asked for, or a package is missing.
        """
        identity = weights_identity(config)
        config = config.pinned(identity)
        processor = load_processor(config)
        if not sys.stderr.isatty():
            disable_progress_bar()
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                config.model, dtype=getattr(torch, config.dtype), **_source(config), **_placement(config)
            )
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise _explained(config, error) from error
        model = model if config.compute.quantization else model.to(config.device)
        return cls(model, processor, config, identity)

    @torch.inference_mode()
    def caption(
        self, images: Sequence[Image], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Outcome]:
        """As `engine.Engine.caption`."""
        rows = columns or [{}] * len(images)
        found: list[Outcome] = [[] for _ in images]
        for name, template in self.prompts.items():
            prepared: dict[int, Inputs] = {}
            for index, (image, row) in enumerate(zip(images, rows, strict=True)):
                if isinstance(found[index], Failure):  # under an earlier prompt
                    continue
                try:
                    prompt = fill(template, row, self.config.prompting.null_values)
                    prepared[index] = self._prepare(image, prompt, bool(columns_of(template)))
                except PromptError as error:
                    found[index] = Failure(error.kind, str(error))
            for group in self._groups(prepared):
                captions = self._generate([prepared[index] for index in group], name)
                for index, mine in zip(group, captions, strict=True):
                    if isinstance(done := found[index], list):
                        done += mine
        return found

    def usage(self) -> Usage:
        """Nothing: no requests are sent."""
        return Usage()

    def _prepare(self, image: Image, prompt: str, has_values: bool) -> Inputs:
        """The inputs of one image; values of a table cannot write the tokens that structure a chat."""
        picture = Pillow.fromarray(image)
        if self.style == "plain":
            found = self.processor(images=picture, return_tensors="pt")
            return {"pixel_values": found["pixel_values"]}
        if self.style == "text":
            return dict(self.processor(images=picture, text=prompt, return_tensors="pt"))
        chat = self.config.prompting
        content = [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]
        system = [{"role": "system", "content": [{"type": "text", "text": chat.system}]}]
        return dict(
            self.processor.apply_chat_template(
                [*(system if chat.system else []), {"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **({"sanitize_control_tokens": True} if has_values else {}),
            )
        )

    def _groups(self, prepared: Mapping[int, Inputs]) -> Iterator[list[int]]:
        """The images that can be generated for together: their inputs have the same shapes."""
        groups: dict[Any, list[int]] = {}
        for index, inputs in prepared.items():
            key: Any = tuple((name, self._shape(name, value)) for name, value in sorted(inputs.items()))
            groups.setdefault((index, key) if self.config.sampling.temperature else key, []).append(index)
        yield from groups.values()

    def _shape(self, name: str, value: Tensor) -> tuple[int, ...]:
        """What has to be equal in a batch; the first dimension is the one along which inputs are joined."""
        return () if self.config.compute.pad_batches and name in _TOKENS else tuple(value.shape[1:])

    def _generate(self, inputs: Sequence[Inputs], prompt: str) -> list[list[EngineCaption]]:
        """The captions of a group."""
        config, count = self.config, self.config.generation.n_best
        batch = {name: self._place(joined) for name, joined in _join(inputs, self._padding()).items()}
        if config.sampling.temperature:
            torch.manual_seed(config.sampling.seed)
        result = self.model.generate(**batch, **_options(config), return_dict_in_generate=True)
        tokens = _without_prompt(self.model, result.sequences, batch.get("input_ids"), count)
        ends = [self._end(row) for row in tokens.tolist()]
        totals: Sequence[float | None] = [None] * len(tokens)
        if config.generation.log_probabilities:
            totals = _log_probabilities(result, tokens, [end or tokens.shape[1] for end in ends])
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        captions = [
            EngineCaption(without_surrogates(text).strip(), total, prompt, end is None)
            for text, total, end in zip(texts, totals, ends, strict=True)
        ]
        return [captions[start : start + count] for start in range(0, len(captions), count)]

    def _place(self, value: Tensor) -> Tensor:
        value = value.to(self.model.device)
        return value.to(self.model.dtype) if value.is_floating_point() else value

    def _padding(self) -> int:
        padding = self._tokenizer.pad_token_id
        return next(iter(self._ends), 0) if padding is None else padding

    def _end(self, tokens: Sequence[int]) -> int | None:
        """Number of tokens up to the end token, which counts; None where there is none."""
        return next((place + 1 for place, token in enumerate(tokens) if token in self._ends), None)


def load_processor(config: TransformersConfig) -> Any:
    """The processor of the model, with all checks that need no weights: a run does them before it begins.

    Raises:
        UsageError: there is no such model, it is of another kind, needs code that was not asked for, or
            cannot be asked in the style of the config.
    """
    options = _source(config)
    try:
        about = AutoConfig.from_pretrained(config.model, **options)  # says the most clearly what is missing
        processor = AutoProcessor.from_pretrained(config.model, **options)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise _explained(config, error) from error
    if about.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and not config.remote_code:
        raise UsageError(
            f"captioner.model: {config.model} is a {about.model_type}, which transformers does not list "
            "among the models that turn images into text"
        )
    _prompts(config, _style(config, processor, about.model_type), about.model_type)
    return processor


def weights_identity(config: TransformersConfig) -> str:
    """What names the weights without loading them: the commit on the Hub, or the digest of a folder's files.

    Raises:
        UsageError: there is no such model.
    """
    folder = Path(config.model)
    if folder.is_dir():
        return _folder_digest(folder)
    try:
        found = huggingface_hub.hf_hub_download(config.model, "config.json", revision=config.revision)
    except Exception as error:  # whatever the hub's client raises
        raise _not_found(config, error) from error
    return Path(found).parent.name  # the snapshot of a commit


def model_name(config: TransformersConfig, identity: str) -> str:
    """Name of the model for the column `model`."""
    return f"{Path(config.model).name}-{identity[:12]}"


def transformers_fingerprint(config: TransformersConfig, identity: str) -> dict[str, Any]:
    """What the captions depend on; a folder counts by its content, and devices do not count."""
    ignored = {"kind", "model", "revision", "device", "attention", "remote_code"}
    settings = {name: value for name, value in flat_settings(config).items() if name not in ignored}
    return {"kind": "transformers", "weights": identity} | settings


def _style(config: TransformersConfig, processor: Any, model_type: str) -> str:
    has_template = bool(getattr(processor, "chat_template", None))
    if config.style == "chat" and not has_template:
        raise UsageError(f"captioner.style: {config.model} has no chat template; use text or plain")
    if config.style != "auto":
        return config.style
    if has_template:
        return "chat"
    return "text" if config.prompts or model_type == "florence2" else "plain"


def _prompts(config: TransformersConfig, style: str, model_type: str) -> dict[str, str]:
    if style == "plain":
        return {NO_PROMPT: ""}
    if config.prompts:
        return config.prompts
    if style == "text" and model_type != "florence2":
        raise UsageError("captioner.prompts: style text needs a prompt")
    return FLORENCE_PROMPTS if model_type == "florence2" else dict(DEFAULT_PROMPTS)


def _options(config: TransformersConfig) -> dict[str, Any]:
    """Arguments of `generate`; what is None hides the defaults that a model brings along."""
    search, sampling = config.generation, config.sampling
    draws = bool(sampling.temperature)
    return search.extra | {
        "max_new_tokens": search.max_tokens,
        "min_new_tokens": search.min_tokens or None,
        "num_beams": search.beam_size,
        "num_return_sequences": search.n_best,
        "length_penalty": search.length_penalty,
        "no_repeat_ngram_size": search.block_ngrams,
        "repetition_penalty": search.repetition_penalty,
        "do_sample": draws,
        "temperature": sampling.temperature if draws else None,
        "top_k": sampling.top_k if draws else None,
        "top_p": sampling.top_p if draws else None,
        "output_logits": search.log_probabilities,
    }


def _join(inputs: Sequence[Inputs], padding: int) -> Inputs:
    """The inputs of several images as those of a batch, tokens padded on the left where they differ."""
    joined = {}
    for name in inputs[0]:
        values = [one[name] for one in inputs]
        if name in _TOKENS:
            longest = max(value.shape[1] for value in values)
            filler = padding if name == "input_ids" else 0
            values = [F.pad(value, (longest - value.shape[1], 0), value=filler) for value in values]
        joined[name] = torch.cat(values)
    return joined


def _without_prompt(model: Any, sequences: Tensor, prompt: Tensor | None, copies: int) -> Tensor:
    """Generated tokens only: decoders begin with a start token, others may give their prompt back first."""
    if model.config.is_encoder_decoder:
        return sequences[:, 1:]
    if prompt is None or sequences.shape[1] < prompt.shape[1]:
        return sequences
    same = torch.equal(sequences[:, : prompt.shape[1]], prompt.repeat_interleave(copies, dim=0))
    return sequences[:, prompt.shape[1] :] if same else sequences


def _log_probabilities(result: Any, tokens: Tensor, lengths: Sequence[int]) -> list[float]:
    """Log-probability of each caption under the model itself, without penalties and temperature.

    Args:
        result: of `generate`, with the logits [captions or beams, V] of each step.
        tokens: [N, T], of which some models give a begin token before those they generated.
        lengths: of each caption.
    """
    steps = len(result.logits)
    beams = getattr(result, "beam_indices", None)
    rows = torch.arange(len(tokens), device=tokens.device)
    first = max(0, tokens.shape[1] - steps) if beams is None else tokens.shape[1] - beams.shape[1]
    totals = torch.zeros(len(tokens), device=tokens.device)
    ends = torch.tensor(lengths, device=tokens.device)
    for step in range(min(steps, tokens.shape[1] - first)):
        here = rows if beams is None else beams[:, step].clamp(min=0)
        table = result.logits[step].float().log_softmax(-1)
        value = table[here, tokens[:, first + step]]
        totals += value.where(first + step < ends, 0.0)
    return totals.tolist()


def _end_tokens(model: Any) -> frozenset[int]:
    """Tokens that end a caption; BLIP ends with its separator."""
    texts = model.config.get_text_config()
    found: Iterable[Any] = (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(texts, "eos_token_id", None),
        getattr(texts, "sep_token_id", None),
    )
    lists = [one if isinstance(one, list) else [one] for one in found]
    return frozenset(token for one in lists for token in one if token is not None)


def _source(config: TransformersConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where the files are, and that no code is run unasked."""
    options = {"trust_remote_code": bool(config.remote_code)}
    return options if Path(config.model).is_dir() else options | {"revision": config.revision}


def _placement(config: TransformersConfig) -> dict[str, Any]:
    """Arguments of the model's `from_pretrained` for attention and quantization."""
    compute = config.compute
    options: dict[str, Any] = {"attn_implementation": compute.attention} if compute.attention else {}
    if compute.quantization:
        options |= {"quantization_config": compute.quantization, "device_map": config.device}
    return options


def _explained(config: TransformersConfig, error: Exception) -> UsageError:
    """The library's error in one line, with what to do."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return UsageError(
            f"captioner.model: {config.model} brings Python code of its own, which is not run unless "
            f"captioner.remote_code is {config.model} too"
        )
    if isinstance(error, OSError):
        return _not_found(config, error)
    return UsageError(f"captioner.model: {config.model} cannot be loaded: {text[:300]}")


def _not_found(config: TransformersConfig, error: Exception) -> UsageError:
    name, reason = config.model, " ".join(str(error).split())[:200]
    return UsageError(
        f"captioner.model: {name} is no folder here and could not be fetched from the Hub (revision "
        f"{config.revision}): run `hf download {name} --local-dir DIR` where there is internet and give "
        f"DIR as captioner.model. {reason}"
    )


def _folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files; hidden ones and notes do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and path.suffix != ".md" and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()
