import itertools

import pytest

from glied.config import build
from glied.errors import UsageError
from glied.teach.schedule import DataSize, ScheduleConfig, decide, held_out, rounds, validate_every


def decided(images: int, *, extractor: str = "timm", gpus: float = 0, tuned: bool = False, **given):
    size = DataSize(images=images, captions=5 * images, validation=images // 8, length=15)
    config = build(ScheduleConfig, given)
    return decide(size, config, extractor=extractor, gpus=gpus, tuned=tuned)


def test_rule_reproduces_the_measured_recipe() -> None:
    """configs/captioner/photographs.yaml: 6,000 photographs with five captions each."""
    values = decided(6_000).values
    expected = {
        "steps": 1500,
        "warmup_steps": 150,
        "batch_size": 64,
        "model.width": 256,
        "learning_rate": 1e-3,
    }
    expected |= {"copies": 3, "precision": "fp32", "model.dropout": 0.3, "model.region_dropout": 0.5}
    words = {"minimum_count": 5, "attribute_words": 1000, "attribute_count": 20, "max_length": 20}
    expected |= {f"words.{name}": value for name, value in words.items()}
    assert {name: values[name] for name in expected} == expected


def test_few_images_get_small_models_and_short_trainings() -> None:
    values = decided(600).values
    expected = {"steps": 474, "warmup_steps": 47, "model.width": 128, "words.minimum_count": 2}
    expected |= {"words.attribute_words": 200}
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("images", "extractor", "tuned"),
    itertools.product([1, 3, 20, 300, 5_000, 49_999, 1_000_000], ["timm", "torchvision"], [False, True]),
)
def test_every_size_gives_a_training_with_warm_up_and_batches(images, extractor, tuned) -> None:
    values = decided(images, extractor=extractor, tuned=tuned).values
    assert 0 < values["warmup_steps"] < values["steps"]
    rows = images * (1 + values["copies"])
    assert 1 <= values["batch_size"] <= rows
    assert tuned or values["model.width"] % 16 == 0
    trained = rounds(values["steps"], values["batch_size"], rows)
    assert trained["epochs"] * (rows // values["batch_size"]) >= trained["max_steps"] == values["steps"]
    assert 1 <= validate_every(values["steps"]) <= values["steps"]


def test_steps_grow_with_the_images() -> None:
    steps = [decided(images)["steps"] for images in (50, 600, 6_000, 60_000, 600_000)]
    assert steps == sorted(set(steps))


def test_given_values_are_used_and_every_value_is_reported() -> None:
    schedule = decided(600, steps=30, model={"width": 64, "dropout": 0.0})
    assert (schedule["steps"], schedule["warmup_steps"], schedule["model.width"]) == (30, 3, 64)
    lines = schedule.lines()
    assert "  schedule.model.width 64: as set" in lines
    assert "  schedule.warmup_steps 3: a tenth of the steps" in lines
    assert len(lines) == len(schedule.values)


def test_gpus_use_bfloat16_and_detectors_have_no_mirrored_copies() -> None:
    assert decided(600, gpus=1)["precision"] == "bf16"
    values = decided(600, extractor="torchvision").values
    found = [values[name] for name in ("copies", "model.region_dropout", "words.attribute_count")]
    assert found == [0, 0.0, 49]


def test_starting_from_a_captioner_takes_fewer_steps_with_a_lower_learning_rate() -> None:
    values = decided(600, tuned=True).values
    assert (values["steps"], values["learning_rate"], values["reward.steps"]) == (237, 2e-4, 118)
    assert not {"model.width", "attribute_steps"} & values.keys()


def test_warm_up_longer_than_the_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule.warmup_steps: 500 is more than the 474 steps"):
        decided(600, warmup_steps=500)


def test_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match=r"schedule.batch_size: 128 is more than the 40 rows"):
        decided(10, batch_size=128)


@pytest.mark.parametrize(
    ("images", "expected"), [(800, (100, 100)), (240, (30, 30)), (20, (8, 8)), (30_000, (1000, 1000))]
)
def test_an_eighth_is_held_out(images, expected) -> None:
    assert held_out(images, ScheduleConfig()) == expected


def test_held_out_sizes_can_be_set_and_must_leave_training_images() -> None:
    assert held_out(800, ScheduleConfig(validation=80, test=50)) == (80, 50)
    with pytest.raises(UsageError, match="16 images with captions leave none to train on"):
        held_out(16, ScheduleConfig())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("copies", -1),
        ("learning_rate", 0.0),
        ("reward.learning_rate", -1.0),
        ("reward.steps", 0),
        ("model.dropout", 1.0),
        ("model.width", 0),
        ("words.max_length", 0),
    ],
)
def test_invalid_values_are_refused(key: str, value: float) -> None:
    group, _, name = key.rpartition(".")
    with pytest.raises(UsageError, match=f"schedule.{key}: {value}"):
        build(ScheduleConfig, {group: {name: value}} if group else {name: value})


def test_keys_of_version_0_2_are_read() -> None:
    old = {"width": 64, "attribute_words": 80, "reward_steps": 7, "reward_learning_rate": 1e-5}
    config = build(ScheduleConfig, old)
    assert (config.model.width, config.words.attribute_words) == (64, 80)
    assert (config.reward.steps, config.reward.learning_rate) == (7, 1e-5)
