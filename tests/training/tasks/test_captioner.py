import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from glied.captioner.captioner import Captioner
from glied.captioner.model import CaptionerConfig
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.errors import UsageError
from glied.regions import RegionBatch, Regions
from glied.text.vocabulary import BOS, EOS, PAD
from glied.training.task import ScheduledTask
from glied.training.tasks.captioner import (
    CaptionerTask,
    TrainCaptionerConfig,
    WordsConfig,
    caption_tensors,
    mix_inputs,
)
from glied.training.tasks.image_inputs import thin_out
from glied.vision.attributes import AttributePredictor, save_attributes
from tests.training.settings import trainer, with_config

KINDS = ["dog", "cat", "boat", "tree"]
GENERATOR = torch.Generator()


def make_regions(kind: int) -> Regions:
    """Make one region whose feature encodes its kind."""
    feature = np.zeros((1, 8), dtype=np.float32)
    feature[0, kind] = 4.0
    return Regions(
        boxes=np.array([[10, 10, 60, 50]], dtype=np.float32),
        features=feature,
        scores=np.ones(1, dtype=np.float32),
        labels=[KINDS[kind]],
        attributes=[[]],
        width=100,
        height=80,
    )


@pytest.fixture
def task(tmp_path):
    names = [f"train-{i}.jpg" for i in range(16)]
    captions = [[f"A {KINDS[i % 4]}.", f"the {KINDS[i % 4]} on a hill"] for i in range(16)]
    images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
    annotations = [
        {"id": 2 * i + k, "image_id": i, "caption": text}
        for i, one in enumerate(captions)
        for k, text in enumerate(one)
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    save_attributes(AttributePredictor([*KINDS, "hill"], feature_size=8), str(tmp_path / "attributes"))
    split = CaptionedRegions(features=str(tmp_path / "features"), captions=str(tmp_path / "captions.json"))
    return CaptionerTask(
        config=TrainCaptionerConfig(
            train=split,
            validation=split,
            words=WordsConfig(minimum_count=1, attributes=str(tmp_path / "attributes"), attribute_count=3),
            model=CaptionerConfig(width=32, heads=4, dropout=0.0),
            trainer=trainer(),
        )
    )


@pytest.fixture
def rows():
    regions = [make_regions(i % 4) for i in range(16)]
    return features.write(regions, [f"images/train-{i}.jpg" for i in range(16)], fingerprint={}).to_pylist()


def test_batch(task, rows):
    batch = task.collate(rows[:3], training=True, generator=GENERATOR)
    assert batch.regions.features.shape == (3, 1, 8)
    assert batch.attributes.shape == batch.attribute_mask.shape == (3, 3)
    assert batch.inputs.shape == batch.targets.shape == (3, 2, 6)
    assert task.vocabulary.decode(batch.targets[1, 1].tolist()) == ["the", "cat", "on", "a", "hill"]
    assert batch.references[2] == ["A boat.", "the boat on a hill"]


def test_an_epoch_includes_the_copies(task, tmp_path):
    ids = [f"images/train-{i}.jpg" for i in range(16)]
    for name, shift in (("features", 0), ("copies", 1)):
        table = features.write([make_regions((i + shift) % 4) for i in range(16)], ids, fingerprint={})
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "part.parquet")
    train = dataclasses.replace(task.config.train, copies=(str(tmp_path / "copies"),))
    both = with_config(task, train=train)
    files = both.data("train")
    assert [path.rsplit("/", 2)[-2] for path in files] == ["features", "copies"]
    assert len(both.data("validation")) == 1
    rows = [pq.read_table(path).to_pylist()[0] for path in files]
    whole = both.collate(rows, training=True, generator=GENERATOR)
    assert whole.inputs[0].equal(whole.inputs[1])
    kinds = whole.regions.features.argmax(dim=-1).flatten().tolist()
    assert kinds == [0, 1]
    # Each copy has its own attribute words, in any order of reading.
    alone = dataclasses.replace(both).collate(rows[1:], training=True, generator=GENERATOR)
    assert alone.attributes[0].equal(whole.attributes[1])


def test_copies_must_have_the_same_extractor(task, tmp_path):
    for name in ("features", "copies"):
        table = features.write([make_regions(0)], ["train-0.jpg"], fingerprint={"size": len(name)})
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "part.parquet")
    train = dataclasses.replace(task.config.train, copies=(str(tmp_path / "copies"),))
    with pytest.raises(UsageError, match="extracted differently: size"):
        with_config(task, train=train).data("train")


def test_the_vocabulary_may_come_from_a_file(task, tmp_path):
    (tmp_path / "vocabulary.json").write_text('{"words": ["a", "horse"]}')
    words = dataclasses.replace(task.config.words, vocabulary=str(tmp_path / "vocabulary.json"))
    listed = with_config(task, words=words)
    assert listed.vocabulary.to_json() == ["a", "horse"]
    assert len(task.vocabulary) > len(listed.vocabulary)


def test_learns_and_exports(task, rows, tmp_path):
    torch.manual_seed(0)
    model = task.build()
    batch = task.collate(rows, training=True, generator=GENERATOR)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = task.validate(model.eval(), [batch])
    model.train()
    for _ in range(60):
        loss, scalars = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after, shown = task.validate_and_show(model.eval(), [batch])
    assert task.validate(model, [batch]) == after
    assert [one.reference for one in shown] == [known[0] for known in batch.references[: len(shown)]]
    assert len(shown) == 8
    assert next(iter(after)) == "cider"
    assert after["cider"] > before["cider"] + 100
    assert after["loss"] < before["loss"]
    assert scalars["accuracy"] > 0.7
    (tmp_path / "features").mkdir()
    store = features.write([make_regions(0)], ["images/train-0.jpg"], fingerprint={"kind": "test"})
    pq.write_table(store, tmp_path / "features" / "0.parquet")
    task.export(model, str(tmp_path / "best"))
    captioner = Captioner.load(str(tmp_path / "best"))
    assert captioner.extractor == {"kind": "test"}
    assert captioner.familiarity is not None
    assert captioner.familiarity(make_regions(0).features) == 1  # the store has only this image
    assert captioner.familiarity(make_regions(2).features) == 1 / 2
    regions = [make_regions(2)]
    (caption,) = captioner.caption(regions, task.predictor.top(RegionBatch.collate(regions), 3))[0]
    assert "boat" in caption.text


def test_missing_inputs_are_named(task, rows):
    with pytest.raises(UsageError, match="extract_regions"):
        task.data("train")
    with pytest.raises(UsageError, match=r"unknown\.jpg"):
        task.collate([rows[0] | {"id": "unknown.jpg"}], training=True, generator=GENERATOR)


def test_caption_tensors_pad_words_and_captions():
    inputs, targets = caption_tensors([[[7, 8], [9]], [[5]]])
    assert inputs.tolist() == [[[BOS, 7, 8], [BOS, 9, PAD]], [[BOS, 5, PAD], [PAD, PAD, PAD]]]
    assert targets.tolist() == [[[7, 8, EOS], [9, EOS, PAD]], [[5, EOS, PAD], [PAD, PAD, PAD]]]


def test_regions_are_dropped_at_random():
    counts = [8, 3, 1]
    mask = torch.arange(8) < torch.tensor(counts)[:, None]
    features = torch.arange(1, 25).view(3, 8, 1).float().masked_fill(~mask[..., None], 0.0)
    batch = RegionBatch(features, features.repeat(1, 1, 4), mask, torch.ones(3, 2))
    seen = [set(), set(), set()]
    for seed in range(40):
        thin = thin_out(batch, 0.5, torch.Generator().manual_seed(seed))
        assert thin.features.shape == (3, 4, 1)
        assert thin.mask.sum(dim=1).tolist() == [4, 2, 1]
        for image, places in enumerate(thin.mask):
            values = thin.features[image, places, 0].tolist()
            assert len(set(values)) == len(values)
            assert set(values) <= set(features[image, mask[image], 0].tolist())
            assert thin.boxes[image, places, 2].tolist() == values
            seen[image] |= set(values)
        assert not thin.features[~thin.mask].any()
    assert [len(one) for one in seen] == counts
    torch.testing.assert_close(
        thin.features, thin_out(batch, 0.5, torch.Generator().manual_seed(39)).features
    )


def test_the_attribute_predictor_sees_each_image_once(task, rows, monkeypatch):
    shown = []
    top = AttributePredictor.top
    monkeypatch.setattr(
        AttributePredictor, "top", lambda self, batch, n: shown.append(len(batch.mask)) or top(self, batch, n)
    )
    first = task.collate(rows[:3], training=True, generator=GENERATOR)
    later = task.collate(rows[4:0:-1], training=True, generator=GENERATOR)
    assert shown == [3, 2]
    again = dataclasses.replace(task).collate(rows[4:0:-1], training=True, generator=GENERATOR)
    assert later.attributes.equal(again.attributes)
    assert later.attributes[-1].equal(first.attributes[1])
    assert later.attribute_mask.equal(again.attribute_mask)


def test_regions_are_dropped_in_training_only(task, rows):
    thin = with_config(task, region_dropout=0.5)
    wide = [row | {"count": 4, "features": row["features"] * 4, "boxes": [*row["boxes"]] * 4} for row in rows]
    wide = [row | {name: row[name] * 4 for name in ("scores", "labels", "attributes")} for row in wide]
    found = thin.collate(wide[:3], training=True, generator=torch.Generator().manual_seed(0))
    assert found.regions.features.shape[:2] == (3, 2)
    assert found.attributes.equal(task.collate(wide[:3], training=True, generator=GENERATOR).attributes)
    validating = with_config(thin, validation=task.config.train)
    assert validating.collate(wide[:3], training=False, generator=GENERATOR).regions.mask.shape == (3, 4)


def test_scheduled_sampling_mixes_in_words_of_the_model():
    inputs = torch.tensor([[[BOS, 7, 8, 9]] * 200, [[BOS, 5, PAD, PAD]] * 200])
    mask = inputs != PAD
    logits = torch.zeros(int(mask.sum()), 12)
    logits[:, EOS], logits[:, 11] = (
        50.0,
        30.0,
    )  # the end token is the most probable, but it cannot be an input
    torch.manual_seed(0)
    mixed = mix_inputs(inputs, logits, mask, 0.25)
    changed = mixed != inputs
    assert set(mixed[changed].tolist()) == {11}
    assert not changed[..., 0].any()
    assert not changed[~mask].any()
    assert 0.2 < changed[..., 1:].sum() / mask[..., 1:].sum() < 0.3
    assert torch.equal(mix_inputs(inputs, logits, mask, 0.0), inputs)
    after = torch.zeros(int(mask.sum()), 12)
    after[torch.arange(len(after)), 4 + torch.arange(len(after)) % 4] = (
        50.0  # the word sampled at each position
    )
    drawn = mix_inputs(inputs[:1, :1], after[:4], mask[:1, :1], 1.0)
    assert drawn.tolist() == [[[BOS, 4, 5, 6]]], (
        "sampled words are inputs only where the previous word is real"
    )


def test_scheduled_sampling_rises_with_the_training(task, rows):
    task = with_config(task, scheduled_sampling=0.9, label_smoothing=0.0)
    assert isinstance(task, ScheduledTask)
    model = task.build().eval()
    batch = task.collate(rows, training=True, generator=GENERATOR)
    torch.manual_seed(0)
    start, middle, end = (task.loss_at(model, batch, done)[0].item() for done in (0.0, 0.5, 1.0))
    assert start == task.loss(model, batch)[0].item() == task.loss_at(model, batch, 0.0)[0].item()
    assert len({start, middle, end}) == 3


@pytest.mark.parametrize("key", ["minimum_count", "max_length", "attribute_count"])
def test_config_refuses(key):
    with pytest.raises(UsageError, match=key):
        WordsConfig(attributes="x", **{key: 0})
