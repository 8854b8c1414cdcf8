"""Bytes to captions: the fused stage of the bulk job with its decoder processes, images/s.

This is what a GPU of the cluster does, without fetching and writing: encoded images in memory in, rows out.
Captions are searched by the paper-size GLIED with 3 beams, always 20 words (random weights end no caption),
so a trained captioner is a little faster. Each case runs in processes of its own, one for each worker that
shares the GPU, all at work during the same seconds; shares are of a worker's time: `decode` is what the
models wait for pixels, `rows` what is between the models. `gpu_share` is how much of the time the GPU was at
work at all, `cores` how many processors were.
"""

import multiprocessing
import queue
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_stages.extractors import DETECTOR, LITE, RESNET, Extractor
from benchmarks.gpu_stages.inputs import attribute_predictor, captioner, fetched, photographs
from benchmarks.gpu_stages.measuring import busy_cpu_seconds
from benchmarks.gpu_stages.setting import Row, Setting
from glied.bulk.arrow_tables import seconds_of
from glied.bulk.items import Stage
from glied.bulk.stages.describe import CaptionImages, CaptionRegions
from glied.bulk.stages.stage import DecodeImages, DescribeStage
from glied.captioner.config import DecodingConfig
from glied.vision.decoder_pool import DecoderPool
from glied.vision.gpu_decoder import GpuDecoder

START_S = 60.0
"""Longest wait until all workers of a case are ready."""
LITE_224 = Extractor(model=LITE, side=224)
COCO = Extractor(model=DETECTOR, side=800, canvas_step=128)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fused stage, and how many of them share the GPU.

    Attributes:
        extractor: of regions.
        dtype: of the captioner.
        batch: images that the models get together.
        chunk: images of a chunk; the decoders work ahead within one.
        workers: stages on the GPU.
        decoders: processes beside each.
        jpeg: where JPEGs are decoded, "cpu" or "gpu".
        graphs: whether decoding is replayed as CUDA graphs.
    """

    extractor: Extractor
    dtype: str = "bfloat16"
    batch: int = 128
    chunk: int = 512
    workers: int = 1
    decoders: int = 15
    jpeg: str = "cpu"
    graphs: bool = False


CASES = (
    Case(extractor=LITE_224, workers=5, decoders=2),
    Case(extractor=LITE_224),
    Case(extractor=COCO, batch=64, chunk=256),
    Case(extractor=LITE_224, workers=8, decoders=1),
    Case(extractor=LITE_224, workers=5, decoders=1, jpeg="gpu"),
    Case(extractor=LITE_224, batch=16, chunk=64),
    Case(extractor=LITE_224, dtype="float32"),
    Case(extractor=COCO, batch=64, chunk=256, workers=3, decoders=4),
    Case(extractor=Extractor(model=RESNET, side=448), workers=4, decoders=3),
    Case(extractor=LITE_224, workers=5, decoders=2, graphs=True),
)
"""The most wanted first."""
DRY = (
    Case(extractor=LITE_224, batch=4, chunk=8, workers=2, decoders=1),
    Case(extractor=COCO, batch=2, chunk=4, decoders=1),
)


def rows(setting: Setting) -> Iterator[Row]:
    """A row per case; one that fails does not keep the others from running."""
    encoded = photographs(setting.pick(4, 64))
    context = multiprocessing.get_context("fork")  # CUDA is not in use here: each worker starts it
    for case in setting.pick(DRY, CASES):
        barrier, answers = context.Barrier(case.workers), context.Queue()
        started = time.perf_counter()
        workers = [
            context.Process(target=work, args=(setting, case, encoded, barrier, answers))
            for _ in range(case.workers)
        ]
        for worker in workers:
            worker.start()
        told = list(answered(answers, workers))
        for worker in workers:
            worker.join(5)
            worker.kill()
        about = vars(case) | {"extractor": vars(case.extractor)}
        yield about | together(told) | {"case_s": round(time.perf_counter() - started, 1)}


def answered(answers: Any, workers: list[Any]) -> Iterator[Row]:
    """What the workers of a case say; a worker that ends without a word is said to."""
    for _ in workers:
        while True:
            try:
                yield answers.get(timeout=1)
                break
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    yield {"error": f"workers ended: {[worker.exitcode for worker in workers]}"}
                    return


def together(told: list[Row]) -> Row:
    """Rates and memory added up over workers; shares are means."""
    errors = [one["error"] for one in told if "error" in one]
    if errors:  # a worker that fails lets the others go with a broken barrier
        return {"error": min(errors, key=lambda text: "BrokenBarrier" in text), "ok": False}
    added = {
        name: round(sum(one[name] for one in told), 1)
        for name in ("images_per_s", "peak_mb", "reserved_mb", "host_mb")
    }
    shares = {
        name: round(sum(one[name] for one in told) / len(told), 3)
        for name in told[0]
        if name.startswith("share_")
    }
    first = {name: told[0][name] for name in ("gpu_share", "cores", "seconds", "all_ok")}
    return added | shares | first


def work(setting: Setting, case: Case, encoded: tuple[bytes, ...], barrier: Any, answers: Any) -> None:
    """A worker's life; its figures go to `answers`."""
    try:
        answers.put(measured(setting, case, encoded, barrier))
    except Exception as error:
        barrier.abort()
        answers.put({"error": f"{type(error).__name__}: {error}"[:500]})


def measured(setting: Setting, case: Case, encoded: tuple[bytes, ...], barrier: Any) -> Row:
    """Build the stage, warm up, wait for the others, then work for some seconds."""
    torch.set_num_threads(1)
    device = setting.torch_device
    stage, table = build(setting, case), fetched(encoded, case.chunk)
    for _ in range(setting.pick(1, 3)):  # kernels are chosen, graphs are recorded
        stage(table)
    load()  # what reads it has to start, too
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(device)
    barrier.wait(START_S)
    spent: dict[str, float] = defaultdict(float)
    loads: list[int] = []
    images, good, start, busy = 0, True, time.perf_counter(), busy_cpu_seconds()
    while images == 0 or time.perf_counter() - start < setting.pick(0.0, 3.0):
        found = stage(table)
        images += found.num_rows
        good &= found["status"].to_pylist() == ["ok"] * found.num_rows
        for part, seconds in seconds_of(found).items():
            spent[part] += seconds
        loads += load()
    seconds = time.perf_counter() - start
    spent["rows"] = seconds - sum(spent.values())
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if setting.cuda else (0, 0)
    return {
        "images_per_s": images / seconds,
        "peak_mb": peak[0] >> 20,
        "reserved_mb": peak[1] >> 20,
        "host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "gpu_share": round(sum(loads) / len(loads) / 100, 2) if loads else None,
        "cores": round((busy_cpu_seconds() - busy) / seconds, 1),
        "seconds": round(seconds, 2),
        "all_ok": good,
        **{f"share_{part}": value / seconds for part, value in spent.items()},
    }


def load() -> list[int]:
    """Percent of the last moments that the GPU was at work; empty where that cannot be read."""
    with suppress(Exception):
        return [torch.cuda.utilization()]
    return []


def build(setting: Setting, case: Case) -> Stage:
    """The stage of a case."""
    device = setting.torch_device
    extractor = case.extractor.load(setting)
    captions = captioner(
        device,
        getattr(torch, case.dtype),
        feature_size=extractor.feature_size,
        decoding=DecodingConfig(beam_size=3),
        cuda_graphs=case.graphs and setting.cuda,
    )
    describe = CaptionRegions(attribute_predictor(device, extractor.feature_size), captions, model="random")
    pool = DecoderPool(case.decoders, resolution=extractor.resolution)
    decoder = GpuDecoder(pool, device) if case.jpeg == "gpu" else pool
    return DescribeStage(DecodeImages(decoder, batch_size=case.batch), CaptionImages(extractor, describe))
