"""Prompts by name, with values of the image's row in the input table."""

import json
import re
import string
from collections.abc import Mapping
from typing import Any, Literal

from glied.errors import UsageError

DEFAULT_PROMPTS = {"caption": "Describe this image in one sentence."}
MOST_CHARACTERS = 2000
"""Longer values are cut in a prompt."""


_CONTROL = re.compile(r"<(?=\S)|\[(?=/?[A-Z_]+\])")
"""What control tokens of chat templates begin with: <|im_end|>, </s>, <start_of_turn>, [INST]."""


class PromptError(ValueError):
    """A prompt cannot be filled from the row of its image.

    Attributes:
        kind: missing_column, or missing_value for a null where `null_values` is fail.
    """

    def __init__(self, kind: str, message: str) -> None:
        """Name the kind of error and describe it."""
        super().__init__(message)
        self.kind = kind


def check_prompts(prompts: Mapping[str, str]) -> None:
    """Refuse prompts that are empty, or whose braces hold anything but the name of a column.

    Raises:
        UsageError: it names the prompt.
    """
    if not prompts:
        raise UsageError("captioner.prompts is empty: give at least one prompt, {name: text}")
    for name, template in prompts.items():
        if not name or not template.strip():
            raise UsageError(f"captioner.prompts: {name!r}: name and text must not be empty")
        try:
            columns_of(template)
        except ValueError as error:
            raise UsageError(f"captioner.prompts.{name}: {error}") from error


def columns_of(template: str) -> list[str]:
    """The columns of the input table that a prompt names.

    Raises:
        ValueError: its braces hold something else, or do not match.
    """
    found = []
    for _, name, form, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if not name or form or conversion or set(name) & set(".[]"):
            raise ValueError(
                f"{{{name}}} is no column: braces hold a column's name, {{{{ and }}}} are braces"
            )
        found.append(name)
    return found


def prompted_columns(prompts: Mapping[str, str]) -> list[str]:
    """The columns that any of the prompts names, each once."""
    return list(dict.fromkeys(column for template in prompts.values() for column in columns_of(template)))


def fill(template: str, columns: Mapping[str, Any], null_values: Literal["empty", "fail"] = "empty") -> str:
    """Fill a prompt with the values of its columns.

    Values are quoted as in JSON, numbers stay as they are: a value is one line, and the model sees where it
    ends. What could be a control token of a chat template is escaped ("<|im_end|>" becomes
    "\\u003c|im_end|>"), and braces in values mean nothing. Null is an empty text, or an error.

    Raises:
        PromptError: the row has no such column, or a null in it that `null_values` refuses.
    """
    parts: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if name is not None:
            parts.append(_quoted(_value(name, columns, null_values)))
    return "".join(parts)


def _value(name: str, columns: Mapping[str, Any], null_values: str) -> Any:
    if name not in columns:
        known = ", ".join(columns) or "none"
        raise PromptError("missing_column", f"the prompt names the column {name}; the input has {known}")
    if columns[name] is None and null_values == "fail":
        raise PromptError("missing_value", f"the column {name} of this image is null; a prompt names it")
    return columns[name]


def _quoted(value: Any) -> str:
    text = json.dumps("" if value is None else value, ensure_ascii=False, default=str)
    if len(text) > MOST_CHARACTERS:
        text = json.dumps((value if isinstance(value, str) else text)[:MOST_CHARACTERS], ensure_ascii=False)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
