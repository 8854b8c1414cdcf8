"""Finetuning of a backbone: frozen stages, trained stages, and the export."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from glied.config import parse
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.training.local_trainer import train_here
from glied.training.tasks.backbone import BackboneConfig, BackboneTask, TrainBackboneConfig, WordsOfCells
from glied.vision.attributes import load_attributes
from glied.vision.crops import CropConfig
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from tests.training.settings import trainer

COLORS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Write twelve images of one color each, with captions that name it."""
    folder = tmp_path_factory.mktemp("colors")
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(12):
        color = list(COLORS)[number % 3]
        noise = np.random.default_rng(number).integers(0, 30, (40, 50, 3))
        pixels = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        annotations.append({"id": number, "image_id": number, "caption": f"something {color}"})
    content = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    return folder


def make_task(data: Path, *, crop: CropConfig | None = None, **change) -> BackboneTask:
    pairs = PairsConfig(pairs=str(data / "captions.json"))
    model = BackboneConfig(**{"model": "tf_efficientnet_lite0", "size": 64, **change})
    return BackboneTask(
        config=TrainBackboneConfig(
            train=pairs,
            validation=pairs,
            model=model,
            crop=crop or CropConfig(),
            minimum_positives=1,
            trainer=trainer(),
        )
    )


def test_the_config_for_tests_trains_and_its_backbone_gives_regions(data, tmp_path):
    options = [
        "--config=configs/backbone/tiny.yaml",
        f"--trainer.output={tmp_path}",
        "--trainer.batch_size=6",
    ]
    options += [f"--{split}.pairs={data / 'captions.json'}" for split in ("train", "validation")]
    config = parse(TrainBackboneConfig, options)
    result = train_here(BackboneTask(config=config), config.trainer)
    assert result["complete"]
    assert result["validation"]["map_words"] == 4  # three colors and "something"
    extractor = load_extractor(RegionsConfig(kind="timm", checkpoint=str(tmp_path / "best")))
    found = extractor([np.zeros((30, 30, 3), np.uint8)])
    assert found[0].features.shape == (5, 1280)  # 64 pixels a side, as it was trained
    predictor = load_attributes(str(tmp_path / "best" / "attributes"))
    assert {word for word, _ in predictor.top(RegionBatch.collate(found), 4)[0]} == {"something", *COLORS}


def test_words_are_learned_and_frozen_stages_stay(data):
    task = make_task(data, frozen_stages=2, drop_path=0.0, dropout=0.0)
    torch.manual_seed(0)
    model = task.build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = task.data("train").to_pylist()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        batch = task.collate(rows, training=True, generator=torch.Generator().manual_seed(0))
        model.train()
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    frozen = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0.", "backbone.blocks.1.")
    assert not any(name.startswith(frozen) for name in changed)
    assert not any(
        "running" in name for name in changed
    )  # batch norm statistics stay those of the pretraining
    assert {"backbone.blocks.2.0.conv_pw.weight", "predictor.classifier.weight"} <= changed


def test_batches_depend_on_their_seed(data):
    task = make_task(data)
    rows = task.data("train").to_pylist()
    one, same, other = (
        task.collate(rows[:4], training=True, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert one.pixels.shape == (4, 64, 64, 3)
    assert one.pixels.equal(same.pixels)
    assert not one.pixels.equal(other.pixels)
    words = [{task.vocabulary[i] for i in target.nonzero().flatten().tolist()} for target in one.targets]
    assert words == [{"something", color} for color in ("red", "green", "blue", "red")]
    assert (
        make_task(data)
        .collate(rows[:1], training=False, generator=torch.Generator())
        .pixels.equal(
            task.collate(rows[:1], training=False, generator=torch.Generator().manual_seed(5)).pixels
        )
    )


def test_normalization_is_the_backbones(data):
    task = make_task(data)
    cfg = timm.create_model("tf_efficientnet_lite0").pretrained_cfg
    pixels = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    expected = [
        (value - mean) / std for value, mean, std in zip((1, 0, 0.2), cfg["mean"], cfg["std"], strict=True)
    ]
    assert task._normalized(pixels).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_mistakes_are_named(data):
    for change, message in [
        ({"model": ""}, "either checkpoint"),
        ({"checkpoint": "x"}, "either checkpoint"),
        ({"size": 0}, "model.size: 0 is not at least 1"),
        ({"dropout": 1.0}, "dropout: 1.0"),
    ]:
        with pytest.raises(UsageError, match=message):
            make_task(data, **change)
    with pytest.raises(UsageError, match="only convolutional"):
        make_task(data, model="vit_tiny_patch16_224", size=224).build()
    with pytest.raises(UsageError, match="frozen_stages"):
        make_task(data, model="resnet18", frozen_stages=1).build()
    assert isinstance(make_task(data, model="resnet18").build(), WordsOfCells)
