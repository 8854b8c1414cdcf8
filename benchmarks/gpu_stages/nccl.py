"""Check data-parallel training with one rank: NCCL (gloo on a CPU) starts, and DDP keeps the gradients.

One rank on one GPU shows that the library loads, that a process group starts without a network, and the time
that DDP adds to a step. It shows nothing about several GPUs.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.decoding_products import FEATURES, WORDS
from benchmarks.gpu_stages.correctness import gradient_of, relative_error
from benchmarks.gpu_stages.inputs import paper_inputs, paper_model
from benchmarks.gpu_stages.measuring import once, timed
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.training import steps
from glied.training.tasks.losses import word_cross_entropy


def rows(setting: Setting) -> Iterator[Row]:
    """Start a process group; check an all-reduce, a broadcast, and steps with and without DDP."""
    os.environ |= {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
    backend, device = ("nccl" if setting.cuda else "gloo"), setting.torch_device
    with tempfile.TemporaryDirectory() as folder:
        started = once(lambda: _start(backend, Path(folder)), device)
        try:
            yield {"backend": backend, "start_s": round(started, 2)}
            yield from exchange(setting)
            yield from parallel(setting)
        finally:
            torch.distributed.destroy_process_group()


def _start(backend: str, folder: Path) -> None:
    torch.distributed.init_process_group(
        backend,
        init_method=f"file://{folder}/rendezvous",
        rank=0,
        world_size=1,
        timeout=timedelta(seconds=30),
    )


def exchange(setting: Setting) -> Iterator[Row]:
    """Check that an all-reduce over one rank changes nothing and that objects are broadcast."""
    numbers = torch.randn(setting.pick(1000, 1 << 24), device=setting.torch_device)
    summed = numbers.clone()
    torch.distributed.all_reduce(summed)
    yield check("all-reduce with one rank, largest difference", float((summed - numbers).abs().max()), most=0)
    objects = [{"step": 1}]
    torch.distributed.broadcast_object_list(objects, src=0)
    yield check("objects broadcast", objects[0]["step"], least=1, most=1)


def parallel(setting: Setting) -> Iterator[Row]:
    """Compare the gradients and the time of a cross-entropy step with and without DDP."""
    device, batch = setting.torch_device, setting.pick(2, 128)
    model_inputs = paper_inputs(batch, device)
    tokens = torch.randint(4, WORDS + 1, (batch, 5, 20), device=device)
    model = paper_model(device, torch.float32, FEATURES).eval()  # without dropout, which differs by step
    optimizer = steps.build_optimizer(model, name="adamw", learning_rate=1e-6, weight_decay=0.0)
    loss_of = _loss(model_inputs, tokens, device)
    gradients, seconds = [], []
    parallel_model = DistributedDataParallel(model, device_ids=[device.index or 0] if setting.cuda else None)
    for one in (model, parallel_model):
        optimizer.zero_grad()
        loss_of(one).backward()
        gradients.append(gradient_of(model))

        def step(one: nn.Module = one) -> None:
            steps.optimizer_step(loss_of(one), one, optimizer, learning_rate=0.0, clip_norm=1.0)

        seconds.append(timed(step, device, seconds=setting.pick(0.0, 1.0), least=setting.pick(1, 3)).median)
    error = relative_error(gradients[1], gradients[0])
    yield check("gradients under DDP, relative difference", error, most=1e-2)
    plain, ddp = (round(batch / one, 1) for one in seconds)
    yield {"batch": batch, "plain_images_per_s": plain, "ddp_images_per_s": ddp}


def _loss(model_inputs: tuple, tokens: Tensor, device: torch.device) -> Callable[[nn.Module], Tensor]:
    def loss_of(model: nn.Module) -> Tensor:
        with steps.autocast(device, bf16=True):
            return word_cross_entropy(model(*model_inputs, tokens), tokens)

    return loss_of
