"""What all engines have in common."""

from glied.captioner.engines.engine import EngineCaption, Failure, with_text

EMPTY = Failure("empty_answer", "the model gave no text")


def test_captions_without_text_are_left_out():
    captions = [EngineCaption(text) for text in ("", "a dog", " \n", "a cat")]
    assert with_text(captions) == [captions[1], captions[3]]


def test_an_image_without_text_under_a_prompt_fails():
    short, long = EngineCaption("a dog", prompt="short"), EngineCaption("", prompt="long")
    assert with_text([short, long]) == EMPTY
    assert with_text([long]) == with_text([]) == EMPTY


def test_failures_stay_as_they_are():
    refused = Failure("refused", "no", "rejected")
    assert with_text(refused) is refused
