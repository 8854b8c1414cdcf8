"""Requests and answers of the chat completions API, and images as `data:` URIs."""

import base64
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image as Pillow

from glied.captioner.engines.config import EndpointConfig
from glied.captioner.engines.engine import EngineCaption, Failure, Image, Usage
from glied.data.caption_files import without_surrogates
from glied.redaction import redacted

REFUSED = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
"""Error codes and finish reasons of servers that decline an image."""
MOST_SHOWN = 300
"""Characters of a server's message that are kept."""
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What is raised where JSON has another form than expected, or is nested too deeply."""
_MOST_TOKENS = 1 << 53
"""No answer has so many; a larger count is malformed."""
_DATA = re.compile(r"data:[\w/+.\-]*(?:;[\w=\-]+)*,[A-Za-z0-9+/=_%\-]*|[A-Za-z0-9+/]{200,}={0,2}")


class BrokenAnswerError(ValueError):
    """An answer without a caption in it, which another request may have.

    Attributes:
        kind: "broken_answer" or "empty_answer".
        usage: what the server has counted all the same.
    """

    def __init__(self, kind: str, message: str, usage: Usage | None = None) -> None:
        """Name the kind of fault and describe it."""
        super().__init__(message)
        self.kind, self.usage = kind, usage or Usage()


@dataclass(frozen=True)
class Answer:
    """What came back for a prompt, and what it took."""

    captions: list[EngineCaption] | Failure
    usage: Usage


def data_uri(image: Image, *, longest_side: int, quality: int) -> str:
    """Upright RGB pixels [H, W, 3] as a JPEG in a `data:` URI, no longer than `longest_side`."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((longest_side, longest_side), Pillow.Resampling.LANCZOS)
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()


def request(config: EndpointConfig, prompt: str, uri: str) -> dict[str, Any]:
    """The body of a request for captions of one image."""
    wanted, detail, system_text = config.generation, config.images.detail, config.prompting.system
    image = {"url": uri} | ({"detail": detail} if detail else {})
    content = [{"type": "image_url", "image_url": image}, {"type": "text", "text": prompt}]
    system = [{"role": "system", "content": system_text}] if system_text else []
    optional = {"temperature": wanted.temperature, "top_p": wanted.top_p, "seed": wanted.seed}
    return {
        "model": config.model,
        "messages": [*system, {"role": "user", "content": content}],
        wanted.length_field: wanted.max_tokens,
        **{name: value for name, value in optional.items() if value is not None},
        **({"n": wanted.n_best} if wanted.n_best > 1 else {}),
        **({"logprobs": True} if wanted.log_probabilities else {}),
        **wanted.extra,
    }


def read_answer(body: bytes, *, prompt: str, cut_answers: str) -> Answer:
    """The captions in the body of a successful answer, best first where their log-probabilities are known.

    Raises:
        BrokenAnswerError: it is cut off, no chat completion, or has no text.
    """
    try:
        content = json.loads(body)
        choices = content["choices"]
        captions = [_caption(choice, prompt) for choice in choices]
    except _MALFORMED as error:
        message = f"the answer is no chat completion ({type(error).__name__})"
        raise BrokenAnswerError("broken_answer", message) from error
    usage = _usage(content.get("usage"))
    refusals = [one for one in captions if isinstance(one, Failure)]
    texts = [one for one in captions if isinstance(one, EngineCaption) and one.text]
    if refusals and not texts:
        return Answer(refusals[0], usage)
    if not texts:
        raise BrokenAnswerError("empty_answer", "the answer has no text", usage)
    whole = [one for one in texts if not one.truncated]
    if cut_answers == "fail" and not whole:
        return Answer(Failure("cut_answer", "the answer was cut at captioner.generation.max_tokens"), usage)
    kept = whole if cut_answers == "fail" else texts
    return Answer(sorted(kept, key=lambda one: -(one.log_probability or 0.0)), usage)


def read_error(status: int, body: bytes, secret: str = "") -> Failure:
    """What an answer with an error status says; it may be a refusal of the image."""
    code, message = "", ""
    try:
        error = json.loads(body)
        error = error.get("error", error)
        code, message = (
            (str(error.get("code") or error.get("type") or ""), str(error.get("message") or error))
            if isinstance(error, Mapping)
            else ("", str(error))
        )
    except (ValueError, AttributeError, RecursionError):
        message = body.decode(errors="replace")
    text = f"HTTP {status}: {clean(message, secret)}".rstrip(": ")
    if code in REFUSED:
        return Failure("refused", text, "rejected")
    if code == "insufficient_quota":
        return Failure("insufficient_quota", text)
    return Failure(f"http_{status}", text)


def clean(message: str, secret: str = "") -> str:
    """A server's message in one line, without image data, the key and what else is secret."""
    if secret:
        message = message.replace(secret, "...")
    message = _DATA.sub("(data)", without_surrogates(message))
    return redacted(" ".join(message.split()))[:MOST_SHOWN]


def _caption(choice: Mapping[str, Any], prompt: str) -> EngineCaption | Failure:
    message, reason = choice["message"], choice.get("finish_reason")
    if message.get("refusal"):
        return Failure("refused", clean(str(message["refusal"])), "rejected")
    if reason in REFUSED:
        return Failure("refused", f"the server stopped the answer: {reason}", "rejected")
    return EngineCaption(
        _text(message.get("content")), _log_probability(choice.get("logprobs")), prompt, reason == "length"
    )


def _text(content: Any) -> str:
    """The text of a message, which is a string or a list of parts.

    JSON can hold half of a character, which no output can.
    """
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    return without_surrogates(content or "").strip()


def _log_probability(logprobs: Mapping[str, Any] | None) -> float | None:
    tokens = (logprobs or {}).get("content")
    return None if not tokens else float(sum(token["logprob"] for token in tokens))


def _usage(usage: Any) -> Usage:
    """What the server has counted; nothing where that is malformed, for the caption is there all the same."""
    found = usage if isinstance(usage, Mapping) else {}
    return Usage(
        prompt_tokens=_tokens(found.get("prompt_tokens")),
        completion_tokens=_tokens(found.get("completion_tokens")),
    )


def _tokens(count: Any) -> int:
    try:
        number = int(count or 0)
    except (ValueError, TypeError, OverflowError):
        return 0
    return number if 0 <= number < _MOST_TOKENS else 0
