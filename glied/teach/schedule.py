"""How a captioner is trained on so many images and captions: a written rule, each value of which can be set.

The rule goes through the two recipes that were measured: 6,000 photographs with five captions each
(docs/photographs.md: 1,500 steps of 64 images, width 256, rate 1e-3, a tenth of it warm-up) and 8,000 scenes
of the demo world (1,500 steps). Steps grow with the square root of the number of images, since each image is
seen less often where there are more of them.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from glied.errors import UsageError

_LEAST_HELD_OUT, _MOST_HELD_OUT = 8, 1000
_EPOCH_STEPS = 5
"""An epoch has at least about so many steps, unless the batch is at its smallest."""
_COPIES_BELOW = 20_000
"""Images from which on varied copies of them are not worth their time."""
_VALIDATIONS = 8
"""Validations of a training."""
_GRIDS = ("timm", "clip_grid")
"""Extractors whose regions are the cells of a grid, of which many say the same."""

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What to decide otherwise than the rule does; null leaves it to the rule."""

    validation: int | None = None
    """Images on which the best checkpoint is selected."""
    test: int | None = None
    """Images that the evaluation is made on."""
    copies: int | None = None
    """Varied copies of the training images (random crops, half of them mirrored) to train on too."""
    minimum_count: int | None = None
    """Words that occur less often in the training captions are unknown."""
    max_length: int | None = None
    """Most words of a caption."""
    attribute_words: int | None = None
    """Words that the attribute predictor learns."""
    attribute_count: int | None = None
    """Attribute words of an image that the captioner sees."""
    width: int | None = None
    """Width of the captioner."""
    dropout: float | None = None
    """Dropout of the captioner."""
    region_dropout: float | None = None
    """Share of an image's regions that a training step does not see."""
    batch_size: int | None = None
    """Images of a step."""
    attribute_steps: int | None = None
    """Steps of the attribute predictor."""
    steps: int | None = None
    """Steps of the cross-entropy training."""
    warmup_steps: int | None = None
    """Steps of it in which the learning rate rises."""
    learning_rate: float | None = None
    """Peak learning rate of attributes and cross-entropy."""
    reward_steps: int | None = None
    """Steps of the training with a reward."""
    reward_learning_rate: float | None = None
    """Its learning rate."""
    precision: Precision | None = None
    """bf16 or fp32; by default bf16 where the training runs on GPUs."""

    def __post_init__(self) -> None:
        """Refuse values without meaning, and a warm-up that is longer than the training."""
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            least = 0 if one.name in ("copies", "warmup_steps", "dropout", "region_dropout") else 1
            if isinstance(value, int) and value < least:
                raise UsageError(f"schedule.{one.name}: {value} is not at least {least}")
        for name in ("learning_rate", "reward_learning_rate"):
            if (rate := getattr(self, name)) is not None and not rate > 0:
                raise UsageError(f"schedule.{name}: {rate} is not above 0")
        for name in ("dropout", "region_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise UsageError(f"schedule.{name}: {getattr(self, name)} is not in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What there is to learn from.

    Attributes:
        images: training images.
        captions: their captions, all together.
        validation: validation images.
        length: words that 95 % of the training captions do not exceed.
    """

    images: int
    captions: int
    validation: int
    length: int


@dataclass(frozen=True)
class Schedule:
    """The resolved values, and a sentence on each that the rule decided.

    Attributes:
        values: by the names of `ScheduleConfig`, without validation and test.
        reasons: by the same names.
    """

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """A value by its name."""
        return self.values[name]

    def lines(self) -> list[str]:
        """A line on each value, for people."""
        return [
            f"  schedule.{name} {_shown(value)}: {self.reasons[name]}" for name, value in self.values.items()
        ]


def held_out(images: int, config: ScheduleConfig) -> tuple[int, int]:
    """How many of so many captioned images are for validation and for test: a tenth each, 8 to 1,000.

    Raises:
        UsageError: nothing would be left to train on.
    """
    tenth = min(max(images // 10, _LEAST_HELD_OUT), _MOST_HELD_OUT)
    validation = tenth if config.validation is None else config.validation
    test = tenth if config.test is None else config.test
    if validation + test >= images:
        raise UsageError(
            f"{images} images with captions leave none to train on beside {validation} for validation and "
            f"{test} for test: give more, or lower schedule.validation and schedule.test"
        )
    return validation, test


def decide(size: DataSize, config: ScheduleConfig, *, extractor: str, gpus: float, tuned: bool) -> Schedule:
    """The schedule for data of this size.

    Args:
        size: of the data.
        config: what is set otherwise.
        extractor: `regions.kind`; grids of cells get copies and region dropout.
        gpus: of the cluster.
        tuned: whether training goes on from a captioner, and not from scratch.

    Raises:
        UsageError: the warm-up would be longer than the training, or a batch larger than the data.
    """
    found = _Values(config)
    grid = extractor in _GRIDS
    images, captions = size.images, size.captions
    copies = found("copies", 3 if grid and images < _COPIES_BELOW else 0, _copies_reason(grid))
    rows = images * (1 + copies)
    found(
        "minimum_count", _minimum_count(captions), f"of {captions:,} captions; rarer words cannot be learned"
    )
    longest = min(max(20, 5 * math.ceil(size.length / 5)), 60)
    found("max_length", longest, f"95 % of the captions have at most {size.length} words; between 20 and 60")
    found("attribute_words", min(max(captions // 15, 50), 1000), "captions / 15, between 50 and 1,000")
    found("attribute_count", 20 if grid else 49, "20 with cells of a grid, 49 with a detector")
    found("width", _width(captions), "128 below 5,000 captions, 256 below 200,000, else 512")
    found("dropout", 0.3 if images < 50_000 else 0.1, "0.3 below 50,000 images, else 0.1")
    found("region_dropout", 0.5 if grid else 0.0, "0.5 with cells of a grid, of which many say the same")
    batch = found(
        "batch_size",
        _batch_size(rows, images),
        f"an epoch of {rows:,} rows has {_EPOCH_STEPS} steps or more",
    )
    if batch > rows:
        raise UsageError(f"schedule.batch_size: {batch} is more than the {rows} rows to train on")
    by_rule = max(100, round(150 * math.sqrt(images / 60)))
    found("attribute_steps", max(50, by_rule // 2), "half of the steps of a training from scratch")
    steps = found("steps", by_rule // 2 if tuned else by_rule, _steps_reason(images, tuned))
    warmup = found("warmup_steps", steps // 10, "a tenth of the steps")
    if warmup > steps:
        raise UsageError(
            f"schedule.warmup_steps: {warmup} is more than the {steps} steps of the training; a tenth "
            "of them is usual"
        )
    rate = 1e-3 * 256 / found.values["width"]
    found(
        "learning_rate",
        rate / 5 if tuned else rate,
        "1e-3 x 256 / width; a fifth of it from a captioner",
    )
    found("reward_steps", max(50, by_rule // 2), "half of the steps of a training from scratch")
    found("reward_learning_rate", 1e-4, "a tenth of the usual rate: the captioner can write already")
    found("precision", "bf16" if gpus else "fp32", "bf16 on GPUs, fp32 without")
    return found.schedule


class _Values:
    """Values one by one: the config's where it has one, else the rule's."""

    def __init__(self, config: ScheduleConfig) -> None:
        self._config = config
        self.schedule = Schedule()

    @property
    def values(self) -> dict[str, Any]:
        return self.schedule.values

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        given = getattr(self._config, name)
        self.schedule.values[name] = value if given is None else given
        self.schedule.reasons[name] = reason if given is None else "as set"
        return self.schedule.values[name]


def rounds(steps: int, batch_size: int, rows: int) -> dict[str, int]:
    """Steps as the trainer takes them: epochs that hold so many steps, and the number of steps."""
    return {"epochs": math.ceil(steps / max(1, rows // batch_size)), "max_steps": steps}


def validate_every(steps: int) -> int:
    """Steps between the validations of a training."""
    return max(1, steps // _VALIDATIONS)


def _minimum_count(captions: int) -> int:
    for most, count in ((1_000, 1), (5_000, 2), (20_000, 3), (500_000, 5)):
        if captions < most:
            return count
    return 6


def _width(captions: int) -> int:
    return 128 if captions < 5_000 else 256 if captions < 200_000 else 512


def _batch_size(rows: int, images: int) -> int:
    """A power of two from 8 to 64, and to 256 with many images; never more than there are rows."""
    most = 64 if images < 50_000 else 128 if images < 200_000 else 256
    power = 1 << max(0, (rows // _EPOCH_STEPS).bit_length() - 1)
    return max(1, min(max(power, 8), most, rows))


def _copies_reason(grid: bool) -> str:
    if not grid:
        return "none with a detector, whose words left and right a mirrored image would belie"
    return f"3 below {_COPIES_BELOW:,} images: what looks different each time is not learned by heart"


def _steps_reason(images: int, tuned: bool) -> str:
    return f"19.4 x the square root of {images:,} images" + (
        ", halved: it goes on from a captioner" if tuned else ""
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
