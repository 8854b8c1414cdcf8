import pytest
import torch

from benchmarks.scst import Config, measure


def test_a_step_is_its_parts(tmp_path):
    torch.manual_seed(0)
    found = measure(Config(rounds=1, device="cpu"), tmp_path)
    parts = [found[f"share_{name}"] for name in ("draw", "score", "reward", "update")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(1, abs=0.01)
    assert found["share_cider"] + found["share_clip_s"] == pytest.approx(found["share_reward"], abs=0.02)
    assert found["images_per_s"] * found["seconds"] == pytest.approx(found["batch_size"], rel=0.05)
