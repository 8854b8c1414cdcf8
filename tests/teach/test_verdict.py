import pytest

from glied.errors import JobError
from glied.teach.verdict import check_learned, verdict

GOOD = {"CIDEr": 60.0}
TEACHER = {"R@1": 50.0}
PEOPLE = "CIDEr, by people's captions"


@pytest.mark.parametrize(
    ("student", "others", "expected"),
    [
        ({"CIDEr": 4.0}, {}, "do not use it: its CIDEr is 4.0"),
        ({"CIDEr": 9.0}, {}, "teach it more images: its CIDEr is 9.0"),
        ({"CIDEr": 60.0}, {}, "use it: its CIDEr is 60.0"),
        ({"CIDEr": 60.0}, {"before": {"CIDEr": 55.0}}, "use it: its CIDEr is 60.0, before it was 55"),
        (
            {"CIDEr": 60.0},
            {"before": {"CIDEr": 55.0}, "gain": {"low": 0.5, "high": 9.5}},
            "use it: its CIDEr is 60.0, before it was 55",
        ),
        (
            {"CIDEr": 60.0},
            {"before": {"CIDEr": 55.0}, "gain": {"low": -2.0, "high": 12.0}},
            "teach it more images: its CIDEr is 60.0, before it was 55.0, which may be chance",
        ),
        (
            {"CIDEr": 50.0},
            {"before": {"CIDEr": 55.0}, "gain": {"low": -9.0, "high": -1.0}},
            "do not use it: its CIDEr is 50.0, before it was 55.0",
        ),
        (
            {"CIDEr": 50.0},
            {"before": {"CIDEr": 55.0}, "gain": {"low": -12.0, "high": 2.0}},
            "do not use it: its CIDEr is 50.0, before it was 55.0, which may be chance",
        ),
        (GOOD | {"R@1": 48.0}, {"teacher": TEACHER}, "use it: its R@1 by the judge is 48.0, 96%"),
        (GOOD | {"R@1": 42.0}, {"teacher": TEACHER}, "teach it more images: "),
        (GOOD | {"R@1": 9.0}, {"teacher": TEACHER}, "do not use it: "),
        (
            GOOD | {"R@1": 48.0},
            {"teacher": TEACHER, "before": {"CIDEr": 70.0}},
            "use it: its R@1 by the judge is 48.0, 96% of the teacher's 50.0",
        ),
        (
            GOOD | {PEOPLE: 40.0},
            {"teacher": {PEOPLE: 50.0}},
            "teach it more images: its CIDEr against people's captions is 40.0, 80% of the teacher's 50.0",
        ),
        ({"CIDEr": 60.0}, {"teacher": {"CIDEr": 90.0}}, "use it: its CIDEr is 60.0"),
    ],
)  # fmt: skip
def test_verdict_has_advice_and_reasons(student, others, expected) -> None:
    assert verdict(student, commonest=5.0, **others).startswith(expected)


@pytest.mark.parametrize(("cider", "commonest"), [(4.9, 5.0), (5.0, 5.0), (0.2, 0.0)])
def test_captioner_no_better_than_the_commonest_caption_is_refused(cider, commonest) -> None:
    message = f"nothing was learned: CIDEr on validation is {cider}, and {commonest} for .* 'a dog'"
    with pytest.raises(JobError, match=message):
        check_learned("out/captioner", cider, commonest=commonest, caption="a dog")
    check_learned("out/captioner", commonest + 1.1, commonest=commonest, caption="a dog")
