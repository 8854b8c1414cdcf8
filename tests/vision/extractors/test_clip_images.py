import numpy as np
import pytest
import torch

from glied.bulk.chunks import run_here
from glied.bulk.extraction import ExtractRegionsConfig, extract_factory, extract_job
from glied.bulk.plan.sources.fetch import Fetch
from glied.bulk.run import bulk_run
from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import ClipScorer, load_clip
from glied.config import parse
from glied.data import features
from glied.errors import UsageError
from glied.rewards.clip_reward import ImageVectors
from glied.vision.extractors.clip_images import image_fingerprint
from glied.vision.extractors.config import RegionsConfig
from tests.clip.test_clip import TINY


def test_a_store_of_image_vectors_from_the_bulk_job(photos, tmp_path):
    torch.manual_seed(0)
    save_clip(str(tmp_path / "clip"), build_clip(TINY, preprocess={"resize_mode": "squash"}), TINY)
    options = ["--config=configs/extract/clip_tiny.yaml", f"--regions.clip.checkpoint={tmp_path / 'clip'}"]
    options += [f"--input.uri={photos}", f"--output.uri={tmp_path / 'run'}"]
    config = parse(ExtractRegionsConfig, options)
    summary = bulk_run.execute(extract_job(config), run_here(Fetch(), extract_factory(config).build()))
    assert summary.statuses == {"ok": 58, "rejected": 2}

    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "clip")))
    vectors = ImageVectors(str(tmp_path / "run"), scorer)
    names = features.image_ids(str(tmp_path / "run"))
    assert len(names) == 58
    vectors.check(names)
    found = vectors(["turned.jpg", "cmyk.jpg"])
    assert found.shape == (2, 16)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2), rtol=0, atol=1e-3)
    turned = np.full((60, 40, 3), (200, 30, 10), np.uint8)
    torch.testing.assert_close(found[:1], scorer.encode_images([turned]), rtol=0, atol=2e-2)
    with pytest.raises(UsageError, match=r"lacks 1 images, unknown\.jpg for one"):
        vectors.check(["turned.jpg", "unknown.jpg"])


def test_the_fingerprint_depends_on_the_image_encoder_only():
    torch.manual_seed(0)
    model = build_clip(TINY)
    before = image_fingerprint(ClipScorer(model, TINY))
    with torch.no_grad():
        model.text_projection.add_(1.0)
    assert image_fingerprint(ClipScorer(model, TINY, prompt="")) == before
    with torch.no_grad():
        model.visual.proj.add_(1.0)
    assert image_fingerprint(ClipScorer(model, TINY)) != before


def test_kind_and_clip_belong_together():
    with pytest.raises(UsageError, match="clip and clip_grid need the setting clip"):
        RegionsConfig(kind="clip")
    with pytest.raises(UsageError, match="clip and clip_grid need the setting clip"):
        RegionsConfig(checkpoint="x", clip=ClipConfig(checkpoint="y"))
    with pytest.raises(UsageError, match="takes no checkpoint or model"):
        RegionsConfig(kind="clip", checkpoint="x", clip=ClipConfig(checkpoint="y"))
