import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from glied import storage
from glied.data import features
from glied.data.captioned_regions import CaptionedRegions
from glied.errors import UsageError
from glied.regions import Regions
from glied.training.task import Task
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig, average_precisions
from glied.vision.attributes import load_attributes
from tests.training.settings import trainer, with_config

CLASSES = ["dog", "cat", "kite"]


def write_split(folder: Path, count: int) -> CaptionedRegions:
    """Write images of one or two classes: feature k is 1 in regions of class k, captions name it."""
    random = np.random.default_rng(0)
    found, names, images, annotations = [], [], [], []
    for number in range(count):
        shown = random.choice(3, size=random.integers(1, 3), replace=False)
        rows = np.eye(4, dtype=np.float32)[[*shown, 3]]
        boxes = np.tile(np.array([0, 0, 5, 5], np.float32), (len(rows), 1))
        labels = [*(CLASSES[index] for index in shown), "sky"]
        scores = np.ones(len(rows), np.float32)
        found.append(Regions(boxes, rows, scores, labels, [[] for _ in rows], 10, 10))
        names.append(f"folder/{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 10, "height": 10})
        caption = "A " + " and a ".join(CLASSES[index] for index in shown) + "."
        annotations.append({"id": number, "image_id": number, "caption": caption})
    table = features.write(found, names, fingerprint={"kind": "test"})
    storage.write_bytes(str(folder / "features" / "part.parquet"), features.parquet_bytes(table))
    captions = json.dumps({"images": images, "annotations": annotations})
    storage.write_bytes(str(folder / "captions.json"), captions.encode())
    return CaptionedRegions(features=str(folder / "features"), captions=str(folder / "captions.json"))


@pytest.fixture
def task(tmp_path) -> AttributesTask:
    data = write_split(tmp_path, 40)
    return AttributesTask(
        config=TrainAttributesConfig(
            train=data, validation=data, words=4, minimum_positives=5, trainer=trainer()
        )
    )


def rows_of(task: AttributesTask) -> list[dict]:
    return [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]


def collate(task: AttributesTask, rows: list[dict]):
    return task.collate(rows, training=True, generator=torch.Generator())


def test_is_a_picklable_task(task):
    assert isinstance(task, Task)
    assert pickle.loads(pickle.dumps(task)) == task


def test_words_are_the_most_frequent_counted_once_per_image(task):
    assert task.vocabulary[0] == "a"
    assert len(task.vocabulary) == 4
    assert "and" in task.vocabulary or set(CLASSES) < set(task.vocabulary)


def test_words_may_come_from_a_list(task, tmp_path):
    (tmp_path / "attributes.json").write_text('{"words": ["hill", "and", "a"]}')
    listed = with_config(task, word_list=str(tmp_path / "attributes.json"), words=2)
    assert listed.vocabulary == ["hill", "and"]
    assert listed.build().words == ["hill", "and"]


def test_targets_are_the_words_of_the_references(task):
    rows = rows_of(task)
    batch = collate(task, rows[:6])
    assert batch.targets.shape == (6, 4)
    column = task.vocabulary.index("a")
    assert batch.targets[:, column].tolist() == [1.0] * 6
    for word in set(CLASSES) & set(task.vocabulary):
        expected = [float(word in row["labels"]) for row in rows[:6]]
        assert batch.targets[:, task.vocabulary.index(word)].tolist() == expected


def test_learns_and_exports(task, tmp_path):
    torch.manual_seed(0)
    rows = rows_of(task)
    model = task.build()
    batch = collate(task, rows)
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    for _ in range(60):
        loss, _ = task.loss(model.train(), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        metrics = task.validate(model.eval(), [batch])
    assert next(iter(metrics)) == "map"
    assert metrics["map"] > 0.99
    task.export(model, str(tmp_path / "best"))
    assert load_attributes(str(tmp_path / "best")).words == task.vocabulary


def test_captions_of_other_images_are_one_clear_error(task):
    row = {**rows_of(task)[0], "id": "elsewhere.jpg"}
    with pytest.raises(UsageError, match=r"no captions for elsewhere\.jpg"):
        collate(task, [row])


def test_images_without_regions_are_left_out(task):
    rows = rows_of(task)[:3]
    nothing = dict.fromkeys(rows[1]) | {"id": "cut.jpg"}  # rejected images are stored like this
    batch = collate(task, [rows[0], nothing, rows[2]])
    assert batch.targets.equal(collate(task, [rows[0], rows[2]]).targets)
    assert len(batch.regions.mask) == 2
    with pytest.raises(UsageError, match="a whole batch of images without regions"):
        collate(task, [nothing])


def test_average_precision_by_hand():
    # Ranks of the positives: 1 and 3 -> (1/1 + 2/3) / 2.
    scores = np.array([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.1, 0.1]])
    targets = np.array([[1, 1], [0, 1], [1, 1], [0, 1]])
    found = average_precisions(scores, targets, ["dog", "the"], 2)
    assert found == {"dog": pytest.approx(5 / 6)}  # "the" is a stop word
    assert average_precisions(scores, targets, ["dog", "cat"], 3) == {"cat": 1}


def test_words_start_at_their_frequency_in_an_image_of_typical_size(task):
    grid = with_config(task, typical_regions=196).build()
    found = grid.probabilities(torch.zeros(1, 196, 4), torch.ones(1, 196, dtype=torch.bool))[0]
    images = len(task.config.train.references)
    expected = [task._counts[word] / images for word in task.vocabulary]
    torch.testing.assert_close(found, torch.tensor(expected).clamp(max=0.99), rtol=1e-3, atol=0)
