"""benchmarks/claims_rewards.py: its variants differ in what their names say."""

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks import claims_rewards
from benchmarks.claims_rewards import REWARDS
from glied.config import parse
from glied.training.tasks.scst_config import TrainScstConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "scst/clip_s_grammar_demo.yaml"


def config(name: str | None = None) -> TrainScstConfig:
    options = REWARDS[name].settings if name else {}
    given = [f"--{key}={value}" for key, value in options.items()]
    return parse(TrainScstConfig, [f"--config={ROOT / 'configs' / CONFIG}", *given])


def differences(one: object, other: object, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for field in dataclasses.fields(one):  # type: ignore[arg-type]
        a, b = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            found |= differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            found.add(prefix + field.name)
    return found


CLIP = "reward.clip.checkpoint"
HARD = {CLIP, "train.clip_features", "validation.clip_features", "reward.grammar_accuracy"}
NORMALIZED = {"sampling.baseline"}
LIKELIHOOD = NORMALIZED | {"reward.likelihood"}
TOGETHER = HARD | LIKELIHOOD | {"reward.clip_s", "reward.distinct"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("normalized", NORMALIZED),
        ("bad_captions", {CLIP}),
        ("hard_negatives", HARD),
        ("dico", {"loss.name"}),
        ("likelihood", LIKELIHOOD),
        ("together", TOGETHER),
        ("uncaptioned", TOGETHER | {"train.features", "train.captions"}),
    ],
)
def test_each_variant_differs_in_one_thing(name: str, expected: set[str]) -> None:
    assert differences(config(name), config()) == expected
    assert len({one.name for one in REWARDS.values()}) == len(REWARDS) == 7


def test_the_commands_use_configs_that_exist_and_make_what_the_variants_need() -> None:
    text = claims_rewards.__doc__
    named = re.findall(r"(?:configs|jobs|benchmarks)/[\w/]+\.(?:yaml|py)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    outputs = {"runs/grammar_bad", "runs/grammar_hard"}
    made = {line.split()[-1] for name in named if name.endswith(".yaml") for line in lines(name, "  output:")}
    assert outputs <= made
    for one in REWARDS.values():
        clip = one.settings.get("reward.clip.checkpoint", "").removesuffix("/best")
        assert clip in text or clip in made
        if "train.captions" in one.settings:
            assert f"--output.uri {one.settings['train.features']}\n" in text
            assert f"--output.uri {one.settings['train.clip_features']}\n" in text


def lines(name: str, beginning: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line.startswith(beginning)]
