import json
import math
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from glied.clip.config import ClipConfig
from glied.clip.model import build_clip
from glied.clip.scorer import load_clip
from glied.clip.tokenizer import clip_tokenizer
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.local_trainer import train_here
from glied.training.task import Task
from glied.training.tasks.clip import ClipTask, TrainClipConfig, both_ways
from glied.training.tasks.clip_model import ClipModel, ClipModelConfig
from glied.training.tasks.clip_texts import TextsConfig
from tests.training.settings import trainer
from tests.training.tasks.pairs import ARCHITECTURE, write_pairs


@pytest.fixture
def pairs(tmp_path) -> PairsConfig:
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def task(tmp_path, pairs) -> ClipTask:
    model = ClipModelConfig(architecture=ARCHITECTURE, preprocess={"resize_mode": "squash"})
    return ClipTask(
        config=TrainClipConfig(
            train=pairs, validation=pairs, model=model, cache=str(tmp_path / "cache"), trainer=trainer()
        )
    )


def collate(task: ClipTask, rows: list[dict], *, training: bool = True, seed: int = 0):
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(seed))


def train(task: ClipTask, steps: int) -> torch.nn.Module:
    torch.manual_seed(0)
    model = task.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    rows = task.data("train").to_pylist()
    for step in range(steps):
        loss, _ = task.loss(model, collate(task, rows, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_the_task_is_small_when_pickled(task):
    assert isinstance(task, Task)
    collate(task, task.data("train").to_pylist())
    assert "_images" in vars(task)
    assert len(pickle.dumps(task)) < 2000
    assert pickle.loads(pickle.dumps(task)) == task


def test_batch(task):
    rows = task.data("train").to_pylist()
    batch = collate(task, rows[:3])
    assert batch.images.shape == (3, 32, 32, 3)
    assert batch.images.dtype == torch.uint8
    assert batch.tokens.shape == (3, 32)
    assert torch.equal(batch.tokens, collate(task, rows[:3]).tokens)
    drawn = {tuple(row.tolist()) for seed in range(20) for row in collate(task, rows[:1], seed=seed).tokens}
    assert len(drawn) > 4  # texts and subsets of clauses, with and without the prompt
    (validated,) = collate(task, rows[:1], training=False).tokens
    assert (
        validated.tolist()
        == open_clip.SimpleTokenizer(context_length=32)(
            "a photo depicts a red field on the left with a red field on the right"
        )[0].tolist()
    )


def test_pixels_are_those_of_open_clips_transform_cached_or_not(task, pairs):
    rows = task.data("train").to_pylist()[4:6]
    transform = image_transform_v2(PreprocessCfg(size=32, resize_mode="squash"), is_train=False)
    expected = torch.stack([transform(Image.open(row["image"])) for row in rows])
    uncached = ClipTask(
        config=TrainClipConfig(train=pairs, validation=pairs, model=task.config.model, trainer=trainer())
    )
    for one in (task, uncached):
        found = one._images.normalized(collate(one, rows).images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_learns_and_exports_only_known_tokens(task, tmp_path):
    rows = task.data("validation").to_pylist()
    batches = [collate(task, half, training=False) for half in (rows[:8], rows[8:])]
    with torch.no_grad():
        before = task.validate(task.build().eval(), batches)
    model = train(task, 80).eval()
    with torch.no_grad():
        metrics = task.validate(model, batches)
    assert next(iter(metrics)) == "r1"
    assert metrics["pool"] == 12
    assert metrics["r1"] > before["r1"] + 30
    task.export(model, str(tmp_path / "best"))
    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "best")))
    images = scorer.encode_images([task._images.resized(task.config.train)[0]])
    texts = scorer.encode_texts(["a red field on the left with a red field on the right", "a blue field"])
    assert images[0] @ texts[0] > images[0] @ texts[1]
    assert scorer.unknown_words(["a red giraffe"]) == ["giraffe"]
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "best").iterdir()}
    assert set(sizes) == {"model.json", "model.safetensors"}
    assert sizes["model.safetensors"] < 200_000  # the whole token table alone would be 3 MB


def test_finetunes_a_checkpoint_and_keeps_its_words(task, tmp_path, pairs):
    task.export(train(task, 1), str(tmp_path / "start"))
    (tmp_path / "more").mkdir()
    line = {"image": f"{tmp_path}/pairs/0.png", "text": "a scarlet meadow"}
    (tmp_path / "more" / "pairs.jsonl").write_text(json.dumps(line))
    more = PairsConfig(pairs=str(tmp_path / "more" / "pairs.jsonl"), images="/")
    start = ClipConfig(checkpoint=str(tmp_path / "start"))
    finetuning = ClipTask(
        config=TrainClipConfig(
            train=more, validation=more, model=ClipModelConfig(start=start), trainer=trainer()
        )
    )
    finetuning.export(train(finetuning, 1), str(tmp_path / "finetuned"))
    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "finetuned")))
    assert scorer.unknown_words(["a red field and a scarlet meadow", "giraffe"]) == ["giraffe"]
    assert scorer.pixels.size == (32, 32)
    assert scorer.fingerprint["preprocess"]["resize_mode"] == "squash"


def test_a_published_architecture_keeps_all_its_words(pairs, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "glied-tiny", ARCHITECTURE)
    weights = tmp_path / "weights.pt"
    torch.save(build_clip(ARCHITECTURE).state_dict(), weights)
    start = ClipConfig(model="glied-tiny", weights=str(weights))
    task = ClipTask(
        config=TrainClipConfig(
            train=pairs, validation=pairs, model=ClipModelConfig(start=start), trainer=trainer()
        )
    )
    task.export(train(task, 1), str(tmp_path / "finetuned"))
    assert load_clip(ClipConfig(checkpoint=str(tmp_path / "finetuned"))).unknown_words(["giraffe"]) == []


@pytest.mark.parametrize("class_token", [False, True])
def test_vectors_are_those_of_open_clip(class_token):
    torch.manual_seed(0)
    text = ARCHITECTURE["text_cfg"] | {"embed_cls": class_token}
    clip: Any = build_clip(ARCHITECTURE | {"custom_text": class_token, "text_cfg": text}).train()
    pixels, tokens = torch.rand(4, 3, 32, 32), clip_tokenizer(text)(["a", "a red", "kite", "a b c"])
    image, words, scale = clip(pixels, tokens)[:3]
    torch.testing.assert_close(ClipModel(clip)(pixels, tokens), (image, words, scale), atol=1e-5, rtol=1e-5)


def test_the_scale_stays_within_the_bound_of_clip_and_keeps_its_gradient(task):
    model = task.build()
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    task.constrain(model)
    loss, scalars = task.loss(model, collate(task, task.data("train").to_pylist()))
    assert scalars["scale"].item() == pytest.approx(100, rel=1e-5)
    loss.backward()
    assert model.clip.logit_scale.grad.abs() > 0


def test_the_trainer_limits_the_scale(task, tmp_path):
    config = trainer(
        tmp_path / "run", epochs=1, batch_size=4, learning_rate=1.0, schedule="constant", device="cpu"
    )
    assert train_here(task, config)["last"]["scale"] <= 100.001
    exported = load_clip(ClipConfig(checkpoint=str(tmp_path / "run" / "last")))
    assert exported.model.logit_scale.item() <= 4.606  # ln 100 in half precision


def test_a_model_with_nan_outputs_is_never_the_best() -> None:
    nothing = torch.full((3, 4), float("nan"))
    assert math.isnan(next(iter(both_ways(nothing, nothing).values())))


def test_the_bias_of_a_sigmoid_loss_is_not_trained(task, pairs):
    model = ClipModelConfig(architecture=ARCHITECTURE | {"init_logit_bias": -10.0})
    built = ClipTask(
        config=TrainClipConfig(train=pairs, validation=pairs, model=model, trainer=trainer())
    ).build()
    assert not built.clip.logit_bias.requires_grad
    loss, _ = task.loss(built, collate(task, task.data("train").to_pylist()))
    loss.backward()
    assert all(parameter.grad is not None for parameter in built.parameters() if parameter.requires_grad)


def test_missing_and_broken_images_are_named(task, tmp_path, pairs):
    (tmp_path / "pairs" / "3.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"3\.png of the pairs cannot be read \(not_an_image"):
        task.data("train")
    (tmp_path / "pairs" / "3.png").unlink()
    uncached = ClipTask(
        config=TrainClipConfig(train=pairs, validation=pairs, model=task.config.model, trainer=trainer())
    )
    rows = uncached.data("train").to_pylist()
    with pytest.raises(UsageError, match=r"3\.png of the pairs cannot be read"):
        collate(uncached, rows)
    assert list(Path(tmp_path / "cache").iterdir()) == []


def test_different_pairs_have_different_caches(task, tmp_path):
    task.data("train")
    other = write_pairs(tmp_path / "pairs", count=8)
    fresh = ClipTask(
        config=TrainClipConfig(
            train=other, validation=other, model=task.config.model, cache=task.config.cache, trainer=trainer()
        )
    )
    assert len(fresh._images.resized(other)) == 8
    assert len(list(Path(tmp_path / "cache").iterdir())) == 2


def test_retrieval_both_ways_by_hand():
    """The first text is nearest to the second image; each image is nearest to its own text."""
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.9], [0.0, 1.0]]))
    images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.5, 0.6]]))
    found = both_ways(texts, images)
    assert (found["r1"], found["mean_rank"], found["image_to_text_r1"], found["pool"]) == (50, 1.5, 50, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either architecture"),
        ({"architecture": ARCHITECTURE, "start": ClipConfig(checkpoint="x")}, "either architecture"),
        ({"architecture": {"embed_dim": 8}}, "lacks text_cfg, vision_cfg"),
        ({"start": ClipConfig(checkpoint="x"), "preprocess": {"size": 3}}, "preprocess is of a new model"),
    ],
)
def test_config_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        ClipModelConfig(**options)


def test_untrainable_models_are_refused(task, pairs):
    unknown = ClipModelConfig(architecture=ARCHITECTURE, preprocess={"resize": "squash"})
    with pytest.raises(UsageError, match="preprocess has"):
        ClipTask(
            config=TrainClipConfig(train=pairs, validation=pairs, model=unknown, trainer=trainer())
        ).data("train")
    coca = ClipModelConfig(architecture=ARCHITECTURE | {"multimodal_cfg": {}})
    with pytest.raises(UsageError, match="CoCa"):
        ClipTask(config=TrainClipConfig(train=pairs, validation=pairs, model=coca, trainer=trainer())).data(
            "train"
        )
    assert TextsConfig() == task.config.texts
