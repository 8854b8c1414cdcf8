import shutil

import pytest

from glied.errors import UsageError
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, by_count, image_counts, load_words

# Results of pycocoevalcap's PTBTokenizer (Stanford CoreNLP 3.4.1).
PINNED = [
    ("A man's T-shirt, and the dogs' bowls.", "a man 's t-shirt and the dogs bowls"),
    ("It's a bear that isn't (quite) awake!", "it 's a bear that is n't -lrb- quite -rrb- awake"),
    (
        "They can't, don't and won't; I'm sure we'll see.",
        "they ca n't do n't and wo n't i 'm sure we 'll see",
    ),
    ("Two cannot wanna gonna things.", "two can not wan na gon na things"),
    ("A t.v. on St. Mark's Ave. in Washington D.C.", "a t.v. on st. mark 's ave. in washington d.c."),
    (
        "Mr. Smith saw the U.S. flag at 5:54pm, 12:43 p.m.",
        "mr. smith saw the u.s. flag at 5:54 pm 12:43 p.m.",
    ),
    ("An A.T.M. The dog, e.g. one at K. street", "an a.t.m. the dog e.g. one at k. street"),
    ("a sign that reads K.", "a sign that reads k."),
    ("22 3/4 of 1/2 and/or a 10-29-2011 date", "22\xa03/4 of 1/2 and/or a 10-29-2011 date"),
    ("a river.A group  of people", "a river.a group of people"),
    ("\"quoted\" 'single' `back` \u201ccurly\u201d it\u2019s", "quoted single back curly it 's"),
    ("what?! wow!!! yes... no.. a...b", "what ?! wow !!! yes no a. b"),
    ("black-and-white close-up - multi- colored -- end", "black-and-white close-up multi colored end"),
    ("rock 'n' roll and rock'n'roll in the '90s", "rock 'n' roll and rock 'n' roll in the '90s"),
    ("No. 5 and no. five, Fig. 3", "no. 5 and no five fig. 3"),
    ("AT&T at&t B&W salt & pepper", "at&t at & t b&w salt & pepper"),
    ("#1 @home #tag $5.50 50% 4x4 mp3", "# 1 @home #tag $ 5.50 50 % 4x4 mp3"),
    ("[square] {curly} <b> :) =", "-lsb- square -rsb- -lcb- curly -rcb- <b> :-rrb- ="),
    ("avrovulcan.com sign at www.site.org", "avrovulcan.com sign at www.site.org"),
    ("caf\xe9 na\xefve half \xbd \u2013 dash \u2014 and \u2026", "caf\xe9 na\xefve half 1/2 dash and"),
    ("o'clock d'oeuvre ho'ohu y'all 'em ol' somethin'", "o'clock d'oeuvre ho'ohu y' all 'em ol' somethin'"),
    ("Inc. Corp. etc. In the mass. of Mass.", "inc. corp. etc. in the mass of mass."),
    ("  spaces\tand tabs  ", "spaces and tabs"),
    ("", ""),
    ("!!!", "!!!"),
    ("schoolbus/boat/house. 3/4's 5th 1950s 1,000.50", "schoolbus/boat/house 3/4 's 5th 1950s 1,000.50"),
    ("a * b ** c _ d __ e", "a * b ** c _ d __ e"),
    ("C++ and B-25 P-51's 3-D", "c++ and b-25 p-51 's 3-d"),
]


@pytest.mark.parametrize(("caption", "expected"), PINNED)
def test_tokens_are_those_of_the_coco_tools(caption, expected):
    assert tokenize(caption) == expected.split(" ") if expected else tokenize(caption) == []


@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")
def test_parity_with_java():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # Java's tokenizer looks past the end of a line; plain lines between the captions isolate them.
    lines = [text for caption, _ in PINNED for text in (caption, "x")]
    found = PTBTokenizer().tokenize({i: [{"caption": line}] for i, line in enumerate(lines)})
    assert [found[2 * i][0].split(" ") for i in range(len(PINNED))] == [
        tokenize(caption) or [""] for caption, _ in PINNED
    ]


def test_vocabulary_round_trip():
    vocabulary = Vocabulary.from_captions(["A dog.", "a cat", "the dog's a pet"], minimum_count=2)
    assert vocabulary.words == ("<pad>", "<bos>", "<eos>", "<unk>", "a", "dog")
    assert len(vocabulary) == 6
    assert "dog" in vocabulary
    assert "cat" not in vocabulary
    assert vocabulary.encode(["a", "cat", "dog"]) == [4, UNK, 5]
    assert vocabulary.decode([BOS, 4, 5, EOS, 4, PAD]) == ["a", "dog"]
    again = Vocabulary.from_json(vocabulary.to_json(), vocabulary.digest)
    assert again.words == vocabulary.words


def test_digest_distinguishes_vocabularies():
    one, other = Vocabulary(["a", "b"]), Vocabulary(["b", "a"])
    assert one.digest != other.digest
    with pytest.raises(UsageError, match="digest"):
        Vocabulary.from_json(one.to_json(), other.digest)


def test_words_are_unique():
    with pytest.raises(UsageError, match="twice"):
        Vocabulary(["a", "a"])


def test_word_lists_are_read_and_invalid_ones_are_named(tmp_path) -> None:
    file = tmp_path / "vocabulary.json"
    file.write_text('{"words": ["a", "dog"]}')
    assert load_words(str(file)) == ["a", "dog"]
    with pytest.raises(UsageError, match=r"no word list at .*none\.json: jobs/prepare_coco\.py writes it"):
        load_words(str(tmp_path / "none.json"))
    for content in ("{", "[]", "{}", '{"words": []}', '{"words": ["a", 1]}', '{"words": "ab"}'):
        file.write_text(content)
        with pytest.raises(UsageError, match="is not a word list"):
            load_words(str(file))


def test_image_counts_count_a_word_once_per_image() -> None:
    counts = image_counts([["a dog", "a big dog"], ["a cat"], ["the cat"]])
    assert counts == {"a": 2, "cat": 2, "dog": 1, "big": 1, "the": 1}
    assert by_count(counts) == ["a", "cat", "big", "dog", "the"]
