"""Captions that images have before they are captioned."""

from dataclasses import dataclass
from typing import Literal

from glied.errors import UsageError

Source = Literal["model", "input", "input+model", "model+input"]
"""Where a caption comes from: its parts in their order."""


@dataclass(frozen=True, kw_only=True)
class ExistingConfig:
    """Where the captions are that images have already, and what becomes of them."""

    column: str = ""
    """Column of the input that holds them; of tars the .txt of a sample is the column txt. Empty for none. An
    image whose caption is empty or null is captioned."""
    sidecar: str = ""
    """Of input.form files, in place of `column`: extension of the text files beside the images that hold
    them, such as txt. It takes a request more for each image."""
    mode: Literal["keep", "replace", "append", "prepend"] = "keep"
    """keep: an image with a caption is not captioned again. replace: its new caption takes the place of the
    old one. append, prepend: the new caption stands behind, or before, the old one."""
    separator: str = " "
    """Of append and prepend: what stands between the two captions."""

    def __post_init__(self) -> None:
        """Refuse two places of the captions, none where they are to be changed, and odd extensions."""
        if self.column and self.sidecar:
            raise UsageError("text.existing: give either column or sidecar")
        if self.mode != "keep" and not self.is_set:
            raise UsageError(
                f"text.existing.mode: {self.mode} needs text.existing.column or text.existing.sidecar"
            )
        if "/" in self.sidecar:
            raise UsageError(f"text.existing.sidecar: {self.sidecar!r} is no extension, such as txt")

    @property
    def is_set(self) -> bool:
        """Whether images may have captions already."""
        return bool(self.column or self.sidecar)

    def combined(self, existing: str, caption: str) -> tuple[str, Source]:
        """The caption to write for an image that has one, and where it comes from."""
        if self.mode == "append":
            return existing + self.separator + caption, "input+model"
        if self.mode == "prepend":
            return caption + self.separator + existing, "model+input"
        return (existing, "input") if self.mode == "keep" else (caption, "model")
