from pathlib import Path

import pytest
import torch

from glied import checkpoint
from glied.errors import JobError, UsageError

EXTRACTOR_DIGEST = "aa7a4d4e47f39a7235ef00f704b6b3825a960a93e921703498fc642d7f54b3de"
CLIP_DIGEST = "67b0b93ea25389f89e67f1b576e1e187a856a0edf262f330f592ef2bb996dc2d"


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


def test_values_beyond_half_precision_are_kept_and_non_finite_ones_are_refused(
    tmp_path,
) -> None:
    large = {"large": torch.tensor([1e6, 1.0]), "small": torch.tensor([0.5])}
    checkpoint.save(str(tmp_path / "large"), large, {}, half=True)
    assert checkpoint.load(str(tmp_path / "large")).tensors["large"].tolist() == [1e6, 1.0]
    with pytest.raises(JobError, match="small has values that are not finite"):
        checkpoint.save(str(tmp_path / "bad"), large | {"small": torch.tensor([float("nan")])}, {}, half=True)
    assert not (tmp_path / "bad").exists()


def test_the_digests_of_weights_are_those_of_version_0_1():
    """Feature stores, runs and checkpoints record these digests."""
    model = torch.nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6).view(3, 2))
        model.bias.zero_()
    assert checkpoint.weights_digest(model) == EXTRACTOR_DIGEST
    assert checkpoint.weights_digest(model, shapes=True) == CLIP_DIGEST


@pytest.mark.parametrize("metadata", [{"kind": "clip"}, {"format": "glied-clip-1"}])
def test_checkpoints_know_their_kind(tmp_path: Path, metadata: dict[str, str]) -> None:
    checkpoint.save(str(tmp_path), {"w": torch.zeros(1)}, metadata)
    assert checkpoint.load(str(tmp_path), "clip").metadata == metadata
    with pytest.raises(UsageError, match="of kind clip, not captioner"):
        checkpoint.load(str(tmp_path), "captioner")


def test_a_checkpoint_without_a_kind_is_only_loaded_as_it_is(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), {"w": torch.zeros(1)}, {})
    assert checkpoint.load(str(tmp_path)).metadata == {}
    with pytest.raises(UsageError, match="of kind unknown, not clip"):
        checkpoint.load(str(tmp_path), "clip")
