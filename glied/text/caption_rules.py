"""Rules that turn what a captioner wrote into the caption that is kept."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

from glied.errors import UsageError
from glied.text.existing_captions import ExistingConfig

_PHOTO = r"(?:image|picture|photo|photograph|pic|shot)"
_KIND = r"(?:image|picture|photo|photograph|pic|shot|scene|illustration|drawing|painting|screenshot)"
_VERB = (
    r"(?:shows|showing|depicts|depicting|displays|displaying|features|featuring|captures|capturing|portrays|"
    r"portraying|presents|presenting|showcases|showcasing|illustrates|illustrating|contains)"
)
_ADJECTIVES = rf"(?:(?!(?:an?|the|of|is|in|{_VERB})\b)[\w-]+,?\s+){{0,3}}?"
_OPENINGS = re.compile(
    "|".join(
        (
            r"(?:sure|certainly|of course|okay|ok)\s*[,!.:]\s*",
            rf"here(?:'s|\s+is|\s+are)\s+(?:an?|the)\s+{_ADJECTIVES}(?:caption|description)s?\b[^:.\n]{{0,60}}:\s*",
            r"(?:caption|description|image|picture|photo)\s*:\s*",
            rf"(?:this|the|it|that)\s+is\s+an?\s+{_ADJECTIVES}{_PHOTO}\s+of\s+",
            rf"(?:this|the|it|that)\s+is\s+an?\s+{_ADJECTIVES}{_KIND}\s+(?:that\s+)?{_VERB}\s+",
            rf"(?:this|that|the|an?)\s+{_ADJECTIVES}{_PHOTO}\s+(?:is\s+)?of\s+",
            rf"(?:this|that|the|an?)\s+{_ADJECTIVES}{_KIND}\s+{_VERB}\s+",
            rf"in\s+(?:this|the)\s+{_ADJECTIVES}{_KIND}\s*,?\s+(?:(?:we|you|one)\s+(?:can\s+)?see\s+)?",
            r"(?:we|you|i)\s+(?:can\s+)?see\s+",
        )
    ),
    re.IGNORECASE,
)
"""What models begin with although it says nothing of the image."""
_ABBREVIATIONS = frozenset(
    {
        "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "approx", "ca", "no", "fig", "vol",
        "inc", "ltd", "co", "corp", "dept", "est", "mt", "ft", "ave", "blvd",
    }
)  # fmt: skip
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s+[^\sa-z])|"
    r"(?<![\u3002\uff01\uff1f])[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*"
    r"(?=[^\u3002\uff01\uff1f\u201d\u2019\u300d\u300f\uff09])"
)
"""Each run of marks is tried once, from its beginning, so that long runs take no longer than other text."""
_LIST_MARK = re.compile(r"(?:\(?\d{1,2}[.)]|[-*\u2022])\s+(?=\S)")
"""What begins an entry of a list: 1. or 1) or (1) or a bullet."""
_LIST_NUMBER = re.compile(r":\s+\d{1,2}$")
_NO_SPACES = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]$")
"""A letter of a script that puts no spaces between words, such as Chinese and Thai."""
_INITIALS = re.compile(r"[^\W\d_](?:\.[^\W\d_])*")
"""A letter, or letters with periods between them (U.S)."""
_LONGEST_SHORT = 40
"""Characters before a period that tell whether it ends a sentence."""
_CUT_END = " ,;:-\u2013\u2014("


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """What becomes of the text that a captioner gives; applied in the order of these settings."""

    strip_openings: bool = False
    """Remove openings such as "This image shows", "In the picture we can see", "Sure! Here is a caption:"."""
    openings: list[str] = field(default_factory=list)
    """Further openings to remove, as they are written, in any case, and only where a word ends behind them:
    "The image" is not removed from "The images hang on a wall"."""
    one_sentence: bool = False
    """Keep the first sentence."""
    max_words: int = 0
    """Keep this many words; 0 keeps all."""
    lower_case: bool = False
    """Write the caption in lower case."""
    prefix: str = ""
    """Text before the caption, as it is: with a space at its end, where one is wanted."""
    suffix: str = ""
    """Text behind the caption, as it is."""
    trigger: str = ""
    """Word that begins the caption, with a comma behind it, unless the caption has the word already."""
    existing: ExistingConfig = field(default_factory=ExistingConfig)
    """Captions that the images have already."""

    def __post_init__(self) -> None:
        """Refuse numbers of words and openings that make no sense."""
        if self.max_words < 0:
            raise UsageError(f"text.max_words: {self.max_words} is negative")
        if not all(one.strip() for one in self.openings):
            raise UsageError("text.openings: an opening must not be empty")

    def __call__(self, text: str) -> str:
        """Apply the rules; a text that is not empty never becomes empty."""
        if not text.strip():
            return ""
        if self.strip_openings or self.openings:
            text = self._without_openings(text)
        if self.one_sentence:
            text = first_sentence(text)
        if self.max_words:
            text = first_words(text, self.max_words)
        if self.lower_case:
            text = text.lower()
        text = f"{self.prefix}{text}{self.suffix}"
        return text if self._has_trigger(text) else f"{self.trigger}, {text}"

    def _without_openings(self, text: str) -> str:
        own = _own_openings(tuple(self.openings))
        while True:
            rest = text.lstrip()
            match = own.match(rest) or (_OPENINGS.match(rest) if self.strip_openings else None)
            shorter = rest[match.end() :].lstrip(" ,:\n") if match else ""
            if not shorter:
                return text
            text = shorter[0].upper() + shorter[1:] if rest[0].isupper() else shorter

    def _has_trigger(self, text: str) -> bool:
        if not self.trigger:
            return True
        return re.search(rf"(?<!\w){re.escape(self.trigger)}(?!\w)", text, re.IGNORECASE) is not None


@lru_cache
def _own_openings(openings: tuple[str, ...]) -> re.Pattern[str]:
    """Matches the longest opening that a text begins with, and nothing if there are none."""
    longest_first = sorted(openings, key=len, reverse=True)
    return re.compile("|".join(map(_opening, longest_first)) or r"(?!)", re.IGNORECASE)


def _opening(text: str) -> str:
    is_word = re.search(r"\w$", text) and not _NO_SPACES.search(text)
    return re.escape(text) + (r"(?!\w|['\u2019-]\w)" if is_word else "")


def first_sentence(text: str) -> str:
    """Return the first sentence, or the first line where that ends earlier; of lists, of the first entry.

    Abbreviations ("St. Mary"), initials, numbers ("3.5 m") and those of lists do not end a sentence.
    """
    line = text.strip().split("\n", 1)[0].rstrip()
    line = line[mark.end() :] if (mark := _LIST_MARK.match(line)) else line
    for match in _SENTENCE_END.finditer(line):
        before = line[max(0, match.start() - _LONGEST_SHORT) : match.start()]
        if not (match[0].startswith(".") and _goes_on(before)):
            return line[: match.end()]
    return line


def _goes_on(before: str) -> bool:
    """Whether a sentence goes on after a period, because of the text before it."""
    words = before.split()
    word = words[-1].lstrip("(\"'\u201c\u2018").lower() if words else ""
    is_short = word in _ABBREVIATIONS or _INITIALS.fullmatch(word) is not None
    return is_short or _LIST_NUMBER.search(before) is not None


def first_words(text: str, count: int) -> str:
    """Return the first words of a text, without the punctuation that the cut would leave at the end."""
    found = list(re.finditer(r"\S+", text))
    if len(found) <= count:
        return text
    kept = text[: found[count - 1].end()].rstrip(_CUT_END)
    return kept or text[: found[count - 1].end()]
