"""Whether the new captioner is good enough to be used, in one line."""

from collections.abc import Mapping

from glied.errors import JobError

BY_PEOPLE = ", by people's captions"
"""Behind the names of figures against captions that people wrote, where there is a teacher."""
_ENOUGH, _SOME = 0.95, 0.8
"""Shares of what the teacher reaches."""
_TIMES_COMMONEST = 3.0
"""A captioner that looks at images has several times the CIDEr of the commonest caption."""
_COMPARED = {"R@1": "R@1 by the judge", f"CIDEr{BY_PEOPLE}": "CIDEr against people's captions"}
"""Figures in which student and teacher are compared, the first that both have, and what they are called: a
CLIP that neither filtered nor rewarded, and captions that neither wrote."""

_LEAST_CIDER = 1.0
"""CIDEr that random words can reach where the commonest caption fits no image."""

USE, MORE, NOT = "use it", "teach it more images", "do not use it"

Figures = Mapping[str, float]


def verdict(
    student: Figures,
    *,
    commonest: float,
    before: Figures | None = None,
    gain: Figures | None = None,
    teacher: Figures | None = None,
) -> str:
    """What to do with the captioner, and the figures on held-out images that say so.

    Args:
        student: its figures.
        commonest: CIDEr of the commonest training caption on all these images.
        before: figures of the captioner that it was made from.
        gain: the difference of the CIDErs, with the ends of its confidence interval (`Difference`).
        teacher: figures of the teacher.
    """
    cider = student["CIDEr"]
    if cider <= commonest:
        return f"{NOT}: its CIDEr is {cider:.1f}, that of the commonest caption on all images {commonest:.1f}"
    for figure, name in _COMPARED.items():
        if teacher is not None and teacher.get(figure) and figure in student:
            return _against_teacher(name, student[figure], teacher[figure])
    if before is not None:
        return _against_before(cider, before["CIDEr"], gain)
    what = USE if cider >= _TIMES_COMMONEST * commonest else MORE
    return f"{what}: its CIDEr is {cider:.1f}, that of the commonest caption on all images {commonest:.1f}"


def _against_before(cider: float, before: float, gain: Figures | None) -> str:
    said = f"its CIDEr is {cider:.1f}, before it was {before:.1f}"
    by_chance = gain is not None and gain["low"] <= 0 <= gain["high"]
    what = NOT if cider <= before else MORE if by_chance else USE
    return f"{what}: {said}{', which may be chance on so few images' if by_chance else ''}"


def _against_teacher(name: str, student: float, teacher: float) -> str:
    share = student / teacher
    what = USE if share >= _ENOUGH else MORE if share >= _SOME else NOT
    return f"{what}: its {name} is {student:.1f}, {share:.0%} of the teacher's {teacher:.1f}"


def check_learned(folder: str, cider: float, *, commonest: float, caption: str) -> None:
    """Refuse a captioner that has learned nothing.

    Args:
        folder: of its training.
        cider: its CIDEr on validation.
        commonest: that of the commonest caption on all images.
        caption: the commonest caption.

    Raises:
        JobError: a captioner that looks at no image is as good.
    """
    if cider <= max(commonest, _LEAST_CIDER):
        raise JobError(
            f"{folder}: nothing was learned: CIDEr on validation is {cider:.1f}, and {commonest:.1f} for the "
            f"commonest caption, {caption!r}, on all images. Give more images, or set schedule.steps or "
            "schedule.learning_rate"
        )
