"""Images per second and memory of the region extractors, and where their time goes.

python benchmarks/regions.py
python benchmarks/regions.py --full --images FOLDER --out regions.json
python benchmarks/regions.py --full --device cuda --images FOLDER --out regions_gpu.json

Each extractor runs in a process of its own, on JPEGs in memory: photographs of a folder, or else smooth
pictures in the sizes that COCO's have. Weights are random except the demo world's own: time depends on sizes,
not on what is found. On a CPU time is the processor's, on one thread, so that other work on the machine
counts little: `images_per_s` is per core.

Three ways are timed in turn and the fastest round counts: images one by one; together, where only equal
canvases share a batch; together with canvases that are wider apart on the long side (`canvas_step`).
`padding` is the share of canvas pixels that are none of the image's, `batches` how many the images became.
Memory is the most that the process took (on a GPU: that torch took there). The shares are of decoding and
extracting one after the other. detectron2's rows are left out where it is not installed. The last line is one
JSON object.

About a minute on two cores: few images, small, with few proposals. --full: the detectors' own resolutions and
proposals; on a CPU a quarter of an hour.
"""

import importlib.util
import io
import itertools
import json
import os
import platform
import subprocess
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

from glied.clip.config import ClipConfig
from glied.config import parse, run, split_arguments
from glied.errors import UsageError
from glied.vision import images
from glied.vision.extractors import bottom_up
from glied.vision.extractors.config import RegionsConfig
from glied.vision.extractors.image_padding import LARGEST_BATCH, canvas
from glied.vision.extractors.region_extractor import load_extractor
from glied.vision.gpu_decoder import GpuDecoder

EXTRACTORS = {
    "demo": RegionsConfig(checkpoint="glied/weights/demo/regions"),
    "resnet50_fpn_v2": RegionsConfig(model="fasterrcnn_resnet50_fpn_v2", min_regions=10),
    "bottom_up": RegionsConfig(
        kind="detectron2", model="bottom-up-attention", min_regions=10, max_regions=100, overlap=0.3
    ),
    "clip_rn50": RegionsConfig(
        kind="clip_grid", clip=ClipConfig(model="RN50", allow_random=True), short_side=448
    ),
}
SHORT_SIDES = {"resnet50_fpn_v2": 256, "bottom_up": 160}
"""Of the short form, where the detector's own would take minutes."""
SIZES = [(640, 480)] * 6 + [(640, 427)] * 4 + [(480, 640)] * 3 + [(640, 425), (427, 640), (500, 375)]
SIZES += [(640, 360), (612, 612), (375, 500), (640, 428), (640, 512), (333, 500)]
"""Widths and heights as frequent as in COCO, about."""
FEW_PROPOSALS = 64
RESOLUTIONS = {"resnet50_fpn_v2": (800, 1333, 32), "bottom_up": (600, 1000, 1)}
"""Short and long side, and to what canvases grow at least."""
STEPS = {"demo": 64, "resnet50_fpn_v2": 128, "bottom_up": 128}
"""`canvas_step` of the third way."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    full: bool = False
    """The detectors' own resolutions and more images; otherwise few and small ones."""
    images: str = ""
    """Folder of photographs (.jpg); without it, pictures are made."""
    count: int = 0
    """How many images; 0: 3, with full 16."""
    extractors: tuple[str, ...] = tuple(EXTRACTORS)
    """Which of them."""
    batch: int = 16
    """Images handed over together, in the second way and the third."""
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32",)
    """Precisions."""
    device: str = "cpu"
    """Torch device."""
    compile: bool = False
    """With torch.compile."""
    rounds: int = 1
    """Times that each way is timed; on a GPU after one that is not, which chooses its kernels."""
    threads: int = 1
    """Threads of torch, on a CPU."""
    out: str | None = None
    """Where to write the JSON."""
    extractor: str | None = None
    """Used by the script itself: one extractor, in this process."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        unknown = sorted({*self.extractors} - {*EXTRACTORS})
        if unknown or self.rounds < 1:
            raise UsageError(
                f"extractors {unknown} (of {', '.join(EXTRACTORS)}), rounds {self.rounds} (>= 1)"
            )


def main() -> int:
    """Measure each extractor in a process of its own."""
    _, options = split_arguments(sys.argv[1:], Config)
    config = parse(Config, options, description=__doc__)
    if config.extractor:
        print(json.dumps(list(measure(config, config.extractor))))
        return 0
    there = [name for name in config.extractors if name != "bottom_up" or _has_detectron2()]
    rows = [row for name in there for row in in_a_process(name, options)]
    for row in rows:
        print(json.dumps(row))
    best: dict[str, float] = {}
    for row in rows:
        best[row["extractor"]] = max(best.get(row["extractor"], 0.0), row["images_per_s"])
    for row in (found := list(bucketing(config))):
        print(json.dumps(row))
    result = {"images_per_s": best, "machine": machine(config), "rows": rows, "bucketing": found}
    if config.out:
        Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return 0


def _has_detectron2() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def in_a_process(name: str, options: Sequence[str]) -> list[dict[str, Any]]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, *options, f"--extractor={name}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(config: Config, name: str) -> Iterator[dict[str, Any]]:
    """Figures of an extractor by dtype and way."""
    torch.set_num_threads(config.threads)
    encoded = photographs(config)
    pictures = [images.read(data).pixels for data in encoded]
    for dtype in config.dtypes:
        torch.manual_seed(0)
        chosen = replace(EXTRACTORS[name], device=config.device, compile=config.compile, dtype=dtype)
        if not config.full and name in SHORT_SIDES:
            side = SHORT_SIDES[name]
            chosen = replace(chosen, short_side=side, long_side=side * 5 // 3)
        plain = loaded(chosen, full=config.full)
        ways = {"one by one": (plain, 1), "together": (plain, config.batch)}
        if name in STEPS:
            ways["canvases"] = (
                loaded(replace(chosen, canvas_step=STEPS[name]), full=config.full),
                config.batch,
            )
        yield from timed_ways(config, name, dtype, ways, encoded, pictures)


def loaded(chosen: RegionsConfig, *, full: bool) -> Any:
    """The extractor, which looks at few proposals in the short form.

    Values in a deep network with random weights grow until no box is left in the image; smaller ones at the
    end of each block keep them in bounds, so that there are as many proposals as in earnest.
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


def timed_ways(
    config: Config,
    name: str,
    dtype: str,
    ways: Mapping[str, tuple[Any, int]],
    encoded: Sequence[bytes],
    pictures: Sequence[NDArray[np.uint8]],
) -> Iterator[dict[str, Any]]:
    """A row per way; the rounds of all ways take turns."""
    seconds: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, dict[str, float]] = {}
    memory: dict[str, int] = {}
    for extractor, _ in ways.values():
        extractor(pictures[:1])
    warm_up = int(config.device != "cpu")
    rounds = range(config.rounds + warm_up)
    for number, (way, (extractor, batch)) in itertools.product(rounds, ways.items()):
        with peak(config.device) as taken, stopwatch(extractor, config.device) as spent:
            start = now(config.device)
            for place in range(0, len(pictures), batch):
                extractor(pictures[place : place + batch])
            whole = now(config.device) - start
        if number >= warm_up:
            seconds[way].append(whole)
            stages[way] = dict(spent)
        memory[way] = taken[0]
    decoding = min(decode_seconds(config, encoded) for _ in range(2))
    for way, (extractor, batch) in ways.items():
        whole = min(seconds[way])
        row = {
            "extractor": name,
            "way": way,
            "batch": batch,
            "dtype": dtype,
            "short_side": extractor.resolution[0],
            "images_per_s": round(len(pictures) / whole, 3),
            "images_per_s_with_decoding": round(len(pictures) / (whole + decoding), 3),
            "peak_mb": memory[way],
        }
        yield row | shares(stages[way], seconds[way][-1], decoding) | batching(extractor, batch, pictures)


def shares(spent: Mapping[str, float], whole: float, decoding: float) -> dict[str, float]:
    """Of decoding, resizing, suppression and the rest, which is the network."""
    parts = {"decode": decoding, "resize": spent.get("resize", 0.0), "nms": spent.get("nms", 0.0)}
    parts["network"] = whole - parts["resize"] - parts["nms"]
    return {f"{part}_share": round(value / (whole + decoding), 4) for part, value in parts.items()}


def batching(extractor: Any, batch: int, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """How many batches the images become, and the share of padding in their canvases."""
    divisor, step = _divisor(extractor), getattr(getattr(extractor, "config", None), "canvas_step", 0)
    if divisor == 0:
        return {"batches": -(-len(pictures) // batch), "padding": 0.0}
    sizes = [_resized(extractor, picture) for picture in pictures]
    canvases = [canvas(*size, divisor=divisor, step=step) for size in sizes]
    groups = sum(len(set(canvases[place : place + batch])) for place in range(0, len(sizes), batch))
    used = sum(height * width for height, width in sizes)
    return {"batches": groups, "padding": round(1 - used / sum(h * w for h, w in canvases), 3)}


def bucketing(config: Config) -> Iterator[dict[str, Any]]:
    """What canvases do to many images, by arithmetic: 64 at a time, batches of at most 16, as in the jobs."""
    if config.images:
        sizes = [Image.open(path).size for path in sorted(Path(config.images).glob("*.jpg"))]
    else:
        sizes = [SIZES[index] for index in np.random.default_rng(0).integers(0, len(SIZES), 1024)]
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
    """To which canvases grow; 0 where there are none."""
    if hasattr(extractor, "network"):
        return extractor.network.divisor
    return extractor.model.transform.size_divisible if hasattr(extractor, "model") else 0


def _resized(extractor: Any, picture: NDArray[np.uint8]) -> tuple[int, int]:
    if hasattr(extractor, "network"):
        return tuple(extractor.network.resize(picture).pixels.shape[1:])
    return tuple(extractor._resize(picture).shape[1:])


@contextmanager
def stopwatch(extractor: Any, device: str) -> Iterator[dict[str, float]]:
    """Seconds that resizing and suppression take, by timing the functions that do them."""
    spent: dict[str, float] = defaultdict(float)
    parts: list[tuple[Any, str, str]] = []
    if hasattr(extractor, "network"):
        parts = [(extractor.network, "resize", "resize"), (bottom_up, "class_confidence", "nms")]
        parts += [(bottom_up, "propose", "nms")]
    elif hasattr(extractor, "model"):
        parts = [(extractor, "_resize", "resize"), (extractor, "_choose", "nms")]
        parts += [(extractor.model.rpn, "filter_proposals", "nms")]
    elif hasattr(extractor, "trunk"):
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
    """The function, whose time is added to a part."""

    def call(*arguments: Any, **options: Any) -> Any:
        start = now(device)
        try:
            return function(*arguments, **options)
        finally:
            spent[part] += now(device) - start

    return call


def now(device: str) -> float:
    """Seconds of this process on a CPU, of the clock when a GPU has done what it was told."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def peak(device: str) -> Iterator[list[int]]:
    """The most megabytes taken meanwhile, as the only item when it is over."""
    taken = [0]
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()
    yield taken
    if device == "cpu":
        lines = Path("/proc/self/status").read_text().splitlines()
        taken[0] = int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    else:
        taken[0] = torch.cuda.max_memory_allocated() // 2**20


def decode_seconds(config: Config, encoded: Sequence[bytes]) -> float:
    """Of all images: on the CPU one after the other, on a GPU together."""
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
    """JPEGs, the same in every process."""
    count = config.count or (16 if config.full else 3)
    if config.images:
        return [path.read_bytes() for path in sorted(Path(config.images).glob("*.jpg"))[:count]]
    random = np.random.default_rng(0)
    order = [SIZES[index] for index in random.integers(0, len(SIZES), count)]
    return [picture(random, *size) for size in order]


def picture(random: np.random.Generator, width: int, height: int) -> bytes:
    """A smooth picture, which compresses about as a photograph does."""
    small = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    noise = random.integers(-12, 13, (height, width, 3))
    large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def machine(config: Config) -> dict[str, Any]:
    """Where the figures come from."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    gpu = torch.cuda.get_device_name() if config.device != "cpu" else "none"
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "threads": config.threads,
        "gpu": gpu,
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    run(main)
