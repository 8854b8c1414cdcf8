"""JSON parsing that accepts integers of any length."""

import json
from typing import Any


class Digits(str):
    """An integer with more digits than Python converts, kept as text."""

    __slots__ = ()


def loads(text: str) -> Any:
    """Parse JSON like `json.loads`, but return integers of thousands of digits as `Digits`."""
    return json.loads(text, parse_int=_whole_number)


def _whole_number(text: str) -> int | Digits:
    try:
        return int(text)
    except ValueError:
        return Digits(text)
