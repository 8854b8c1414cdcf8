"""How a captioner is trained on so many images and captions: a written rule, each value of which can be set.

The rule goes through the two recipes that were measured: 6,000 photographs with five captions each
(docs/photographs.md: 1,500 steps of 64 images, width 256, rate 1e-3, a tenth of it warm-up) and 8,000 scenes
of the demo world (1,500 steps). Steps grow with the square root of the number of images, since each image is
seen less often where there are more of them.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar, Literal

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
class WordsConfig:
    """Words; null leaves a value to the rule."""

    minimum_count: int | None = None
    """Words that occur less often in the training captions are unknown."""
    max_length: int | None = None
    """Most words of a caption."""
    attribute_words: int | None = None
    """Words that the attribute predictor learns."""
    attribute_count: int | None = None
    """Attribute words of an image that the captioner sees."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        _check_least(self, "schedule.words", 1)


@dataclass(frozen=True, kw_only=True)
class CaptionerSizeConfig:
    """The captioner; null leaves a value to the rule."""

    architecture: str = "glied"
    """As in `model.architecture` of jobs/train_captioner.py."""
    width: int | None = None
    """Width of the model."""
    dropout: float | None = None
    """Dropout of the model."""
    region_dropout: float | None = None
    """Share of an image's regions that a training step does not see."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        _check_least(self, "schedule.model", 1, "width")
        for name in ("dropout", "region_dropout"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise UsageError(f"schedule.model.{name}: {getattr(self, name)} is not in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class RewardScheduleConfig:
    """The training with a reward; null leaves a value to the rule."""

    steps: int | None = None
    """Its steps."""
    learning_rate: float | None = None
    """Its learning rate."""

    def __post_init__(self) -> None:
        """Refuse values without meaning."""
        _check_least(self, "schedule.reward", 1, "steps")
        _check_rate(self, "schedule.reward")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What to decide otherwise than the rule does; null leaves it to the rule."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **{name: f"words.{name}" for name in ("minimum_count", "max_length", "attribute_words")},
        "attribute_count": "words.attribute_count",
        **{name: f"model.{name}" for name in ("width", "dropout", "region_dropout")},
        **{f"reward_{name}": f"reward.{name}" for name in ("steps", "learning_rate")},
    }
    """Keys of version 0.2 that have moved into groups."""

    validation: int | None = None
    """Images on which the best checkpoint is selected."""
    test: int | None = None
    """Images that the evaluation is made on."""
    copies: int | None = None
    """Varied copies of the training images (random crops, half of them mirrored) to train on too."""
    words: WordsConfig = field(default_factory=WordsConfig)
    """Vocabulary, attribute words, length of captions."""
    model: CaptionerSizeConfig = field(default_factory=CaptionerSizeConfig)
    """Architecture, size and dropout of the captioner."""
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
    reward: RewardScheduleConfig = field(default_factory=RewardScheduleConfig)
    """The training with a reward."""
    precision: Precision | None = None
    """bf16 or fp32; by default bf16 where the training runs on GPUs."""

    def __post_init__(self) -> None:
        """Refuse values without meaning, and a warm-up that is longer than the training."""
        _check_least(self, "schedule", 0, "copies", "warmup_steps")
        _check_least(self, "schedule", 1, "validation", "test", "batch_size", "attribute_steps", "steps")
        _check_rate(self, "schedule")

    def given(self, name: str) -> Any:
        """The value of a dotted key, such as "words.max_length"; None where the rule decides."""
        return attrgetter(name)(self)


def _check_least(config: Any, key: str, least: int, *names: str) -> None:
    for name in names or [one.name for one in dataclasses.fields(config)]:
        value = getattr(config, name)
        if value is not None and value < least:
            raise UsageError(f"{key}.{name}: {value} is not at least {least}")


def _check_rate(config: Any, key: str) -> None:
    if config.learning_rate is not None and not config.learning_rate > 0:
        raise UsageError(f"{key}.learning_rate: {config.learning_rate} is not above 0")


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
        values: by the dotted names of `ScheduleConfig`, without validation and test.
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
    """How many of so many captioned images are for validation and for test: an eighth each, 8 to 1,000.

    Raises:
        UsageError: nothing would be left to train on.
    """
    eighth = min(max(images // 8, _LEAST_HELD_OUT), _MOST_HELD_OUT)
    validation = eighth if config.validation is None else config.validation
    test = eighth if config.test is None else config.test
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
    copies = found("copies", 3 if grid and size.images < _COPIES_BELOW else 0, _copies_reason(grid))
    _decide_words(found, size, grid=grid)
    _decide_model(found, size, grid=grid, tuned=tuned)
    _decide_lengths(found, size.images, size.images * (1 + copies), tuned=tuned)
    found("reward.learning_rate", 1e-4, "a tenth of the usual rate: the captioner can write already")
    found("precision", "bf16" if gpus else "fp32", "bf16 on GPUs, fp32 without")
    return found.schedule


def _decide_words(found: "_Values", size: DataSize, *, grid: bool) -> None:
    captions = size.captions
    reason = f"of {captions:,} captions; rarer words cannot be learned"
    found("words.minimum_count", _minimum_count(captions), reason)
    longest = min(max(20, 5 * math.ceil(size.length / 5)), 60)
    reason = f"95 % of the captions have at most {size.length} words; between 20 and 60"
    found("words.max_length", longest, reason)
    found("words.attribute_words", min(max(captions // 15, 50), 1000), "captions / 15, between 50 and 1,000")
    found("words.attribute_count", 20 if grid else 49, "20 with cells of a grid, 49 with a detector")


def _decide_model(found: "_Values", size: DataSize, *, grid: bool, tuned: bool) -> None:
    if not tuned:
        reason = "128 below 5,000 captions, 256 below 200,000, else 512"
        found("model.width", _width(size.captions), reason)
    found("model.dropout", 0.3 if size.images < 50_000 else 0.1, "0.3 below 50,000 images, else 0.1")
    reason = "0.5 with cells of a grid, of which many say the same"
    found("model.region_dropout", 0.5 if grid else 0.0, reason)


def _decide_lengths(found: "_Values", images: int, rows: int, *, tuned: bool) -> None:
    """Batch, steps, warm-up and learning rate."""
    reason = f"an epoch of {rows:,} rows has {_EPOCH_STEPS} steps or more"
    batch = found("batch_size", _batch_size(rows, images), reason)
    if batch > rows:
        raise UsageError(f"schedule.batch_size: {batch} is more than the {rows} rows to train on")
    by_rule = max(100, round(150 * math.sqrt(images / 60)))
    half = "half of the steps of a training from scratch"
    if not tuned:
        found("attribute_steps", max(50, by_rule // 2), half)
    steps = found("steps", by_rule // 2 if tuned else by_rule, _steps_reason(images, tuned))
    warmup = found("warmup_steps", steps // 10, "a tenth of the steps")
    if warmup > steps:
        raise UsageError(
            f"schedule.warmup_steps: {warmup} is more than the {steps} steps of the training; a tenth "
            "of them is usual"
        )
    if tuned:
        found("learning_rate", 2e-4, "a fifth of the usual rate: the captioner can write already")
    else:
        found("learning_rate", 1e-3 * 256 / found.values["model.width"], "1e-3 x 256 / width")
    part, share = (4, "a quarter") if tuned else (2, "half")
    reason = f"{share} of the steps of a training from scratch; few images are soon known by heart"
    found("reward.steps", max(50, by_rule // part), reason)


class _Values:
    """Values one by one: the config's where it has one, else the rule's."""

    def __init__(self, config: ScheduleConfig) -> None:
        self._config = config
        self.schedule = Schedule()

    @property
    def values(self) -> dict[str, Any]:
        return self.schedule.values

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        given = self._config.given(name)
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
