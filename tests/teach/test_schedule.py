import itertools

import pytest

from glied.errors import UsageError
from glied.teach.schedule import DataSize, ScheduleConfig, decide, held_out, rounds, validate_every


def decided(images: int, *, extractor: str = "timm", gpus: float = 0, tuned: bool = False, **given):
    size = DataSize(images=images, captions=5 * images, validation=images // 10, length=15)
    return decide(size, ScheduleConfig(**given), extractor=extractor, gpus=gpus, tuned=tuned)


def test_rule_goes_through_the_measured_recipe() -> None:
    """configs/captioner/photographs.yaml: 6,000 photographs with five captions each."""
    values = decided(6_000).values
    expected = {"steps": 1500, "warmup_steps": 150, "batch_size": 64, "width": 256, "learning_rate": 1e-3}
    expected |= {"copies": 3, "minimum_count": 5, "attribute_words": 1000, "attribute_count": 20}
    expected |= {"dropout": 0.3, "region_dropout": 0.5, "max_length": 20, "precision": "fp32"}
    assert {name: values[name] for name in expected} == expected


def test_few_images_get_small_models_and_short_trainings() -> None:
    values = decided(600).values
    expected = {"steps": 474, "warmup_steps": 47, "width": 128, "minimum_count": 2, "attribute_words": 200}
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("images", "extractor", "tuned"),
    itertools.product([1, 3, 20, 300, 5_000, 49_999, 1_000_000], ["timm", "torchvision"], [False, True]),
)
def test_every_size_gives_a_training_that_warms_up_and_has_batches(images, extractor, tuned) -> None:
    values = decided(images, extractor=extractor, tuned=tuned).values
    assert 0 < values["warmup_steps"] < values["steps"]
    rows = images * (1 + values["copies"])
    assert 1 <= values["batch_size"] <= rows
    assert values["width"] % 16 == 0
    trained = rounds(values["steps"], values["batch_size"], rows)
    assert trained["epochs"] * (rows // values["batch_size"]) >= trained["max_steps"] == values["steps"]
    assert 1 <= validate_every(values["steps"]) <= values["steps"]


def test_steps_grow_with_the_images() -> None:
    steps = [decided(images)["steps"] for images in (50, 600, 6_000, 60_000, 600_000)]
    assert steps == sorted(set(steps))


def test_what_is_set_counts_and_every_value_has_a_line() -> None:
    schedule = decided(600, steps=30, width=64, dropout=0.0)
    assert (schedule["steps"], schedule["warmup_steps"], schedule["width"]) == (30, 3, 64)
    lines = schedule.lines()
    assert "  schedule.width 64: as set" in lines
    assert "  schedule.warmup_steps 3: a tenth of the steps" in lines
    assert len(lines) == len(schedule.values)


def test_gpus_train_in_bfloat16_and_detectors_see_no_mirrored_copies() -> None:
    assert decided(600, gpus=1)["precision"] == "bf16"
    values = decided(600, extractor="torchvision").values
    assert (values["copies"], values["region_dropout"], values["attribute_count"]) == (0, 0.0, 49)


def test_going_on_from_a_captioner_takes_fewer_steps_at_a_lower_rate() -> None:
    values = decided(600, tuned=True).values
    assert (values["steps"], values["learning_rate"]) == (237, 4e-4)


def test_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule.warmup_steps: 500 is more than the 474 steps"):
        decided(600, warmup_steps=500)


def test_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule.batch_size: 128 is more than the 40 rows"):
        decided(10, batch_size=128)


@pytest.mark.parametrize(
    ("images", "expected"), [(800, (80, 80)), (20, (8, 8)), (30_000, (1000, 1000)), (17, (8, 8))]
)
def test_a_tenth_is_held_out(images, expected) -> None:
    assert held_out(images, ScheduleConfig()) == expected


def test_held_out_sizes_can_be_set_and_must_leave_something() -> None:
    assert held_out(800, ScheduleConfig(validation=100, test=100)) == (100, 100)
    with pytest.raises(UsageError, match="16 images with captions leave none to train on"):
        held_out(16, ScheduleConfig())


@pytest.mark.parametrize("given", [{"steps": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"copies": -1}])
def test_values_without_meaning_are_refused(given) -> None:
    with pytest.raises(UsageError, match=f"schedule.{next(iter(given))}"):
        ScheduleConfig(**given)
