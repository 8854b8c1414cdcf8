"""Configs of the captioners that other people trained; light, since a job's driver need not import torch."""

import dataclasses
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from glied.captioner.engines.prompts import DEFAULT_PROMPTS, check_prompts
from glied.config_checks import check_least
from glied.errors import UsageError

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class CocaConfig:
    """A CoCa of open_clip; how captions are searched is in `decoding`, whose lengths count its tokens."""

    kind: Literal["coca"] = "coca"
    """Which captioner this is."""
    model: str = ""
    """Architecture by open_clip's name, e.g. coca_ViT-B-32; excludes `checkpoint`."""
    weights: str = ""
    """Weights of `model`: a published tag of open_clip, e.g. mscoco_finetuned_laion2b_s13b_b90k, or a local
    .safetensors, .bin or .pt file. A folder says its architecture itself, whatever `model` is: one with the
    files of the hub (open_clip_config.json), or as jobs/train_clip.py writes it."""
    weights_tag: str = ""
    """Published tag that a file in `weights` descends from: says its preprocessing."""
    checkpoint: str = ""
    """Folder or URI of a CoCa as jobs/train_clip.py writes it; excludes `model` and `weights`. A local folder
    may also be named in `weights`."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    dtype: Dtype = "float32"
    """Precision of the computation."""
    allow_random: bool = False
    """Accept a `model` without `weights`; its captions mean nothing, tests use it."""

    def __post_init__(self) -> None:
        """Refuse a config that names no weights, or two."""
        if bool(self.checkpoint) == bool(self.model):
            raise UsageError(
                "captioner of kind coca: give either checkpoint or model (an architecture of open_clip, e.g. "
                "coca_ViT-B-32) with weights, which may be a local folder, too"
            )
        if self.model and not (self.weights or self.allow_random):
            raise UsageError(
                f"captioner.weights: {self.model} needs a published tag of open_clip, such as "
                "mscoco_finetuned_laion2b_s13b_b90k, a local file or folder"
            )
        if self.checkpoint and (self.weights or self.weights_tag):
            raise UsageError("captioner.weights belongs to captioner.model, not to captioner.checkpoint")


@dataclass(frozen=True, kw_only=True)
class PromptingConfig:
    """What goes with the prompts."""

    system: str = ""
    """System message of chats; empty for none."""
    null_values: Literal["empty", "fail"] = "empty"
    """What a null in a column that a prompt names does: stand as an empty text, or fail the row."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How captions are drawn at random."""

    temperature: float = 0.0
    """Sampling temperature; 0 searches instead. Samples are drawn image by image, which is slow in bulk."""
    top_k: int = 0
    """Draw from this many most probable tokens; 0 for all."""
    top_p: float = 1.0
    """Draw from the fewest tokens that hold this much probability."""
    seed: int = 0
    """The seed of every image."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How captions are searched."""

    max_tokens: int = 100
    """Most tokens of a caption."""
    min_tokens: int = 0
    """Fewest tokens of a caption."""
    beam_size: int = 1
    """Number of beams; 1 is greedy decoding."""
    n_best: int = 1
    """Captions per prompt: at most beam_size, or the number of samples."""
    length_penalty: float = 1.0
    """Exponent of the length by which beams' log-probabilities are divided."""
    block_ngrams: int = 0
    """Never repeat this many tokens in a row; 0 allows every repetition."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that stand in the caption already."""
    log_probabilities: bool = False
    """Give captions their log-probability. All logits of a batch are kept for it: its captions x max_tokens
    x vocabulary x 4 bytes."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further options of `generate`."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a model of transformers runs, and on how large images."""

    quantization: dict[str, Any] | None = None
    """transformers' quantization config, e.g. {load_in_4bit: true}; needs the package of the method."""
    attention: str = ""
    """transformers' attn_implementation, e.g. sdpa or flash_attention_2; empty for the library's choice."""
    pad_batches: bool = False
    """Also batch inputs of different lengths, padded on the left: faster where images have many sizes, but
    padding can change a caption, so that it depends on the batch it was in."""
    longest_side: int = 2048
    """Large images may be shrunk while they are decoded, but not below this many pixels on a side."""


@dataclass(frozen=True, kw_only=True)
class TransformersConfig:
    """A model of Hugging Face transformers that turns an image into text."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "system": "prompting.system",
        **{one.name: f"generation.{one.name}" for one in dataclasses.fields(GenerationConfig)},
        **{one.name: f"sampling.{one.name}" for one in dataclasses.fields(SamplingConfig)},
        **{one.name: f"compute.{one.name}" for one in dataclasses.fields(ComputeConfig)},
    }
    """Keys of the first builds of version 0.2."""

    kind: Literal["transformers"] = "transformers"
    """Which captioner this is."""
    model: str
    """Name on the Hub, such as Salesforce/blip-image-captioning-base, or a local folder."""
    revision: str = "main"
    """Branch, tag or commit on the Hub; the run records the commit."""
    style: Literal["auto", "plain", "chat", "text"] = "auto"
    """How the model is asked. plain: the image alone (BLIP, GIT). chat: the prompt in the model's chat
    template (LLaVA, Qwen-VL, SmolVLM). text: the prompt as it is (Florence-2's tasks, BLIP-2). auto: chat
    where there is a template, else text where there are prompts, else plain."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Prompts by name; each gives captions of its own. {column} stands for the image's value in that column
    of the input table, {{ and }} for braces. By default chat models are asked for one sentence."""
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    """What goes with the prompts."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How captions are searched."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How captions are drawn at random, which a temperature above 0 asks for."""
    dtype: Dtype = "float32"
    """Precision of the weights and the computation."""
    device: str = "cpu"
    """Torch device, e.g. cpu or cuda."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """How the model runs, and on how large images."""
    remote_code: str = ""
    """Run Python code from this model's repository; it must repeat `model`, so that nobody allows it
    unawares. Without, models that bring code are refused."""

    def __post_init__(self) -> None:
        """Refuse values that describe no search, and code that was not asked for by name."""
        if not self.model:
            raise UsageError("captioner.model: give a name on the Hub or a local folder")
        if self.remote_code not in ("", self.model):
            raise UsageError(
                f"captioner.remote_code: {self.remote_code!r} must repeat captioner.model ({self.model})"
            )
        if self.prompts:
            check_prompts(self.prompts)
        if self.prompts and self.style == "plain":
            raise UsageError("captioner.prompts: style plain takes no prompts")
        self._check_search()

    def _check_search(self) -> None:
        generation, sampling = self.generation, self.sampling
        check_least(generation, 1, "max_tokens", "beam_size", "n_best", key="captioner.generation")
        check_least(generation, 0, "min_tokens", "block_ngrams", key="captioner.generation")
        check_least(sampling, 0, "temperature", "top_k", "seed", key="captioner.sampling")
        check_least(self.compute, 1, "longest_side", key="captioner.compute")
        if not sampling.temperature and generation.n_best > generation.beam_size:
            raise UsageError(
                f"captioner.generation.n_best: {generation.n_best} is more than beam_size "
                f"({generation.beam_size}); sampling (captioner.sampling.temperature above 0) has no such "
                "limit"
            )
        if sampling.temperature and generation.beam_size > 1:
            raise UsageError(
                "captioner.sampling.temperature and captioner.generation.beam_size exclude each other"
            )
        if taken := generation.extra.keys() & _GENERATION_FIELDS:
            raise UsageError(
                f"captioner.generation.extra: {sorted(taken)[0]} has a setting of its own or is not supported"
            )

    def pinned(self, commit: str) -> "TransformersConfig":
        """The config with a commit of the Hub, so that all workers load the same one; a folder has none."""
        return self if Path(self.model).is_dir() else dataclasses.replace(self, revision=commit)


_GENERATION_FIELDS = frozenset(
    {
        "max_new_tokens", "min_new_tokens", "num_beams", "num_return_sequences", "length_penalty",
        "no_repeat_ngram_size", "repetition_penalty", "do_sample", "temperature", "top_k", "top_p",
        "output_logits", "return_dict_in_generate", "num_beam_groups", "custom_generate",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AnswersConfig:
    """What a server is asked to generate."""

    n_best: int = 1
    """Answers per prompt (the API's n)."""
    max_tokens: int = 300
    """Most tokens of an answer."""
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Field of the request that carries `max_tokens`; OpenAI's newer models take only the second."""
    cut_answers: Literal["fail", "keep"] = "fail"
    """What becomes of an answer that was cut at `max_tokens`: the row fails, or the caption is kept."""
    temperature: float | None = 0.0
    """Sampling temperature; null sends none."""
    top_p: float | None = None
    """Nucleus sampling; null sends none."""
    seed: int | None = None
    """Seed of the sampling, where the server takes one; null sends none."""
    log_probabilities: bool = False
    """Ask for the log-probabilities of the answers' tokens."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the request, e.g. chat_template_kwargs. They are recorded in run.json."""


@dataclass(frozen=True, kw_only=True)
class SentImagesConfig:
    """The images as a server gets them."""

    longest_side: int = 1024
    """Images are shrunk to this many pixels on the longer side before they are sent."""
    quality: int = 90
    """JPEG quality of the images sent."""
    detail: Literal["", "auto", "low", "high"] = ""
    """The API's `detail` of the images; empty sends none."""


@dataclass(frozen=True, kw_only=True)
class RequestsConfig:
    """How a server is asked; none of it changes a caption."""

    concurrency: int = 16
    """Requests of a worker at the same time."""
    timeout_s: float = 120.0
    """Seconds for a request, its answer included."""
    connect_s: float = 10.0
    """Seconds to reach the server."""
    attempts: int = 5
    """Requests for an answer, with growing pauses, after time-outs, broken or empty answers, 429 and 5xx."""
    backoff_s: float = 1.0
    """Longest pause before the second attempt; it doubles with each further one."""
    longest_wait_s: float = 60.0
    """Longest pause; a server that asks for more (Retry-After) is not asked again for that image."""


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """What a server charges, and how much may be spent."""

    prompt_price: float = 0.0
    """Price of a million prompt tokens, images included; any currency."""
    completion_price: float = 0.0
    """Price of a million tokens of answers."""
    budget: float | None = None
    """The run stops when it has cost this much at the prices above; the same command with a larger budget
    goes on. null for no limit."""


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible API: vLLM, SGLang, llama.cpp, Ollama, or a hosted one."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "system": "prompting.system",
        **{one.name: f"generation.{one.name}" for one in dataclasses.fields(AnswersConfig)},
        **{one.name: f"images.{one.name}" for one in dataclasses.fields(SentImagesConfig)},
        **{one.name: f"requests.{one.name}" for one in dataclasses.fields(RequestsConfig)},
        **{one.name: f"cost.{one.name}" for one in dataclasses.fields(CostConfig)},
    }
    """Keys of the first builds of version 0.2."""

    kind: Literal["endpoint"] = "endpoint"
    """Which captioner this is."""
    url: str
    """Base URL, such as http://localhost:8000/v1; /chat/completions is added."""
    model: str
    """Name of the model, as the server knows it."""
    key_variable: str | None = None
    """Environment variable that holds the API key; by default OPENAI_API_KEY, where it is set. The key itself
    has no place in a config."""
    prompts: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_PROMPTS))
    """Prompts by name; each gives captions of its own. {column} stands for the image's value in that column
    of the input table, {{ and }} for braces."""
    prompting: PromptingConfig = field(default_factory=PromptingConfig)
    """What goes with the prompts."""
    generation: AnswersConfig = field(default_factory=AnswersConfig)
    """What the server is asked to generate."""
    images: SentImagesConfig = field(default_factory=SentImagesConfig)
    """The images as the server gets them."""
    requests: RequestsConfig = field(default_factory=RequestsConfig)
    """How the server is asked."""
    cost: CostConfig = field(default_factory=CostConfig)
    """What the server charges, and how much may be spent."""

    def __post_init__(self) -> None:
        """Refuse what makes no request, and addresses that could hold a key."""
        _check_url(self.url)
        check_prompts(self.prompts)
        if not self.model:
            raise UsageError("captioner.model: name the model, as the server knows it")
        check_least(self.generation, 1, "n_best", "max_tokens", key="captioner.generation")
        check_least(self.images, 1, "longest_side", key="captioner.images")
        check_least(self.requests, 1, "concurrency", "attempts", key="captioner.requests")
        for name in ("timeout_s", "connect_s", "backoff_s", "longest_wait_s"):
            if getattr(self.requests, name) <= 0:
                raise UsageError(f"captioner.requests.{name}: {getattr(self.requests, name)} is not above 0")
        if not 1 <= self.images.quality <= 100:
            raise UsageError(f"captioner.images.quality: {self.images.quality} is not between 1 and 100")
        if taken := self.generation.extra.keys() & _REQUEST_FIELDS:
            raise UsageError(f"captioner.generation.extra: {sorted(taken)[0]} has a setting of its own")
        self._check_cost()

    def _check_cost(self) -> None:
        cost = self.cost
        check_least(cost, 0, "prompt_price", "completion_price", "budget", key="captioner.cost")
        if cost.budget is not None and not (cost.prompt_price or cost.completion_price):
            raise UsageError(
                "captioner.cost.budget needs captioner.cost.prompt_price and captioner.cost.completion_price"
            )


_REQUEST_FIELDS = frozenset(
    {
        "model", "messages", "n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
        "logprobs", "stream",
    }
)  # fmt: skip


def flat_settings(config: TransformersConfig | EndpointConfig) -> dict[str, Any]:
    """The settings of a config by their own names, whatever group they are in, as fingerprints have them.

    A `null_values` of empty is left out: earlier builds had no such setting.
    """
    settings: dict[str, Any] = {}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
        settings |= dataclasses.asdict(value) if is_group else {one.name: value}
    if settings["null_values"] == "empty":
        del settings["null_values"]
    return settings


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"captioner.url: {url!r} is no http(s) URL, such as http://localhost:8000/v1")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise UsageError(
            "captioner.url: no query and no password there, since run.json records it; the API key comes "
            "from the environment variable that captioner.key_variable names"
        )
