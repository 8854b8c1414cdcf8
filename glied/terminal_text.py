"""Texts of others, such as captions and file names, as lines for a terminal."""

import re

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, marks that change the direction of text, and halves of characters."""


def printable(text: str) -> str:
    r"""A text as one line that a terminal shows and does not obey: other characters as `\n`, `\x1b`, ..."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
