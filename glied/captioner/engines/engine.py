"""What an engine is: images in, captions or the reason why there are none out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""Upright RGB, [H, W, 3]."""
NO_PROMPT = ""
"""Name of the prompt of captions that were not prompted."""


@dataclass(frozen=True)
class EngineCaption:
    """A caption of an image.

    Attributes:
        text: the caption, without surrounding white space.
        log_probability: natural logarithm under the model, end token included; None where unknown.
        prompt: name of the prompt that it answers.
        truncated: it was cut at the maximum length.
    """

    text: str
    log_probability: float | None = None
    prompt: str = NO_PROMPT
    truncated: bool = False


@dataclass(frozen=True)
class Failure:
    """Why an image has no captions.

    Attributes:
        kind: short slug that the summary counts by, such as "timeout" or "refused".
        message: for a person; holds no key and no image data.
        status: "failed" where another try may succeed, "rejected" where the model declines the image.
    """

    kind: str
    message: str
    status: Literal["failed", "rejected"] = "failed"


Outcome: TypeAlias = "list[EngineCaption] | Failure"
"""The captions of an image, prompt by prompt and the best first, or why there are none."""


def with_text(outcome: Outcome) -> Outcome:
    """The captions that have text; a failure if those of a prompt have none."""
    if isinstance(outcome, Failure):
        return outcome
    found = [one for one in outcome if one.text.strip()]
    if not found or {one.prompt for one in found} != {one.prompt for one in outcome}:
        return Failure("empty_answer", "the model gave no text")
    return found


@dataclass
class Usage:
    """What requests have cost so far.

    Attributes:
        requests: HTTP requests that were sent, retries included.
        retries: those that repeated an earlier one.
        prompt_tokens: tokens of prompts and images, as the server counted them.
        completion_tokens: tokens of answers, as the server counted them.
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """The sum of both."""
        return Usage(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def cost(self, *, prompt_price: float, completion_price: float) -> float:
        """Money spent, at prices per million tokens."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class Engine(Protocol):
    """A captioner of whole images.

    Attributes:
        name: of the model, for the column `model`.
        resolution: the short and the long side in pixels that images are resized to fit into; larger ones may
            be shrunk while they are decoded.
    """

    name: str
    resolution: tuple[int, int]

    def caption(
        self, images: Sequence[Image], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Outcome]:
        """Caption images.

        Args:
            images: upright RGB.
            columns: of each image, the columns of the input table that its prompts may name.

        Returns:
            One outcome per image, in order; it does not depend on the other images.
        """
        ...

    def usage(self) -> Usage:
        """What `caption` has used since the last call of this function."""
        ...
