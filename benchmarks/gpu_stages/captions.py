"""Measure the images/s from bytes to captions: the fused stage of the bulk job with its decoder processes.

This is the work of a GPU worker of the cluster without fetching and writing: encoded images in, rows out.
Captions are decoded by the paper-size GLIED with 3 beams and always have 20 words, because random weights
never end a caption; a trained captioner is a little faster. Each case runs in its own processes, one for each
worker that shares the GPU, all working at the same time. Shares are relative to a worker's time: `decode` is
the time that the models wait for pixels, `rows` the time outside the models. `gpu_share` is the proportion of
time in which the GPU was busy, `cores` the number of busy processor cores.
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
"""Maximum time until all workers of a case are ready, in seconds."""
LITE_224 = Extractor(model=LITE, side=224)
COCO = Extractor(model=DETECTOR, side=800, canvas_step=128)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A configuration of the fused stage, and the number of workers that share the GPU.

    Attributes:
        extractor: region extractor.
        dtype: data type of the captioner.
        batch: images per batch of the models.
        chunk: images per chunk; the decoders prefetch within a chunk.
        workers: workers on the GPU.
        decoders: decoder processes of each worker.
        jpeg: where JPEGs are decoded, "cpu" or "gpu".
        graphs: whether decoding uses CUDA graphs.
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
"""In order of importance."""
DRY = (
    Case(extractor=LITE_224, batch=4, chunk=8, workers=2, decoders=1),
    Case(extractor=COCO, batch=2, chunk=4, decoders=1),
)


def rows(setting: Setting) -> Iterator[Row]:
    """Yield a row per case; if a case fails, the others still run."""
    encoded = photographs(setting.pick(4, 64))
    context = multiprocessing.get_context("fork")  # this process does not use CUDA: each worker starts it
    for case in setting.pick(DRY, CASES):
        barrier, answers = context.Barrier(case.workers), context.Queue()
        started = time.perf_counter()
        workers = [
            context.Process(target=work, args=(setting, case, encoded, barrier, answers))
            for _ in range(case.workers)
        ]
        for worker in workers:
            worker.start()
        results = list(worker_results(answers, workers))
        for worker in workers:
            worker.join(5)
            worker.kill()
        settings = vars(case) | {"extractor": vars(case.extractor)}
        yield settings | combine(results) | {"case_s": round(time.perf_counter() - started, 1)}


def worker_results(answers: Any, workers: list[Any]) -> Iterator[Row]:
    """Yield the results of a case's workers; if workers exit without one, yield an error."""
    for _ in workers:
        while True:
            try:
                yield answers.get(timeout=1)
                break
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers):
                    yield {"error": f"workers exited: {[worker.exitcode for worker in workers]}"}
                    return


def combine(results: list[Row]) -> Row:
    """Add up the rates and memory of the workers, and average their shares."""
    errors = [one["error"] for one in results if "error" in one]
    if errors:  # when a worker fails, the others fail with a broken barrier
        return {"error": min(errors, key=lambda text: "BrokenBarrier" in text), "ok": False}
    added = {
        name: round(sum(one[name] for one in results), 1)
        for name in ("images_per_s", "peak_mb", "reserved_mb", "host_mb")
    }
    shares = {
        name: round(sum(one[name] for one in results) / len(results), 3)
        for name in results[0]
        if name.startswith("share_")
    }
    first = {name: results[0][name] for name in ("gpu_share", "cores", "seconds", "all_ok")}
    return added | shares | first


def work(setting: Setting, case: Case, encoded: tuple[bytes, ...], barrier: Any, answers: Any) -> None:
    """Run a worker and put its figures, or its error, into the queue `answers`."""
    try:
        answers.put(measure(setting, case, encoded, barrier))
    except Exception as error:
        barrier.abort()
        answers.put({"error": f"{type(error).__name__}: {error}"[:500]})


def measure(setting: Setting, case: Case, encoded: tuple[bytes, ...], barrier: Any) -> Row:
    """Build the stage, warm up, wait for the other workers, then work for some seconds."""
    torch.set_num_threads(1)
    device = setting.torch_device
    stage, table = build(setting, case), fetched(encoded, case.chunk)
    for _ in range(setting.pick(1, 3)):  # chooses kernels and captures graphs
        stage(table)
    gpu_load()  # starts the library that reads it
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(device)
    barrier.wait(START_S)
    spent: dict[str, float] = defaultdict(float)
    loads: list[int] = []
    images, good, start, busy = 0, True, time.perf_counter(), busy_cpu_seconds()
    while images == 0 or time.perf_counter() - start < setting.pick(0.0, 3.0):
        captioned = stage(table)
        images += captioned.num_rows
        good &= captioned["status"].to_pylist() == ["ok"] * captioned.num_rows
        for part, seconds in seconds_of(captioned).items():
            spent[part] += seconds
        loads += gpu_load()
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


def gpu_load() -> list[int]:
    """Return the GPU utilization in percent; an empty list if it cannot be read."""
    with suppress(Exception):
        return [torch.cuda.utilization()]
    return []


def build(setting: Setting, case: Case) -> Stage:
    """Build the fused stage of a case."""
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
