"""The column `clip_score` of the photographs' config, on real photographs with the weights that ship."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from torch import Tensor

from glied.bulk.captioning import CaptionDatasetConfig, caption_factory, caption_pools, without_scores
from glied.bulk.items import Stage
from glied.bulk.plan.manifest import planned
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.stages.describe import clip_scores
from glied.clip.config import ClipConfig
from glied.clip.scorer import ClipScorer, load_clip
from glied.clip.scores import clip_score
from glied.config import parse
from glied.vision import images

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(str(path) for path in (ROOT / "docs" / "images" / "photographs").glob("*.jpg"))[:5]


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    return load_clip(ClipConfig(checkpoint="glied/weights/photographs/clip"))


@pytest.fixture(scope="module")
def fetched() -> pa.Table:
    return Fetch(pause=0.0)(planned(id=FILES, uri=FILES))


def configure(*options: str) -> CaptionDatasetConfig:
    return parse(CaptionDatasetConfig, ["--config=configs/caption/photographs.yaml", *options])


@pytest.fixture(scope="module")
def whole(fetched: pa.Table) -> pa.Table:
    return caption_factory(configure()).build()(fetched)


def expected_scores(scorer: ClipScorer, captions: list[str]) -> list[float]:
    """CLIP-S from pixels."""
    pixels = [images.decode(Path(file).read_bytes()) for file in FILES]
    return clip_score(scorer.encode_images(pixels), scorer.encode_texts(captions)).tolist()


def test_scores_by_default_equal_those_from_pixels(whole: pa.Table, scorer: ClipScorer) -> None:
    found = whole["clip_score"].to_pylist()
    assert found == pytest.approx(expected_scores(scorer, whole["caption"].to_pylist()), abs=1e-4)
    assert max(found) > 1


def test_no_image_passes_through_the_tower_of_the_clip(
    fetched: pa.Table, whole: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ClipScorer.encode_images

    def only_none(self: ClipScorer, images: list[np.ndarray]) -> Tensor:
        assert not images, "a second pass"
        return encode(self, images)

    monkeypatch.setattr(ClipScorer, "encode_images", only_none)
    assert caption_factory(configure()).build()(fetched)["clip_score"] == whole["clip_score"]


def test_two_pools_give_the_same_scores(fetched: pa.Table, whole: pa.Table) -> None:
    stages: list[Stage] = [
        pool.factory.build() for pool in caption_pools(configure("--resources.pools=split"))
    ]
    first, second = stages
    found = second(first(fetched))
    assert found.schema == whole.schema
    assert found["caption"] == whole["caption"]
    assert found["clip_score"].to_pylist() == pytest.approx(whole["clip_score"].to_pylist(), abs=1e-6)


@pytest.mark.parametrize("pools", ["fused", "split"])
def test_another_clip_reads_the_pixels(fetched: pa.Table, pools: str) -> None:
    """Its tower is not the backbone of the regions; its words are those of scenes."""
    checkpoint = "glied/weights/demo/clip"
    config = configure(f"--clip.checkpoint={checkpoint}", f"--resources.pools={pools}")
    table = fetched
    for pool in caption_pools(config):
        table = pool.factory.build()(table)
    scorer, captions = load_clip(ClipConfig(checkpoint=checkpoint)), table["caption"].to_pylist()
    expected = expected_scores(scorer, scorer.known_parts(captions))
    assert table["clip_score"].to_pylist() == pytest.approx(expected, abs=1e-4)
    assert scorer.unknown_words(captions)
    assert set(table["status"].to_pylist()) == {"ok"}


def test_no_scores_without_a_clip(fetched: pa.Table, whole: pa.Table) -> None:
    table = caption_factory(configure("--clip=null")).build()(fetched)
    assert table["clip_score"].to_pylist() == [None] * len(FILES)
    assert table["caption"] == whole["caption"]


def test_unknown_words_do_not_count(scorer: ClipScorer) -> None:
    vectors = scorer.encode_images([images.decode(Path(FILES[0]).read_bytes())] * 4)
    found = clip_scores(scorer, vectors, ["a dog", "a quokka dog", "quokka", ""])
    assert found[0] == found[1] == pytest.approx(clip_score(vectors, scorer.encode_texts(["a dog"] * 4))[0])
    assert found[2:] == [None, None]


def test_single_images_need_no_clip_unless_it_chooses_the_caption() -> None:
    assert without_scores(configure()).clip is None
    chosen = configure("--quality.best_by=clip_score")
    assert without_scores(chosen) == chosen
