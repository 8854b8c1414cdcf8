"""Measure the images/s and memory of the region extractors, and the time of each part.

python benchmarks/regions.py
python benchmarks/regions.py --full --images FOLDER --out regions.json
python benchmarks/regions.py --full --device cuda --images FOLDER --out regions_gpu.json

Each extractor runs in its own process, on JPEGs in memory: photographs of a folder, or synthetic images with
the sizes of COCO's. The weights are random except those of the demo world, because the time depends on sizes
only. On a CPU, time is the CPU time of one thread, so that other work on the machine counts little;
`images_per_s` is per core.

Three methods are timed alternately, and the fastest round counts: images one by one; images together, where
those with equal canvases share a batch; and images together with canvases rounded up on the long side
(`canvas_step`). `padding` is the proportion of canvas pixels outside the images, `batches` the number of
batches. Memory is the peak of the process (on a GPU, of torch on the device). The shares are relative to
decoding followed by extraction. The rows of detectron2 are left out if it is not installed.

The script takes about a minute on two cores, with few small images and few proposals. --full uses the
detectors' own resolutions and proposals, which takes a quarter of an hour on a CPU. The last line is one JSON
object.
"""

import importlib.util
import itertools
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.jpegs import COCO_SIZES, synthetic_jpeg
from benchmarks.measurement import (
    json_from_subprocess,
    machine,
    memory_mb,
    print_result,
    reset_peak_memory,
)
from glied.clip.config import ClipConfig
from glied.config import parse, run, split_arguments
from glied.errors import UsageError
from glied.vision import images
from glied.vision.extractors import bottom_up
from glied.vision.extractors.config import ComputeConfig, DetectionConfig, RegionsConfig
from glied.vision.extractors.image_padding import LARGEST_BATCH, canvas
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.gpu_decoder import GpuDecoder

EXTRACTORS = {
    "demo": RegionsConfig(checkpoint="glied/weights/demo/regions"),
    "resnet50_fpn_v2": RegionsConfig(
        model="fasterrcnn_resnet50_fpn_v2", detector=DetectionConfig(min_regions=10)
    ),
    "bottom_up": RegionsConfig(
        kind="detectron2",
        model="bottom-up-attention",
        max_regions=100,
        detector=DetectionConfig(min_regions=10, overlap=0.3),
    ),
    "clip_rn50": RegionsConfig(
        kind="clip_grid", clip=ClipConfig(model="RN50", allow_random=True), short_side=448
    ),
}
SHORT_SIDES = {"resnet50_fpn_v2": 256, "bottom_up": 160}
"""Short sides in the short form, where the detector's own would take minutes."""
FEW_PROPOSALS = 64
RESOLUTIONS = {"resnet50_fpn_v2": (800, 1333, 32), "bottom_up": (600, 1000, 1)}
"""Short side, long side, and the number that canvas sides must be a multiple of."""
STEPS = {"demo": 64, "resnet50_fpn_v2": 128, "bottom_up": 128}
"""`detector.canvas_step` of the third method."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    full: bool = False
    """Use the detectors' own resolutions and more images; otherwise few small images."""
    images: str = ""
    """Folder of photographs (.jpg); empty for synthetic images."""
    count: int = 0
    """Number of images; 0 for 3, or 16 with full."""
    extractors: tuple[str, ...] = tuple(EXTRACTORS)
    """Extractors to measure."""
    batch: int = 16
    """Number of images that the second and third method pass together."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32",)
    """Data types."""
    device: str = "cpu"
    """Torch device."""
    compile: bool = False
    """Use torch.compile."""
    rounds: int = 1
    """Number of rounds; on a GPU there is one more to warm up."""
    threads: int = 1
    """Number of torch threads on a CPU."""
    out: str | None = None
    """File for the JSON."""
    extractor: str | None = None
    """Used by the script itself: measure one extractor in this process."""

    def __post_init__(self) -> None:
        """Check the names of the extractors and the number of rounds."""
        unknown = sorted({*self.extractors} - {*EXTRACTORS})
        if unknown or self.rounds < 1:
            raise UsageError(
                f"extractors {unknown} (of {', '.join(EXTRACTORS)}), rounds {self.rounds} (>= 1)"
            )


def main() -> int:
    """Measure each extractor in its own process and print the figures."""
    _, options = split_arguments(sys.argv[1:], Config)
    config = parse(Config, options, description=__doc__)
    if config.extractor:
        print(json.dumps(list(measure(config, config.extractor))))
        return 0
    installed = [name for name in config.extractors if name != "bottom_up" or _has_detectron2()]
    rows = [
        row for name in installed for row in json_from_subprocess(__file__, *options, f"--extractor={name}")
    ]
    canvases = list(bucketing(config))
    for row in [*rows, *canvases]:
        print(json.dumps(row))
    best: dict[str, float] = {}
    for row in rows:
        best[row["extractor"]] = max(best.get(row["extractor"], 0.0), row["images_per_s"])
    conditions = machine_and_load(config)
    result = {"images_per_s": best, "machine": conditions, "rows": rows, "bucketing": canvases}
    print_result(result, config.out)
    return 0


def _has_detectron2() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def measure(config: Config, name: str) -> Iterator[dict[str, Any]]:
    """Measure an extractor for each data type and method."""
    torch.set_num_threads(config.threads)
    encoded = photographs(config)
    pictures = [images.read(data).pixels for data in encoded]
    for dtype in config.dtypes:
        torch.manual_seed(0)
        compute = ComputeConfig(dtype=dtype, compile=config.compile)
        chosen = replace(EXTRACTORS[name], device=config.device, compute=compute)
        if not config.full and name in SHORT_SIDES:
            side = SHORT_SIDES[name]
            detector = replace(chosen.detector, long_side=side * 5 // 3)
            chosen = replace(chosen, short_side=side, detector=detector)
        plain = load(chosen, full=config.full)
        methods = {"one by one": (plain, 1), "together": (plain, config.batch)}
        if name in STEPS:
            detector = replace(chosen.detector, canvas_step=STEPS[name])
            with_canvases = load(replace(chosen, detector=detector), full=config.full)
            methods["canvases"] = (with_canvases, config.batch)
        yield from time_methods(config, name, dtype, methods, encoded, pictures)


def _canvas_step(extractor: Any) -> int:
    config: RegionsConfig | None = getattr(extractor, "config", None)
    return config.detector.canvas_step if config else 0


def load(chosen: RegionsConfig, *, full: bool) -> Any:
    """Load an extractor; unless `full`, it has few proposals.

    Activations of a deep network with random weights grow until no box is left in the image. Smaller weights
    at the end of each block limit them, so that there are as many proposals as with trained weights.
    """
    extractor: Any = load_extractor(chosen)
    detector = (
        extractor.network.detector if hasattr(extractor, "network") else getattr(extractor, "model", None)
    )
    if detector is not None and chosen.model:
        for name, module in detector.named_modules():
            if name.endswith(("conv3.norm", "bn3")):
                torch.nn.init.constant_(module.weight, 0.1)
    if not full and chosen.kind == "detectron2":
        extractor.network.proposals = FEW_PROPOSALS
    elif not full and chosen.model:
        extractor.model.rpn._post_nms_top_n["testing"] = FEW_PROPOSALS
    return extractor


def time_methods(
    config: Config,
    name: str,
    dtype: str,
    methods: Mapping[str, tuple[Any, int]],
    encoded: Sequence[bytes],
    pictures: Sequence[NDArray[np.uint8]],
) -> Iterator[dict[str, Any]]:
    """Time the methods alternately, and yield a row for each of them."""
    seconds: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, dict[str, float]] = {}
    memory: dict[str, int] = {}
    for extractor, _ in methods.values():
        extractor(pictures[:1])
    warm_up = int(config.device != "cpu")
    rounds = range(config.rounds + warm_up)
    for number, (method, (extractor, batch)) in itertools.product(rounds, methods.items()):
        with peak_memory(config.device) as peak, stopwatch(extractor, config.device) as spent:
            start = now(config.device)
            for place in range(0, len(pictures), batch):
                extractor(pictures[place : place + batch])
            whole = now(config.device) - start
        if number >= warm_up:
            seconds[method].append(whole)
            parts[method] = dict(spent)
        memory[method] = peak[0]
    decoding = min(decode_seconds(config, encoded) for _ in range(2))
    for method, (extractor, batch) in methods.items():
        whole = min(seconds[method])
        row = {
            "extractor": name,
            "way": method,
            "batch": batch,
            "dtype": dtype,
            "short_side": extractor.resolution[0],
            "images_per_s": round(len(pictures) / whole, 3),
            "images_per_s_with_decoding": round(len(pictures) / (whole + decoding), 3),
            "peak_mb": memory[method],
        }
        row |= shares(parts[method], seconds[method][-1], decoding)
        yield row | batching(extractor, batch, pictures)


def shares(spent: Mapping[str, float], whole: float, decoding: float) -> dict[str, float]:
    """Return the shares of decoding, resizing, non-maximum suppression and the network (the rest)."""
    parts = {"decode": decoding, "resize": spent.get("resize", 0.0), "nms": spent.get("nms", 0.0)}
    parts["network"] = whole - parts["resize"] - parts["nms"]
    return {f"{part}_share": round(value / (whole + decoding), 4) for part, value in parts.items()}


def batching(extractor: Any, batch: int, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """Return the number of batches of the images, and the proportion of padding in their canvases."""
    divisor, step = _divisor(extractor), _canvas_step(extractor)
    if divisor == 0:
        return {"batches": -(-len(pictures) // batch), "padding": 0.0}
    sizes = [_resized(extractor, picture) for picture in pictures]
    canvases = [canvas(*size, divisor=divisor, step=step) for size in sizes]
    groups = sum(len(set(canvases[place : place + batch])) for place in range(0, len(sizes), batch))
    used = sum(height * width for height, width in sizes)
    return {"batches": groups, "padding": round(1 - used / sum(h * w for h, w in canvases), 3)}


def bucketing(config: Config) -> Iterator[dict[str, Any]]:
    """Compute batches and padding for many images, 64 per call and at most 16 per batch, as in the jobs."""
    if config.images:
        sizes = [Image.open(path).size for path in sorted(Path(config.images).glob("*.jpg"))]
    else:
        sizes = [COCO_SIZES[index] for index in np.random.default_rng(0).integers(0, len(COCO_SIZES), 1024)]
    for name, (short, long, divisor) in RESOLUTIONS.items():
        scales = [min(short / min(size), long / max(size)) for size in sizes]
        shapes = [(int(h * scale), int(w * scale)) for (w, h), scale in zip(sizes, scales, strict=True)]
        used = sum(height * width for height, width in shapes)
        for step in (0, 64, 128, 256):
            canvases = [canvas(*shape, divisor=divisor, step=step) for shape in shapes]
            calls = (canvases[place : place + 64] for place in range(0, len(shapes), 64))
            batches = sum(-(-count // LARGEST_BATCH) for call in calls for count in Counter(call).values())
            yield {
                "detector": name,
                "canvas_step": step,
                "images": len(shapes),
                "images_per_batch": round(len(shapes) / batches, 2),
                "padding": round(1 - used / sum(h * w for h, w in canvases), 3),
            }


def _divisor(extractor: Any) -> int:
    """Return the number that canvas sides must be a multiple of; 0 if there are no canvases."""
    if hasattr(extractor, "network"):
        return extractor.network.divisor
    return extractor.model.transform.size_divisible if hasattr(extractor, "model") else 0


def _resized(extractor: Any, picture: NDArray[np.uint8]) -> tuple[int, int]:
    if hasattr(extractor, "network"):
        return tuple(extractor.network.resize(picture).pixels.shape[1:])
    return tuple(extractor._resize(picture).shape[1:])


@contextmanager
def stopwatch(extractor: Any, device: str) -> Iterator[dict[str, float]]:
    """Measure the seconds of resizing and non-maximum suppression by timing their functions."""
    spent: dict[str, float] = defaultdict(float)
    parts: list[tuple[Any, str, str]] = []
    if hasattr(extractor, "network"):
        parts = [(extractor.network, "resize", "resize"), (bottom_up, "class_confidence", "nms")]
        parts += [(bottom_up, "propose", "nms")]
    elif hasattr(extractor, "model"):
        parts = [(extractor, "_resize", "resize"), (extractor, "_choose", "nms")]
        parts += [(extractor.model.rpn, "filter_proposals", "nms")]
    elif hasattr(extractor, "_resize"):
        parts = [(extractor, "_resize", "resize")]
    else:
        parts = [(extractor.pixels, "resize", "resize")]
    patches = [
        mock.patch.object(place, name, timed(getattr(place, name), spent, part, device))
        for place, name, part in parts
    ]
    for patch in patches:
        patch.start()
    try:
        yield spent
    finally:
        for patch in patches:
            patch.stop()


def timed(
    function: Callable[..., Any], spent: dict[str, float], part: str, device: str
) -> Callable[..., Any]:
    """Wrap a function so that its time is added to a part."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = now(device)
        try:
            return function(*arguments, **options)
        finally:
            spent[part] += now(device) - start

    return call


def now(device: str) -> float:
    """Return the CPU seconds of this process; on a GPU the clock's, after its pending work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """Measure the peak memory of the block in MiB; at its end it is the only item of the list."""
    peak = [0]
    if device == "cpu":
        reset_peak_memory()
    else:
        torch.cuda.reset_peak_memory_stats()
    yield peak
    peak[0] = memory_mb("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated() // 2**20


def decode_seconds(config: Config, encoded: Sequence[bytes]) -> float:
    """Return the seconds of decoding all images: one by one on a CPU, together on a GPU."""
    start = now(config.device)
    if config.device == "cpu":
        for data in encoded:
            images.read(data)
    else:
        from glied.vision.decoder_pool import DecoderPool

        with DecoderPool(1) as pool:
            decoder = GpuDecoder(pool, config.device)
            decoder.decode(encoded)
            start = now(config.device)
            decoder.decode(encoded)
            return now(config.device) - start
    return now(config.device) - start


def photographs(config: Config) -> list[bytes]:
    """Return JPEGs, the same ones in every process."""
    count = config.count or (16 if config.full else 3)
    if config.images:
        return [path.read_bytes() for path in sorted(Path(config.images).glob("*.jpg"))[:count]]
    generator = np.random.default_rng(0)
    sizes = [COCO_SIZES[index] for index in generator.integers(0, len(COCO_SIZES), count)]
    return [synthetic_jpeg(width, height, generator) for width, height in sizes]


def machine_and_load(config: Config) -> dict[str, Any]:
    """Return the machine, the threads, and the load average."""
    return {
        "processor": machine(),
        "threads": config.threads,
        "gpu": torch.cuda.get_device_name() if config.device != "cpu" else "none",
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    run(main)
