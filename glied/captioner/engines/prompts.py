"""Prompts by name, with values of the image's row in the input table."""

import json
import string
from collections.abc import Mapping
from typing import Any

from glied.errors import UsageError

DEFAULT_PROMPTS = {"caption": "Describe this image in one sentence."}
MOST_CHARACTERS = 2000
"""Longer values are cut in a prompt."""


class MissingColumnError(ValueError):
    """A prompt names a column that the image's row does not have."""


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


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """A prompt with the values of its columns.

    Strings are quoted as in JSON, so that a value stays one line and shows where it ends; a missing value
    (null) is an empty string.

    Raises:
        MissingColumnError: the row has no such column.
    """
    values = {}
    for name in columns_of(template):
        if name not in columns:
            known = ", ".join(columns) or "none"
            raise MissingColumnError(f"the prompt names the column {name}; the input has {known}")
        values[name] = _quoted(columns[name])
    return template.format(**values)


def _quoted(value: Any) -> str:
    if value is None or isinstance(value, str):
        return json.dumps((value or "")[:MOST_CHARACTERS], ensure_ascii=False)
    return str(value)[:MOST_CHARACTERS]
