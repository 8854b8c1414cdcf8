"""Text rules: openings, sentences, lengths and additions."""

import time

import pytest

from glied.errors import UsageError
from glied.text.caption_rules import TextRules, first_sentence, first_words
from glied.text.existing_captions import ExistingConfig


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This image shows a dog on a beach.", "A dog on a beach."),
        ("The black and white photo depicts two men", "Two men"),
        ("In this image, we can see a cat. It sleeps.", "A cat. It sleeps."),
        ("In the picture there are two dogs", "There are two dogs"),
        ("Sure! Here is a detailed caption for the image: A red car.", "A red car."),
        ("Here's a description of the image:\n\nA man", "A man"),
        ("This is a close-up photograph of a bee", "A bee"),
        ("This vibrant, colorful image showcases a parrot", "A parrot"),
        ("a photo of a dog", "a dog"),
        ("Caption: two dogs", "Two dogs"),
        ("The image is of a cat", "A cat"),
    ],
)
def test_openings_are_removed(text, expected):
    assert TextRules(strip_openings=True)(text) == expected
    assert TextRules()(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "A picture hangs on a wall",
        "A painting of a man hangs on the wall",
        "The scene of the crime",
        "the photographer shows a picture",
        "This man shows a picture of a dog",
        "a woman in a photo shoot",
        "The image shows",  # nothing would be left
        "",
    ],
)
def test_captions_without_an_opening_stay_as_they_are(text):
    assert TextRules(strip_openings=True)(text) == text


def test_openings_of_the_config_are_removed_in_any_case_the_longest_first():
    rules = TextRules(openings=["sks photo", "sks photo of"])
    assert rules("SKS photo of a dog") == "A dog"
    assert rules("sks photo, a dog") == "a dog"
    assert rules("This image shows a dog") == "This image shows a dog"


@pytest.mark.parametrize(
    ("opening", "text", "expected"),
    [
        ("a", "an apple on a table", "an apple on a table"),
        ("a", "aaa bbb", "aaa bbb"),
        ("a", "A-frame house", "A-frame house"),
        ("The image", "The images hang on a wall", "The images hang on a wall"),
        ("The image", "The image's frame is red", "The image's frame is red"),
        ("The image", "The image, 'dogs'", "'dogs'"),
        ("Image:", "image:a dog", "a dog"),
        ("Photo of ", "Photo of dogs", "Dogs"),
        ("a.b", "acb is here", "acb is here"),
        ("i\u0307x", "\u0130x dog", "\u0130x dog"),  # lower() of the first letter has two characters
        ("\u0130", "\u0130 dog", "Dog"),
        ("\u56fe\u7247", "\u56fe\u7247\u4e00\u53ea\u72d7", "\u4e00\u53ea\u72d7"),
    ],
)
def test_openings_of_the_config_end_where_words_end(opening, text, expected):
    assert TextRules(openings=[opening])(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog runs. It barks.", "A dog runs."),
        ("Dr. Smith stands in St. Mary. He smiles.", "Dr. Smith stands in St. Mary."),
        ("J. R. Smith of the U.S. Army runs. Fast.", "J. R. Smith of the U.S. Army runs."),
        ("It is 3.5 m high. Big.", "It is 3.5 m high."),
        ('He said "stop!" Then he left.', 'He said "stop!"'),
        ("What? A dog!", "What?"),
        ("A dog\nA cat", "A dog"),
        ("one. two", "one. two"),
        ("\u3053\u308c\u306f\u72ac\u3002\u732b\u3002", "\u3053\u308c\u306f\u72ac\u3002"),
        ("\u300c\u72ac\u3002\u3002\u300d", "\u300c\u72ac\u3002\u3002\u300d"),
        ("1. A dog is on the grass. 2. A cat.", "A dog is on the grass."),
        ("1) A dog\n2) A cat", "A dog"),
        ("(1) A dog. (2) A cat.", "A dog."),
        ("- A dog. It runs.\n- A cat.", "A dog."),
        ("Caption: 1. A brown dog runs. 2. A cat.", "Caption: 1. A brown dog runs."),
        ("He wears number 7. He runs.", "He wears number 7."),
        ("1.", "1."),
        ("3.5 m of rope. Long.", "3.5 m of rope."),
        ("Wait... What?!", "Wait..."),
        ("a" + " " * 60 + ". B", "a" + " " * 60 + "."),
        ("", ""),
    ],
)
def test_the_first_sentence(text, expected):
    assert first_sentence(text) == expected
    assert TextRules(one_sentence=True)(text) == expected


def test_entries_of_lists_behind_openings():
    rules = TextRules(strip_openings=True, one_sentence=True)
    assert rules("Caption: 1. A brown dog runs.") == "A brown dog runs."
    assert rules("Here are the captions for the image:\n\n1. A dog.\n2. A cat.") == "A dog."


@pytest.mark.parametrize("text", ["!", ".", "\u3002", ".)", "! ", "St. ", "1. ", ". a", "Sure! ", "a"])
def test_rules_take_a_time_in_proportion_to_the_length_of_the_text(text):
    rules = TextRules(strip_openings=True, openings=["a"], one_sentence=True)
    start = time.process_time()
    rules(text * (100_000 // len(text)))
    assert time.process_time() - start < 5


def test_the_first_words_without_dangling_punctuation():
    assert first_words("a dog, a cat, and a bird", 4) == "a dog, a cat"
    assert first_words("a  dog", 2) == "a  dog"
    assert first_words("- - -", 2) == "- -"


def test_rules_apply_in_their_order():
    rules = TextRules(
        strip_openings=True,
        one_sentence=True,
        max_words=3,
        lower_case=True,
        prefix="Photo: ",
        suffix="!",
        trigger="SKS",
    )
    assert rules("This image shows A Big Dog, running. It barks.") == "SKS, Photo: a big dog!"


def test_a_trigger_word_is_added_once():
    rules = TextRules(trigger="sks")
    assert rules("a dog") == "sks, a dog"
    assert rules("a SKS dog") == "a SKS dog"
    assert rules("a sksx dog") == "sks, a sksx dog"


def test_rules_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"text\.max_words: -1"):
        TextRules(max_words=-1)
    with pytest.raises(UsageError, match=r"text\.openings"):
        TextRules(openings=[" "])
    with pytest.raises(UsageError, match=r"either column or sidecar"):
        ExistingConfig(column="a", sidecar="txt")
    for mode in ("append", "prepend", "replace"):
        with pytest.raises(
            UsageError, match=rf"text\.existing\.mode: {mode} needs text\.existing\.column or"
        ):
            ExistingConfig(mode=mode)


def test_existing_captions_are_combined_with_new_ones():
    found = {
        mode: ExistingConfig(column="c", mode=mode, separator=", ").combined("old", "new")
        for mode in ("keep", "replace", "append", "prepend")
    }
    assert found == {
        "keep": ("old", "input"),
        "replace": ("new", "model"),
        "append": ("old, new", "input+model"),
        "prepend": ("new, old", "model+input"),
    }
