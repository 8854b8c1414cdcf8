"""Tokenizer that splits captions as the COCO caption tools do.

`tokenize` returns the tokens of pycocoevalcap's `PTBTokenizer` (Stanford's, 3.4.1, with `-lowerCase`, without
its list of punctuation) without Java, so training, metrics and rewards all see the same words. One difference
is intended: the Java tool reads all captions as one text, so whether "a sign that reads K." ends in "k" or
"k." depends on the first word of the next caption in the file. Here the tokens of a caption depend on that
caption alone.
"""

import re

# Abbreviations that keep their period. Those of the first list count in upper and lower case, those of the
# second only as written (in lower case they are words: "ill", "mass"), those of the third before a number.
_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|ala|ariz|calif|colo|conn|ct|dak|fla|ga|"
    "ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|mrs?|ms|drs?|profs?|sens?|reps?|"
    "attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|hon|brig|cmdr|comdr|pfc|spc|"
    "supts?|det|mt|ft|adj|adv|asst|assoc|ens|insp|mlle|mme|msgr|sfc|jr|sr|bros|ph|blvd|rd|esq|inc|cos?|corp|pty|"
    "ltd|plc|rt|bancorp|dept|bhd|assn|univ|intl|sys|vs|etc|al|seq|bldg|est|sq|mfg|natl|tel|ext|alex|wm|jos|cie|cf"
)
_CAPITALIZED = "Az|Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash|AZ|ARK|DEL|ILL|LA|MASS|MISS|ORE|PA|TEX|WASH"
_NUMBERED = "nos?|prop|pp|figs?|op"
# Before these words, the period after a single letter ends a sentence.
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

    Clitics become separate tokens ("dog", "'s"), hyphenated words and abbreviations stay whole ("t-shirt",
    "mr."), and round brackets become "-lrb-" and "-rrb-" (the published list spells them in upper case).
    """
    text = text.translate(_NORMALIZED)
    if "&" in text:
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    tokens = (token.lower() for token in _TOKEN.findall(text))
    return [_spell(token) for token in tokens if token not in _PUNCTUATION]


def _spell(token: str) -> str:
    """Replace brackets by their names, and the space in a fraction, as the Java tokenizer does."""
    if token.isalnum():
        return token
    token = token.replace(" ", "\u00a0")
    for bracket, name in _BRACKETS:
        token = token.replace(bracket, name)
    return token
