"""JSON as other programs write it, with whole numbers of any length."""

import json
from typing import Any


class Digits(str):
    """A whole number of more digits than Python turns into an integer, as text."""

    __slots__ = ()


def loads(text: str) -> Any:
    """As `json.loads`, but a number of thousands of digits is `Digits` and no error."""
    return json.loads(text, parse_int=_whole_number)


def _whole_number(text: str) -> int | Digits:
    try:
        return int(text)
    except ValueError:
        return Digits(text)
