"""Words: tokenization as the COCO caption tools do it, and the table between words and ids.

`tokenize` gives the tokens of pycocoevalcap's `PTBTokenizer` (Stanford's, 3.4.1, with `-lowerCase`, less
its list of punctuation) without Java, so that training, metrics and rewards see the same words.
One difference is meant: Java reads all captions as one text, and whether "a sign that reads K." ends in "k"
or "k." depends on the first word of the next caption in the file. Here a caption's words depend on it alone.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from glied import storage
from glied.errors import UsageError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

# Abbreviations that keep their period. The first list holds in any case; the second's are other words in
# lower case ("ill", "mass"); the third's are abbreviations only before a number.
_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|ala|ariz|calif|colo|conn|ct|dak|fla|ga|"
    "ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|mrs?|ms|drs?|profs?|sens?|reps?|"
    "attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|hon|brig|cmdr|comdr|pfc|spc|"
    "supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|jr|sr|bros|ph|blvd|rd|esq|inc|cos?|corp|pty|"
    "ltd|plc|rt|bancorp|dept|bhd|assn|univ|intl|sys|vs|etc|al|seq|bldg|est|sq|mfg|natl|tel|ext|alex|wm|jos|cie|cf"
)
_CAPITALIZED = "Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|AZ|ARK|DEL|ILL|LA|MASS|MISS|ORE|PA|TEX|WASH"
_NUMBERED = "nos?|prop|pp|figs?|op"
# Before these, the period after a single letter ends a sentence.
_STARTERS = (
    "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr.|Ms.|"
    "Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|While|What|"
    "Yet|You"
)
_A, _AN = r"[^\W\d_]", r"[^\W_]"  # a letter; a letter or digit
_NUMBER = r"\d+(?:[.,:]\d+)*"
_NT = r"n't(?!\w)"
_CLITIC = rf"(?:'(?:s|m|d|ll|re|ve)(?!{_AN}))"
_TOKEN = re.compile(
    "|".join(
        (
            r"</?[A-Za-z!?][^<>\n]*>",  # markup
            r"https?://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]",
            r"(?:[^\W_][\w-]*\.)+(?:com|net|org|edu)\b",
            r"www\.(?:[^\s\"<>|.!?(){},]+\.)+[A-Za-z]{2,4}",
            r"[A-Za-z0-9][^\s\"<>|(){}]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,4}",
            r"[@\#][A-Za-z_]\w*",
            r"[:;=][-o*']?[()DPdp](?!\w)",  # smileys
            rf"can(?=not(?!{_AN}))|(?:gon|wan)(?=na(?!{_AN}))|got(?=ta(?!{_AN}))|(?:lem|gim)(?=me(?!{_AN}))",
            r"'t(?=(?:is|was)\b)",
            _NT,
            _CLITIC,
            r"'n'(?=[a-z])|'n'?(?!\w)|'em\b|'til\b|'cause\b|'\d\ds(?!\w)|'\d\d(?![\w'-])",
            r"(?:ol|somethin|dunkin|goin|nothin)'(?!\w)|y'(?=all)",
            r"(?:\d{1,4}[- \u00A0])?\d{1,4}/\d{1,4}(?![\w/])",  # fractions; "2 1/2" is one token
            r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}(?!\d)",  # dates
            rf"(?:{_A}\.){{2,}}{_A}(?=\W|$)(?!\.)",  # D.V.D
            rf"{_A}(?=\.\s+(?-i:{_STARTERS})\s)",
            rf"(?:{_A}\.)+(?!\w)",  # acronyms and initials
            rf"(?:{_ABBREVIATIONS})\.(?!\w)",
            rf"(?-i:{_CAPITALIZED})\.(?!\w)",
            rf"(?:{_NUMBERED})\.(?=\s?\d)",
            r"(?-i:[A-Z]+(?:&[A-Z]+)+)(?!\w)|c\+\+|[cf]\#",
            rf"{_A}+?(?={_NT})",
            r"c'mon\b|ma'am\b|o'clock\b",
            rf"{_A}{_AN}*(?:[.!?]{_A}{_AN}*)+(?![-'\w])",  # a period without a space joins words
            rf"{_AN}+(?:-{_A}+){{0,2}}(?:/{_AN}+(?:-{_A}+){{0,2}}){{1,2}}(?![\w])",  # and/or
            rf"[ld]'{_A}+(?:-{_AN}+)*|o'{_A}{{2,}}",
            rf"{_A}+'(?!(?:s|m|d|ll|re|ve)(?!{_AN}))[aeiouhy]{_A}*",  # ho'ohu
            r"\d{1,2}:\d\d(?=[ap]m)",
            rf"[-+]?\.?{_NUMBER}(?!{_AN}|-{_AN})",
            rf"{_AN}+(?:[.,]\d+)*(?:[-_]{_AN}+)*",
            r"\.\.\.|--|[?!]+|``|''|\*+|_+|&\#\d+;",
            r"\S",
        )
    ),
    re.IGNORECASE,
)
_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])
_NORMALIZED = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "--", "\u2014": "--", "…": "..."}
    | {"€": "$", "£": "#"}
    | {"½": "\t1/2", "¼": "\t1/4", "¾": "\t3/4"}
)
_ENTITIES = (("&amp;", "&"), ("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"))
_BRACKETS = (
    ("(", "-lrb-"), (")", "-rrb-"), ("[", "-lsb-"), ("]", "-rsb-"), ("{", "-lcb-"), ("}", "-rcb-")
)  # fmt: skip


def tokenize(text: str) -> list[str]:
    """Split a caption into lower-case tokens without punctuation, as the COCO tools do.

    Clitics are tokens of their own ("dog", "'s"), hyphenated words and abbreviations stay whole ("t-shirt",
    "mr."), round brackets stay as "-lrb-" and "-rrb-" (the published list has them in upper case).
    """
    text = text.translate(_NORMALIZED)
    if "&" in text:
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    tokens = (token.lower() for token in _TOKEN.findall(text))
    return [_spell(token) for token in tokens if token not in _PUNCTUATION]


def _spell(token: str) -> str:
    """Write brackets by name and the space within a fraction as Java's tokenizer does."""
    if token.isalnum():
        return token
    token = token.replace(" ", "\u00a0")
    for bracket, name in _BRACKETS:
        token = token.replace(bracket, name)
    return token


def load_words(uri: str) -> list[str]:
    """The words of a vocabulary.json or attributes.json that jobs/prepare_coco.py wrote.

    Raises:
        UsageError: there is no such file, or it is of another form.
    """
    try:
        words = json.loads(storage.read_bytes(uri))["words"]
    except FileNotFoundError as error:
        raise UsageError(f"no word list at {uri}: jobs/prepare_coco.py writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f'{uri} is no word list, {{"words": [...]}}: {error}') from error
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f'{uri} is no word list: "words" must be a list of words')
    return words


def image_counts(captions: Iterable[Sequence[str]]) -> Counter[str]:
    """In how many images' captions each word stands, given each image's; special tokens are no words."""
    counts = Counter(word for texts in captions for word in {w for text in texts for w in tokenize(text)})
    return Counter({word: count for word, count in counts.items() if word not in SPECIAL})


def by_count(counts: Mapping[str, int]) -> list[str]:
    """Words by how often they were counted, the commonest first, ties by alphabet."""
    return sorted(counts, key=lambda word: (-counts[word], word))


class Vocabulary:
    """The table between words and ids; ids 0 to 3 are `<pad>`, `<bos>`, `<eos>` and `<unk>`."""

    def __init__(self, words: Sequence[str]) -> None:
        """Give ids to `words` in order, after the special tokens.

        Raises:
            UsageError: a word stands twice or is a special token.
        """
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        self.ids = {word: index for index, word in enumerate(self.words)}
        self._of_captions = {word: index for word, index in self.ids.items() if word not in SPECIAL}
        if len(self.ids) != len(self.words):
            raise UsageError("vocabulary: a word stands twice")

    @classmethod
    def from_captions(cls, captions: Iterable[str], minimum_count: int = 5) -> "Vocabulary":
        """The words that occur at least `minimum_count` times, the commonest first, ties by alphabet."""
        counts = Counter(token for caption in captions for token in tokenize(caption))
        kept = {word: n for word, n in counts.items() if n >= minimum_count and word not in SPECIAL}
        return cls(by_count(kept))

    def __len__(self) -> int:
        """The number of ids, the special ones included."""
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        """Whether `word` has an id of its own."""
        return word in self.ids

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Ids of tokens, `<unk>` for unknown ones and special ones, which mean nothing in a caption; adds no
        begin or end."""
        return [self._of_captions.get(token, UNK) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of ids up to the first `<eos>`; `<pad>` and `<bos>` are left out."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self.words[index])
        return words

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON form, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_json(), ensure_ascii=False).encode()).hexdigest()

    def to_json(self) -> list[str]:
        """The words without the special ones, in the order of their ids."""
        return list(self.words[len(SPECIAL) :])

    @classmethod
    def from_json(cls, words: Sequence[str], digest: str | None = None) -> "Vocabulary":
        """Rebuild a vocabulary from `to_json`.

        Raises:
            UsageError: the words do not have the expected `digest`.
        """
        vocabulary = cls(words)
        if digest is not None and vocabulary.digest != digest:
            raise UsageError(f"vocabulary digest is {vocabulary.digest[:12]}, expected {digest[:12]}")
        return vocabulary
