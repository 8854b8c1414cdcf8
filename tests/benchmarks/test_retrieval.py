"""Recall of a CLIP in pools, on vectors made by hand and on a CLIP of random weights."""

import json

import numpy as np
import pytest

from benchmarks.retrieval import Config, measure, recalls
from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, save_clip
from glied.clip.tokenizer import token_ids
from glied.errors import UsageError
from tests.training.tasks.pairs import ARCHITECTURE, write_pairs


def test_every_pool_and_caption_counts():
    images = np.eye(4, dtype=np.float32)
    right, wrong = images, images[[0, 1, 3, 2]]  # the second captions of the last two images are mixed up
    assert recalls(images, [right], 4)["R@1"] == 100
    whole = recalls(images, [right, wrong], 4)
    assert (whole["R@1"], whole["image to text R@1"], whole["R@5"]) == (75, 75, 100)
    halves = recalls(images, [wrong], 2)  # 0 with 2, 1 with 3: the mixed-up ones are never together
    assert halves["R@1"] == 50


def test_images_that_fill_no_pool_are_left_out():
    images = np.eye(5, dtype=np.float32)
    assert recalls(images, [images[[0, 1, 2, 3, 4]]], 2)["R@1"] == 100
    with pytest.raises(UsageError, match="pools: 6 is more than the 5 images"):
        recalls(images, [images], 6)


def test_a_clip_that_does_not_know_all_words(tmp_path):
    pairs = write_pairs(tmp_path / "pairs", 6)
    known = token_ids(["a red green blue white field on the left with right"], ARCHITECTURE)
    save_clip(str(tmp_path / "clip"), build_clip(ARCHITECTURE), ARCHITECTURE, used_tokens=known)
    found = measure(Config(clip=ClipConfig(checkpoint=str(tmp_path / "clip")), pairs=pairs, pools=(6, 3)))
    assert json.loads(json.dumps(found)).keys() == {"6", "3"}
    assert found["6"]["R@10"] == 100
