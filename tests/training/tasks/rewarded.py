"""A small world for training with rewards: images with one informative region, a captioner, and stores."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from glied.captioner.model import CaptionerConfig, CaptioningModel
from glied.data import features
from glied.data.captioned_regions import RewardedRegions
from glied.regions import Regions
from glied.text.references import save_frequencies
from glied.text.vocabulary import Vocabulary
from glied.training import steps
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig, WordsConfig
from glied.vision.attributes import AttributePredictor, save_attributes
from tests.training.settings import trainer

KINDS = ["dog", "cat", "boat", "tree"]
IMAGES = 16
CAPTIONS = [[f"A {KINDS[i % 4]}.", f"the {KINDS[i % 4]} on a hill", "a thing"] for i in range(IMAGES)]
VOCABULARY = Vocabulary.from_captions([text for one in CAPTIONS for text in one], minimum_count=4)
NAMES = [f"train-{i}.jpg" for i in range(IMAGES)]


def one_region(feature: np.ndarray) -> Regions:
    return Regions(
        boxes=np.array([[10, 10, 60, 50]], dtype=np.float32),
        features=feature[None].astype(np.float32),
        scores=np.ones(1, dtype=np.float32),
        labels=["thing"],
        attributes=[[]],
        width=100,
        height=80,
    )


def write_store(folder: Path, vectors: np.ndarray, fingerprint: dict) -> None:
    """Write a feature store of `IMAGES` images with one region each."""
    folder.mkdir(parents=True)
    ids = [f"images/{name}" for name in NAMES]
    table = features.write([one_region(vector) for vector in vectors], ids, fingerprint=fingerprint)
    (folder / "part.parquet").write_bytes(features.parquet_bytes(table))


def write_world(folder: Path) -> RewardedRegions:
    """Write captions, region features, an attribute predictor, a random captioner, document frequencies."""
    images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(NAMES)]
    pairs = [(i, text) for i, one in enumerate(CAPTIONS) for text in one]
    annotations = [{"id": k, "image_id": i, "caption": text} for k, (i, text) in enumerate(pairs)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    write_store(folder / "features", 4 * np.eye(8)[[i % 4 for i in range(IMAGES)]], {"weights": "toy"})
    split = RewardedRegions(features=str(folder / "features"), captions=str(folder / "captions.json"))
    torch.manual_seed(0)
    save_attributes(AttributePredictor([*KINDS, "hill"], feature_size=8), str(folder / "attributes"))
    task = CaptionerTask(
        config=TrainCaptionerConfig(
            train=split,
            validation=split,
            words=WordsConfig(minimum_count=4, attributes=str(folder / "attributes"), attribute_count=3),
            model=CaptionerConfig(width=32, heads=4, dropout=0.3),
            trainer=trainer(),
        )
    )
    assert task.vocabulary.digest == VOCABULARY.digest
    task.export(pretrained(task), str(folder / "start"))
    save_frequencies(str(folder / "df"), split.references, VOCABULARY)
    return split


def pretrained(task: CaptionerTask, count: int = 12) -> CaptioningModel:
    """Return a captioner after a few steps of cross-entropy, whose captions are often wrong."""
    torch.manual_seed(0)
    model = task.build().train()
    optimizer = steps.build_optimizer(model, name="adamw", learning_rate=3e-3, weight_decay=0.0)
    rows = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]
    batch = task.collate(rows, training=True, generator=torch.Generator())
    for _ in range(count):
        steps.optimizer_step(task.loss(model, batch)[0], model, optimizer, learning_rate=3e-3, clip_norm=1.0)
    return model
