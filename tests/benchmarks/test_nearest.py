"""Consensus captions: the caption most like those of the nearest images."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.nearest import Config, Profile, consensus, measure
from glied.data import features
from glied.regions import Regions
from glied.text.cider import DocumentFrequencies
from glied.text.ngrams import Packed

SAID = {
    "dog": ["a brown dog runs", "a dog runs on grass", "the dog plays"],
    "boat": ["a boat sails", "a white boat on a lake", "the boat at sea"],
}


def test_consensus_is_the_highest_mean_of_cosines():
    captions = [[[1, 2, 3], [1, 2, 4]], [[1, 2, 3, 5], [9, 8]], [[7, 8], [7]]]
    packed = [Packed.of(one) for one in captions]
    table = DocumentFrequencies.of(packed)
    profiles = [Profile.of(one, table) for one in packed]
    flat = [caption for one in captions for caption in one]
    scores = []
    for one in range(6):
        total = 0.0
        for other in range(6):
            for order in range(1, 5):
                a, b = (tf_idf(flat[i], order, captions) for i in (one, other))
                lengths = (sum(v * v for v in a.values()) * sum(v * v for v in b.values())) ** 0.5
                total += sum(a[k] * b.get(k, 0.0) for k in a) / lengths if lengths else 0.0
        scores.append(total)
    assert consensus(profiles, len(table)) == int(np.argmax(scores))
    assert consensus(profiles[1:], len(table)) in range(4)


def tf_idf(caption, order, captions):
    grams = [tuple(caption[i : i + order]) for i in range(len(caption) - order + 1)]
    documents = [
        {tuple(c[i : i + order]) for c in one for i in range(len(c) - order + 1)} for one in captions
    ]
    return {g: grams.count(g) * np.log(3 / sum(g in one for one in documents)) for g in grams}


@pytest.fixture
def world(tmp_path):
    generator = np.random.default_rng(0)
    for split, size in (("train", 12), ("val", 4), ("test", 4)):
        (tmp_path / split).mkdir()
        images, annotations, regions = [], [], []
        for number in range(size):
            kind = list(SAID)[number % 2]
            vector = np.eye(8, dtype=np.float32)[number % 2] + generator.normal(0, 0.05, 8).astype(np.float32)
            box = np.array([[0, 0, 9, 9]], np.float32)
            regions.append(Regions(box, vector[None], np.ones(1, np.float32), ["image"], [[]], 9, 9))
            images.append({"id": number, "file_name": f"{split}{number}.jpg"})
            for text in SAID[kind]:
                annotations.append({"id": len(annotations), "image_id": number, "caption": text})
        content = {"images": images, "annotations": annotations}
        (tmp_path / split / "captions.json").write_text(json.dumps(content))
        table = features.write(regions, [one["file_name"] for one in images], fingerprint={})
        pq.write_table(table, tmp_path / split / "part.parquet")
    return tmp_path


def test_captions_are_those_of_the_kind(world):
    found = measure(Config(features=str(world), captions=str(world), neighbors=(2, 4)))
    assert found["neighbors"] in (2, 4)
    assert set(found["val_cider"]) == {"2", "4"}
    assert found["test"]["CIDEr"] > 100
