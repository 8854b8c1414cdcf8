import sys

import pytest
import torch
import torch.multiprocessing
from torch.nn import functional as F

from glied.errors import UsageError
from glied.training.tasks.contrastive import contrastive_loss, refuse_micro_batches
from glied.training.tasks.losses import batch_normalized
from tests.training.settings import trainer

SCALE = torch.tensor(14.3)


def vectors(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs, and two weight matrices that map them to image and text vectors."""
    torch.manual_seed(seed)
    return torch.randn(6, 4), torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)


def loss_and_gradients(inputs, a, b) -> list[torch.Tensor]:
    loss = contrastive_loss(F.normalize(inputs @ a, dim=1), F.normalize(inputs.flip(1) @ b, dim=1), SCALE)
    return [loss.detach(), *torch.autograd.grad(loss, [a, b])]


def test_equals_open_clips_own_with_its_gradients():
    import open_clip  # imported here, because the workers below would also wait for it

    inputs, a, b = vectors(0)
    image, text = F.normalize(inputs @ a, dim=1), F.normalize(inputs.flip(1) @ b, dim=1)
    expected = open_clip.ClipLoss()(image, text, SCALE)
    found = contrastive_loss(image, text, SCALE)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [a, b], retain_graph=True), torch.autograd.grad(expected, [a, b])
    )


def with_negatives(inputs, a, b, rows: slice) -> list[torch.Tensor]:
    """Loss and gradients of some pairs, each with a hard negative and a place without one."""
    image, text = F.normalize(inputs @ a, dim=1), F.normalize(inputs.flip(1) @ b, dim=1)
    false = F.normalize((1 + inputs.flip(1)) @ b, dim=1).repeat_interleave(2, 0)
    real = torch.tensor([True, False]).repeat(len(inputs))
    both = slice(2 * rows.start, 2 * rows.stop)
    loss = contrastive_loss(image[rows], text[rows], SCALE, false[both], real[both])
    return [loss.detach(), *torch.autograd.grad(loss, [a, b])]


def advantages() -> torch.Tensor:
    values = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    return values - values.mean(dim=1, keepdim=True)


def test_hard_negatives_equal_a_plain_loop_over_images():
    inputs, a, b = vectors(0)
    image, text = F.normalize(inputs @ a, dim=1), F.normalize(inputs.flip(1) @ b, dim=1)
    false = F.normalize(torch.randn(4, 5), dim=1)
    real = torch.tensor([True, True, False, True])
    found = contrastive_loss(image, text, SCALE, false, real)
    losses = []
    for number in range(6):
        texts = [*text, *(one for one, there in zip(false, real, strict=True) if there)]
        by_image = torch.stack([SCALE * image[number] @ one for one in texts])
        by_text = torch.stack([SCALE * text[number] @ one for one in image])
        losses += [by_image.logsumexp(0) - by_image[number], by_text.logsumexp(0) - by_text[number]]
    torch.testing.assert_close(found, torch.stack(losses).mean())
    nothing = contrastive_loss(image, text, SCALE, false, torch.zeros(4, dtype=torch.bool))
    assert torch.equal(nothing, contrastive_loss(image, text, SCALE))


def worker(rank: int, folder: str) -> None:
    """Run one of two workers with half of the pairs; write the gradients that are averaged."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    inputs, a, b = vectors(0)
    torch.save(loss_and_gradients(inputs[3 * rank : 3 * rank + 3], a, b), f"{folder}/{rank}.pt")
    torch.save(with_negatives(inputs, a, b, slice(3 * rank, 3 * rank + 3)), f"{folder}/false{rank}.pt")
    torch.save(
        batch_normalized(advantages()[slice(0, 2) if rank == 0 else slice(2, 5)]), f"{folder}/a{rank}.pt"
    )
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_workers_with_half_the_pairs_train_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = loss_and_gradients(*vectors(0))
    halves_false = [torch.load(tmp_path / f"false{rank}.pt", weights_only=True) for rank in range(2)]
    alone_false = with_negatives(*vectors(0), slice(0, 6))
    for parts, expected in ((halves, alone), (halves_false, alone_false)):
        for first, second, whole in zip(*parts, expected, strict=True):
            torch.testing.assert_close((first + second) / 2, whole)
    normalized = [torch.load(tmp_path / f"a{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat(normalized), batch_normalized(advantages()))  # of 2 and 3 images


def test_micro_batches_are_refused(tmp_path):
    refuse_micro_batches(trainer(tmp_path))
    with pytest.raises(UsageError, match="accumulate: 2, but a contrastive loss compares"):
        refuse_micro_batches(trainer(tmp_path, accumulate=2))


def test_autocast_does_not_reduce_the_precision():
    image, text = (F.normalize(values, dim=1) for values in (torch.randn(6, 5), torch.randn(6, 5)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(image, text, SCALE)
    assert torch.equal(found, contrastive_loss(image, text, SCALE))


def test_matching_pairs_lower_the_loss():
    image = torch.eye(3)
    together = contrastive_loss(image, image, SCALE)
    assert together < contrastive_loss(image, image.roll(1, 0), SCALE)
    assert contrastive_loss(image, image, torch.tensor(0.0)).item() == pytest.approx(
        torch.log(torch.tensor(3.0))
    )
