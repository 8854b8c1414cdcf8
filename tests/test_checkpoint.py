from pathlib import Path

import pytest
import torch

from glied import checkpoint
from glied.errors import UsageError


def test_roundtrip_of_shared_and_half_tensors(tmp_path: Path) -> None:
    weight = torch.randn(4, 3)
    tensors = {"a": weight, "tied": weight, "count": torch.tensor(7)}
    checkpoint.save(str(tmp_path), tensors, {"kind": "test"}, half=True)
    loaded = checkpoint.load(str(tmp_path))
    assert loaded.metadata == {"kind": "test"}
    assert loaded.tensors["count"].dtype == torch.int64
    torch.testing.assert_close(loaded.tensors["a"], weight.half().float(), rtol=0, atol=0)
    torch.testing.assert_close(loaded.tensors["tied"], loaded.tensors["a"])


def test_digest_follows_tensors_and_metadata(tmp_path: Path) -> None:
    digests = set()
    for value, kind in ((1.0, "a"), (2.0, "a"), (2.0, "b"), (1.0, "a")):
        checkpoint.save(str(tmp_path), {"w": torch.tensor([value])}, {"kind": kind})
        digests.add(checkpoint.load(str(tmp_path)).digest)
    assert len(digests) == 3


def test_missing_and_broken_checkpoints_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoint.load(str(tmp_path))
    checkpoint.save(str(tmp_path), {"w": torch.zeros(8)}, {})
    file = tmp_path / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UsageError, match="broken"):
        checkpoint.load(str(tmp_path))
