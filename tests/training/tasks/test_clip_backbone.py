"""A CLIP whose image tower is a pretrained backbone: its inputs, frozen parts, and export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, open_clip_model
from glied.clip.scorer import load_clip
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.local_trainer import train_here
from glied.training.tasks.clip import ClipTask, TrainClipConfig
from glied.training.tasks.clip_model import ClipModel, ClipModelConfig
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.extractors.timm_cells import load_backbone, save_backbone, settings_of
from tests.training.settings import trainer
from tests.training.tasks.pairs import ARCHITECTURE, write_pairs

NAME, SIDE = "tf_efficientnet_lite0", 64
TEXT = ARCHITECTURE["text_cfg"]
NEW = {"embed_dim": 16, "vision_cfg": {"timm_proj": "linear", "timm_proj_bias": True}, "text_cfg": TEXT}
ODD = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    """Save random weights whose batch norm statistics differ from the defaults."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=0).train()
    with torch.no_grad():
        model(torch.randn(4, 3, SIDE, SIDE))
    folder = str(tmp_path_factory.mktemp("backbone"))
    settings = settings_of(model) | ODD | {"input_size": [3, SIDE, SIDE]}
    save_backbone(model, folder, name=NAME, settings=settings, source={})
    return folder


@pytest.fixture
def pairs(tmp_path) -> PairsConfig:
    return write_pairs(tmp_path / "pairs")


def make_task(backbone: str, pairs: PairsConfig, cache: Path, **change) -> ClipTask:
    options: dict[str, Any] = {"frozen_stages": "all", "preprocess": {"resize_mode": "squash"}}
    mirror = change.pop("mirror", False)
    model = ClipModelConfig(architecture=NEW, backbone=backbone, **options | change)
    return ClipTask(
        config=TrainClipConfig(
            train=pairs, validation=pairs, model=model, cache=str(cache), mirror=mirror, trainer=trainer()
        )
    )


def read(task: ClipTask, *, training: bool = False, seed: int = 0):
    rows = task.data("train").to_pylist()
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(seed))


def train(task: ClipTask, steps: int) -> ClipModel:
    torch.manual_seed(0)
    model = task.build().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    for step in range(steps):
        loss, _ = task.loss(model, read(task, training=True, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def changed(model: ClipModel, backbone: str) -> set[str]:
    """Return the names of the backbone's tensors that differ from the stored ones."""
    stored = load_backbone(backbone)[0].state_dict()
    found = model.clip.visual.trunk.state_dict()
    assert found.keys() == stored.keys()
    return {name for name in stored if not found[name].equal(stored[name])}


def test_the_exported_model_encodes_pixels_like_the_stored_features(backbone, pairs, tmp_path):
    task = make_task(backbone, pairs, tmp_path / "cache")
    model = train(task, 10)
    with torch.no_grad():
        learned, texts, _ = model(read(task).images, read(task).tokens)
    assert learned.shape == (12, 16)
    task.export(model, str(tmp_path / "best"))
    config = ClipConfig(checkpoint=str(tmp_path / "best"))
    exported: Any = open_clip_model(config).model.eval()
    transform = image_transform_v2(
        PreprocessCfg(size=SIDE, resize_mode="squash", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        is_train=False,
    )
    pixels = torch.stack([transform(Image.open(pair.image)) for pair in pairs.all])
    with torch.no_grad():
        seen = exported.encode_image(pixels, normalize=True)
    torch.testing.assert_close(seen, learned, atol=4e-3, rtol=0)
    assert (learned - learned.mean(0)).abs().max() > 0.05, "else all images are alike and nothing is shown"
    scorer = load_clip(config)
    scored = scorer.encode_images([np.asarray(Image.open(pair.image)) for pair in pairs.all])
    torch.testing.assert_close(scored, seen, atol=1e-5, rtol=0)
    encoded = scorer.encode_texts([pair.texts[0] for pair in pairs.all])
    torch.testing.assert_close(encoded, texts, atol=4e-3, rtol=0)
    assert scorer.unknown_words(["a red giraffe"]) == ["giraffe"]


def test_pixels_equal_those_of_region_extraction(backbone, pairs, tmp_path):
    task = make_task(backbone, pairs, tmp_path / "cache")
    regions = RegionsConfig(kind="timm", checkpoint=backbone, short_side=SIDE)
    extractor = load_extractor(regions)
    images = [np.asarray(Image.open(pair.image)) for pair in pairs.all]
    whole = np.stack([found.features[0] for found in extractor(images)])
    np.testing.assert_allclose(read(task).images.numpy(), whole, rtol=2e-3, atol=1e-4)
    preprocess = task._form.preprocess
    for key in ("mean", "std", "interpolation"):
        assert extractor.fingerprint[key] == preprocess[key] == ODD[key]
    assert (preprocess["size"], preprocess["resize_mode"]) == (SIDE, extractor.fingerprint["resize"])


def test_a_frozen_backbone_stays_and_the_rest_learns(backbone, pairs, tmp_path):
    task = make_task(backbone, pairs, tmp_path / "cache")
    torch.manual_seed(0)
    before = {name: tensor.clone() for name, tensor in task.build().state_dict().items()}
    model = train(task, 3)
    assert changed(model, backbone) == set()
    after = model.state_dict()
    for name in ("clip.visual.head.proj.weight", "clip.text_projection", "clip.token_embedding.weight"):
        assert not after[name].equal(before[name])


def test_frozen_stages_stay_and_later_ones_learn(backbone, pairs, tmp_path):
    model = train(make_task(backbone, pairs, tmp_path / "cache", frozen_stages=2), 2)
    names = changed(model, backbone)
    assert not any(name.startswith(("conv_stem", "bn1", "blocks.0.", "blocks.1.")) for name in names)
    assert not any("running" in name for name in names), "batch norm statistics stay those of the pretraining"
    assert {"blocks.2.0.conv_pw.weight", "conv_head.weight"} <= names


@pytest.mark.parametrize("frozen", ["all", 0])
def test_training_images_are_mirrored_half_of_the_time(backbone, pairs, tmp_path, frozen):
    task = make_task(backbone, pairs, tmp_path / "cache", frozen_stages=frozen, mirror=True)
    plain = read(task).images
    flipped = [Image.open(pair.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for pair in pairs.all]
    (tmp_path / "flipped").mkdir()
    for number, image in enumerate(flipped):
        image.save(tmp_path / "flipped" / f"{number}.png")
    (tmp_path / "flipped" / "pairs.jsonl").write_text(Path(pairs.pairs).read_text())
    other = PairsConfig(pairs=str(tmp_path / "flipped" / "pairs.jsonl"))
    mirrored = read(make_task(backbone, other, tmp_path / "cache", frozen_stages=frozen)).images
    counts = [0, 0]
    for seed in range(6):
        for number, image in enumerate(read(task, training=True, seed=seed).images.float()):
            near = [(image - one[number].float()).abs().max().item() for one in (plain, mirrored)]
            assert min(near) <= (1e-2 if frozen else 0)
            counts[near[1] < near[0]] += 1
    assert min(counts) > 12  # of 72 images, of which a quarter looks the same when mirrored
    assert read(task).images.equal(plain), "validation is never mirrored"


def test_features_are_computed_once_per_backbone(backbone, pairs, tmp_path):
    task = make_task(backbone, pairs, tmp_path / "cache")
    first = read(task).images
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = make_task(backbone, pairs, tmp_path / "cache", text_dropout=0.1)
    assert read(again).images.equal(first)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    torch.manual_seed(1)
    model = timm.create_model(NAME, num_classes=0)
    settings = settings_of(model) | {"input_size": [3, SIDE, SIDE]}
    save_backbone(model, str(tmp_path / "other"), name=NAME, settings=settings, source={})
    assert not read(make_task(str(tmp_path / "other"), pairs, tmp_path / "cache")).images.equal(first)


def test_words_of_a_captioner_are_known(backbone, pairs, tmp_path):
    lines = [json.loads(line) for line in Path(pairs.pairs).read_text().splitlines()]
    lines[0]["text"].append("a field (red)")
    Path(pairs.pairs).write_text("\n".join(map(json.dumps, lines)))
    task = make_task(backbone, pairs, tmp_path / "cache")
    task.export(task.build(), str(tmp_path / "best"))
    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "best")))
    assert scorer.unknown_words(["a field -lrb- red -rrb-", "giraffe"]) == ["giraffe"]


def test_half_precision_is_near(backbone, pairs, tmp_path):
    whole = read(make_task(backbone, pairs, tmp_path / "cache")).images
    half = read(make_task(backbone, pairs, tmp_path / "cache", dtype="bfloat16")).images
    assert 0 < (whole - half).norm() < 0.05 * whole.norm()


def test_dropout_of_texts_is_in_training_only():
    torch.manual_seed(0)
    plain: Any = build_clip(ARCHITECTURE)
    names = set(plain.state_dict())
    tokens = torch.tensor([[49406, 5, 6, 49407] + [0] * 28])
    with torch.no_grad():
        expected = plain.eval().encode_text(tokens, normalize=True)
        model = ClipModel(plain, ClipModelConfig(architecture=ARCHITECTURE, text_dropout=0.5))
        pixels = torch.zeros(1, 3, 32, 32)
        assert set(model.clip.state_dict()) == names
        drawn = [model.train()(pixels, tokens)[1] for _ in range(2)]
        torch.testing.assert_close(model.eval()(pixels, tokens)[1], expected)
    assert not drawn[0].equal(drawn[1])


def test_the_whole_training(backbone, pairs, tmp_path):
    task = make_task(backbone, pairs, tmp_path / "cache", text_dropout=0.1, mirror=True)
    config = trainer(
        tmp_path / "run", epochs=2, batch_size=6, learning_rate=3e-3, device="cpu", precision="bf16"
    )
    assert train_here(task, config)["complete"]
    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "run" / "best")))
    assert scorer.encode_images([np.zeros((30, 40, 3), np.uint8)]).shape == (1, 16)


def test_a_run_of_an_earlier_version_without_these_settings_resumes(pairs, tmp_path):
    task = ClipTask(
        config=TrainClipConfig(
            train=pairs, validation=pairs, model=ClipModelConfig(architecture=ARCHITECTURE), trainer=trainer()
        )
    )
    config = trainer(tmp_path, epochs=1, batch_size=12, learning_rate=1e-3, device="cpu")
    first = train_here(task, config)
    run = json.loads((tmp_path / "run.json").read_text())
    for key in ("backbone", "frozen_stages", "dtype", "text_dropout"):
        del run["task"]["model"][key]
    del run["task"]["mirror"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert train_here(task, config) == first


START = ClipConfig(checkpoint="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": START, "backbone": "b"}, r"model\.backbone is of a new model"),
        ({"architecture": NEW, "frozen_stages": "all"}, r"frozen_stages needs model\.backbone"),
        ({"architecture": NEW, "frozen_stages": 2}, r"frozen_stages needs model\.backbone"),
        ({"start": START, "frozen_stages": 2}, r"frozen_stages needs model\.backbone"),
        ({"architecture": NEW, "backbone": "b", "frozen_stages": -1}, "is negative"),
        ({"architecture": NEW, "backbone": "b", "dtype": "bfloat16"}, "dtype is of a frozen backbone"),
        ({"architecture": NEW, "text_dropout": 1.0}, r"text_dropout: 1\.0 is not in \[0, 1\)"),
        (
            {"architecture": NEW, "backbone": "b", "preprocess": {"mean": [0, 0, 0], "size": 9}},
            r"preprocess: mean, size are those of model\.backbone",
        ),
    ],
)
def test_config_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        ClipModelConfig(**options)


def test_settings_that_do_not_fit_the_backbone_are_refused(backbone, pairs, tmp_path):
    model = ClipModelConfig(architecture=NEW, backbone=backbone, frozen_stages="all")
    with pytest.raises(UsageError, match="frozen_stages all needs cache"):
        ClipTask(config=TrainClipConfig(train=pairs, validation=pairs, model=model, trainer=trainer()))
    other = NEW | {"vision_cfg": {"timm_model_name": "resnet18"}}
    task = ClipTask(
        config=TrainClipConfig(
            train=pairs,
            validation=pairs,
            model=ClipModelConfig(architecture=other, backbone=backbone),
            trainer=trainer(),
        )
    )
    with pytest.raises(UsageError, match="timm_model_name is resnet18, but the backbone's is tf_eff"):
        task.build()
    model = ClipModelConfig(architecture=NEW, backbone=str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="nothing"):
        ClipTask(
            config=TrainClipConfig(train=pairs, validation=pairs, model=model, trainer=trainer())
        ).build()
