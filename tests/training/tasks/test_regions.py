import pickle

import pytest
import torch

from glied.errors import UsageError
from glied.training.task import Task
from glied.training.tasks.regions import (
    RegionsData,
    RegionsTask,
    TrainRegionsConfig,
    attribute_accuracy,
    mirror,
)
from glied.vision.extractors.small_detector import load_detector
from tests.training.settings import trainer
from tests.vision.scenes import TINY, write_scenes


@pytest.fixture
def task(tmp_path) -> RegionsTask:
    write_scenes(tmp_path / "scenes", 12)
    folder = str(tmp_path / "scenes")
    return RegionsTask(
        config=TrainRegionsConfig(
            data=RegionsData(train=folder, validation=folder), model=TINY, trainer=trainer()
        )
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_is_a_picklable_task(task):
    assert isinstance(task, Task)
    assert pickle.loads(pickle.dumps(task)) == task


def test_classes_are_objects_then_background(task):
    detector = task.build()
    assert detector.classes == ["tower", "car", "sky"]
    assert list(detector.attributes) == ["color", "size"]


def test_collate_gives_pixels_boxes_labels_and_attributes(task):
    rows = task.data("validation").to_pylist()
    batch = task.collate(rows, training=False, generator=seeded())
    assert len(batch.images) == 12
    assert batch.images[0].shape == (3, 64, 96)
    target = batch.targets[0]
    assert target["labels"].tolist() == [1, 2]
    assert set(target["attributes"][:, 1].tolist()) == {0}
    for box, color in zip(target["boxes"].int(), target["attributes"][:, 0], strict=True):
        pixel = batch.images[0][:, box[1], box[0]]
        assert pixel.argmax() == color - 1  # red, green, blue are the values 1, 2, 3
    empty = batch.targets[-1]
    assert empty["boxes"].shape == (0, 4)
    assert empty["attributes"].shape == (0, 2)


def test_mirroring_is_seeded_and_moves_boxes_with_the_pixels(task):
    rows = task.data("train").to_pylist()
    plain = task.collate(rows, training=False, generator=seeded())
    batch = task.collate(rows, training=True, generator=seeded())
    again = task.collate(rows, training=True, generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(batch.images, again.images, strict=True))
    flipped = [not torch.equal(a, b) for a, b in zip(plain.images[:-1], batch.images[:-1], strict=True)]
    assert 0 < sum(flipped) < len(flipped)
    index = flipped.index(True)
    image, target = mirror(plain.images[index], plain.targets[index])
    assert torch.equal(image, batch.images[index])
    assert torch.equal(target["boxes"], batch.targets[index]["boxes"])
    restored = mirror(image, target)
    assert torch.equal(restored[1]["boxes"], plain.targets[index]["boxes"])


def test_learns_and_exports(task, tmp_path):
    torch.manual_seed(0)
    model = task.build()
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    rows = task.data("train").to_pylist()
    before = None
    for step in range(40):
        batch = task.collate(rows[:8], training=True, generator=seeded(step))
        loss, scalars = task.loss(model.train(), batch)
        before = before or float(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(scalars) == {"classifier", "box_reg", "attributes", "objectness", "rpn_box_reg"}
    assert float(loss) < before / 2
    with torch.no_grad():
        metrics = task.validate(model.eval(), [task.collate(rows, training=False, generator=seeded())])
    assert next(iter(metrics)) == "ap50"
    assert metrics["ap50"] > 0.3
    task.export(model, str(tmp_path / "best"))
    assert load_detector(str(tmp_path / "best"))[0].classes == model.classes


def test_attribute_accuracy_counts_found_objects():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]])
    labels = torch.tensor([1, 1, 2])
    truth = {"boxes": boxes, "labels": labels, "attributes": torch.tensor([[1, 0], [2, 1], [3, 1]])}
    found = {
        "boxes": boxes,
        "labels": torch.tensor([1, 1, 1]),  # the third is of another class: not found
        "attributes": torch.tensor([[1, 1], [2, 1], [3, 1]]),
    }
    assert attribute_accuracy([found], [truth], ["color", "size"]) == {
        "accuracy_color": 1,
        "accuracy_size": 0.5,
    }


def test_a_folder_without_scenes_is_one_clear_error(tmp_path):
    task = RegionsTask(
        config=TrainRegionsConfig(
            data=RegionsData(train=str(tmp_path), validation=str(tmp_path)), model=TINY, trainer=trainer()
        )
    )
    with pytest.raises(UsageError, match="no scene folder"):
        task.data("train")


def test_an_unknown_class_is_named(task, tmp_path):
    path = tmp_path / "scenes" / "annotations.jsonl"
    path.write_text(path.read_text().replace('"tower"', '"castle"'))
    with pytest.raises(UsageError, match="castle"):
        task.data("train")
