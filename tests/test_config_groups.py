"""Config classes have at most 12 fields; the keys that they had before they were divided still work."""

import dataclasses
import importlib
import json
import logging
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

import glied
from glied.bulk.captioning import CaptionDatasetConfig
from glied.captioner.config import DecodingConfig
from glied.captioner.model import ABLATIONS, CaptionerConfig
from glied.config import parse
from glied.config_keys import from_record, renamed_keys, with_former_keys
from glied.data.prepare import PrepareConfig
from glied.errors import UsageError
from glied.reports.evaluate import EvaluateConfig
from glied.vision.extractors.small_detector import DetectorConfig

MOST_FIELDS = 12


def config_classes() -> Iterator[type]:
    """The dataclasses of the package that are called ...Config, and those within them."""
    for module in pkgutil.walk_packages(glied.__path__, "glied."):
        for name, found in vars(importlib.import_module(module.name)).items():
            if name.endswith("Config") and isinstance(found, type) and found.__module__ == module.name:
                yield from within(found)


def within(config_class: type) -> Iterator[type]:
    """A dataclass and those of its fields; nothing for other classes."""
    if dataclasses.is_dataclass(config_class):
        yield config_class
        for hint in get_type_hints(config_class).values():
            for part in (hint, *get_args(hint)):
                if isinstance(part, type):
                    yield from within(part)


def test_config_classes_are_divided_by_concern() -> None:
    sizes = {one.__qualname__: len(dataclasses.fields(one)) for one in config_classes()}
    assert {"CaptionDatasetConfig", "DecodingConfig", "RegionsData"} <= sizes.keys()
    assert {name for name, size in sizes.items() if size > MOST_FIELDS} == set()


ASSET = {"url": "a.zip", "digest": ""}
FORMER: dict[type, tuple[dict[str, Any], dict[str, Any]]] = {
    DecodingConfig: (
        {},
        {
            "length_penalty": 0.5,
            "stop": "exact",
            "groups": 3,
            "diversity": 0.1,
            "temperature": 0.7,
            "top_k": 5,
            "top_p": 0.9,
            "seed": 3,
        },
    ),
    CaptionerConfig: ({}, dict.fromkeys(ABLATIONS, True)),
    DetectorConfig: (
        {},
        {"widths": [8, 8, 8, 8, 9], "blocks": [1, 1, 1, 2], "fpn_channels": 8, "bf16": False},
    ),
    EvaluateConfig: (
        {"captions": "a", "references": "b", "clip": {"checkpoint": "c", "images": "d"}},
        {"images": "photos", "resamples": 200, "seed": 3},
    ),
    PrepareConfig: (
        {"out": "o", "dataset": "coco", "karpathy": {"splits": {"url": "s.zip"}}},
        {"splits": ASSET, "sizes": ASSET, "restval": False},
    ),
}
"""By class: values that it needs, and one for each of its former keys."""
KEYS = [(one, key) for one, (_, values) in FORMER.items() for key in values]


def values_with(config_class: type, key: str, value: Any) -> dict[str, Any]:
    """The values that a class needs, with one more under a dotted key."""
    values: dict[str, Any] = json.loads(json.dumps(FORMER[config_class][0]))
    former, _, new = key.rpartition(".")
    inner = values.setdefault(former, {}) if former else values
    inner[new] = value
    return values


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The values without a dotted key."""
    group, _, name = key.rpartition(".")
    values.get(group, {}).pop(name, None)
    return values


@pytest.mark.parametrize(("config_class", "former"), KEYS, ids=lambda one: getattr(one, "__name__", one))
def test_each_former_key_works(tmp_path: Path, caplog, config_class: type, former: str) -> None:
    value, key = FORMER[config_class][1][former], renamed_keys(config_class)[former]
    new = written(tmp_path, values_with(config_class, key, value))
    expected: Any = parse(config_class, ["--config", new])
    assert not caplog.records
    old = written(tmp_path, without(values_with(config_class, former, value), key))
    with caplog.at_level(logging.WARNING):
        assert parse(config_class, ["--config", old]) == expected
    assert [f"{former} is now {key}" in record.message for record in caplog.records] == [True]
    caplog.clear()
    text = value if isinstance(value, str) else json.dumps(value)
    options = ["--config", written(tmp_path, without(values_with(config_class, key, value), key))]
    with caplog.at_level(logging.WARNING):
        assert parse(config_class, [*options, f"--{former}={text}"]) == expected
        assert parse(config_class, [*options, f"--{former}", text]) == expected
    assert [f"{former} is now {key}" in record.message for record in caplog.records] == [True] * 2


@pytest.mark.parametrize("config_class", [DecodingConfig, CaptionerConfig, DetectorConfig])
def test_records_with_former_keys_are_read(config_class: type) -> None:
    """As those of version 0.1 in checkpoints and run folders."""
    for former, value in FORMER[config_class][1].items():
        config: Any = from_record(config_class, {former: value})
        assert config == from_record(config_class, dataclasses.asdict(config)) != config_class()
        assert json.loads(json.dumps(with_former_keys(config)))[former] == value


def test_fingerprints_of_decoding_are_those_of_version_0_1() -> None:
    assert with_former_keys(DecodingConfig()) == {
        "method": "beam",
        "beam_size": 3,
        "length_penalty": 1.0,
        "stop": "full",
        "max_length": 20,
        "min_length": 1,
        "block_trigrams": False,
        "block_ngrams": 0,
        "suppress": (),
        "n_best": 1,
        "groups": 1,
        "diversity": 0.5,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "seed": 0,
    }


def test_manifests_of_prepared_data_are_those_of_version_0_1() -> None:
    config = parse(PrepareConfig, ["--out=o", "--dataset=coco", "--karpathy.splits.url=s.zip"])
    settings = with_former_keys(config)
    assert settings.keys() == {
        *("out", "dataset", "splits", "sizes", "captions", "split", "archives", "images", "skip_missing"),
        *("restval", "minimum_count", "attribute_words", "expected", "verify"),
    }
    assert (settings["splits"], settings["restval"]) == ({"url": "s.zip", "digest": ""}, True)


def test_former_keys_of_a_job(caplog) -> None:
    """Those of its parts, with what the parts check."""
    needed = ["--input.uri=a", "--output.uri=b", "--regions.checkpoint=c", "--attributes.checkpoint=d"]
    needed += ["--captioner.checkpoint=e", "--decoding.method=sample"]
    with caplog.at_level(logging.WARNING):
        config = parse(CaptionDatasetConfig, [*needed, "--decoding.temperature", "0.5", "--decoding.top_k=9"])
    assert (config.decoding.sampling.temperature, config.decoding.sampling.top_k) == (0.5, 9)
    assert "decoding.temperature is now decoding.sampling.temperature" in caplog.text
    with pytest.raises(UsageError, match=r"temperature: 0\.0 is not above 0"):
        parse(CaptionDatasetConfig, [*needed, "--decoding.temperature=0"])
    with pytest.raises(UsageError, match=r"--decoding\.top_k and --decoding\.sampling\.top_k are the same"):
        parse(CaptionDatasetConfig, [*needed, "--decoding.top_k=9", "--decoding.sampling.top_k=9"])


def written(folder: Path, values: dict[str, Any]) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "config.yaml")
