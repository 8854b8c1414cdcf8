"""Captions per second of the decoding engine, against the time of its matrix products alone.

taskset -c 0 python benchmarks/decoding.py
python benchmarks/decoding.py --full --out decoding.json --table decoding.md
python benchmarks/decoding.py --device cuda --out decoding_gpu.json

The paper's sizes: D 512, 8 heads, 36 regions x 2048, 49 attributes, 9,487 words, random weights, 20 steps;
the end token is suppressed, so that every caption has 20 words. Each cell runs in a process of its own:
captions/s from region features and attribute ids to words, and the most memory that decoding took above the
loaded model and its inputs. Each figure is the fastest of some rounds: a shared machine only ever adds time.

The bounds are the same products of the same shapes in the same order, those of encoding included, without
anything between them, timed in turn with the decoding: `share` counts them as plain torch products,
`packed_share` with the linear layers packed as the engine has them, which is the harder one. A share is the
bound's time / the time taken; above 1 the engine is faster than plain products. The last line is one JSON
object. About a minute on two cores; --full, 144 cells, half an hour: with --out it goes on where it was
stopped on the same machine; delete the file to measure anew.

With --device cuda: GLIED with 3 beams and 256 to 4,096 images; graphs_per_s: replayed as CUDA graphs.
"""

import functools
import itertools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.cuda_graphs import GraphDecoder
from glied.captioner.decode import decode
from glied.captioner.inference import PackedLinear, can_pack
from glied.captioner.model import EncoderOutput
from glied.captioner.search_state import Hypothesis
from glied.config import parse, run
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.text.vocabulary import Vocabulary

HEADS, REGIONS, FEATURES, ATTRIBUTES, WORDS, STEPS = 8, 36, 2048, 49, 9487, 20
Cell = tuple[str, int, int, str, int]
"""Architecture, batch, beams, dtype, threads."""

CONTRACT = {
    "beam5_b50_fp32": ("glied", 50, 5, "float32", 1),
    "beam5_b1_fp32": ("glied", 1, 5, "float32", 1),
    "greedy_b50_fp32": ("glied", 50, 1, "float32", 1),
    "beam5_b50_bf16": ("glied", 50, 5, "bfloat16", 1),
}
"""The cells of the short form, by the names of their figures."""
GPU: list[Cell] = [
    ("glied", batch, 3, dtype, 1) for dtype in ("bfloat16", "float32") for batch in (256, 1024, 4096)
]
"""The cells on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    full: bool = False
    """Every architecture, batch, beam width and number of threads below; otherwise four cells."""
    architectures: tuple[str, ...] = tuple(PAPER_SIZES)
    """With full: the models, at the paper's sizes."""
    batches: tuple[int, ...] = (1, 50)
    """With full: images decoded together."""
    beams: tuple[int, ...] = (1, 3, 5)
    """With full: beams."""
    threads: tuple[int, ...] = (1, 2)
    """With full: threads of torch."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """With full: precisions."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to decode."""
    rounds: int = 8
    """Times that each cell is measured; the fastest counts."""
    out: str | None = None
    """Where to write the JSON."""
    table: str | None = None
    """Where to write the table (Markdown)."""
    cell: str | None = None
    """Used by the script itself: one cell as JSON, in this process."""

    def __post_init__(self) -> None:
        """Refuse a GPU where there is none."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("device: cuda, but there is no GPU here; --device cpu measures the processor")


def main() -> int:
    """Measure each cell in a process of its own."""
    config = parse(Config, description=__doc__)
    if config.cell:
        print(json.dumps(measure(json.loads(config.cell), config.rounds, torch.device(config.device))))
        return 0
    every = itertools.product(
        config.architectures, config.batches, config.beams, config.dtypes, config.threads
    )
    short = list(CONTRACT.values()) if config.device == "cpu" else GPU
    cells: list[Cell] = list(every) if config.full else short
    before = measured(config)
    rows = []
    for cell in cells:
        rows.append(before.get(cell) or in_a_process(cell, config))
        result = figures(rows) | {"machine": machine(config.device), "cells": rows}
        if config.out and len(rows) >= len(before):  # never fewer than there were
            Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    table = f"{result['machine']}\n\n{markdown(rows)}"
    print(table)
    if config.table:
        Path(config.table).write_text(table)
    print(json.dumps(result))
    return 0


def measured(config: Config) -> dict[Cell, dict[str, Any]]:
    """The cells of an earlier full run on this machine."""
    if not (config.full and config.out and Path(config.out).exists()):
        return {}
    found = json.loads(Path(config.out).read_text())
    here = found["machine"] == machine(config.device)
    return {cell_of(row): row for row in found["cells"]} if here else {}


def cell_of(row: dict[str, Any]) -> Cell:
    """Which cell a row is of."""
    return row["architecture"], row["batch"], row["beams"], row["dtype"], row["threads"]


def in_a_process(cell: Cell, config: Config) -> dict[str, Any]:
    """`measure` in a new process."""
    options = ["--rounds", str(config.rounds), "--device", config.device]
    command = [sys.executable, __file__, *options, "--cell", json.dumps(cell)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(cell: Cell, rounds: int, device: torch.device) -> dict[str, Any]:
    """Captions/s of a cell and its shares of the bounds; all are timed in turn."""
    architecture, batch, beams, dtype_name, threads = cell
    dtype = getattr(torch, dtype_name)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vocabulary = paper_vocabulary()
    model = build_model(PAPER_SIZES[architecture], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    captioner = Captioner(model.to(device, dtype), vocabulary)
    search = DecodingConfig(beam_size=beams, min_length=STEPS, max_length=STEPS)
    regions, attributes, mask = inputs(batch)
    given = regions.to(device), attributes.to(device), mask.to(device)
    caption = captioning(captioner, given, search)
    assert captioner.frozen.frozen  # its weights are packed now
    peak = peak_of(caption, device)  # warms up
    calls = {"decoding": caption}
    with torch.device(device):
        for name in ("plain", "packed"):
            calls[name] = products(architecture, batch, beams, dtype, packed=name == "packed")
    if device.type == "cuda":
        calls["graphs"] = captioning(captioner, given, search, GraphDecoder(captioner.frozen, search).decode)
        calls["graphs"]()  # before what is recorded
    for call in calls.values():
        call()  # warms up
    seconds = [{name: timed(call) for name, call in calls.items()} for _ in range(rounds)]
    least = {name: min(one[name] for one in seconds) for name in calls}
    return {
        "architecture": architecture,
        "batch": batch,
        "beams": beams,
        "dtype": dtype_name,
        "threads": threads,
        "captions_per_s": round(batch / least["decoding"], 2),
        "share": round(least["plain"] / least["decoding"], 3),
        "packed_share": round(least["packed"] / least["decoding"], 3),
        **peak,
        **({"graphs_per_s": round(batch / least["graphs"], 2)} if "graphs" in calls else {}),
    }


def peak_of(call: Callable[[], None], device: torch.device) -> dict[str, int]:
    """What lies in memory before a call, and the most that it takes above that, in MB."""
    if device.type == "cuda":
        loaded = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return {"loaded_mb": loaded >> 20, "peak_mb": (torch.cuda.max_memory_allocated() - loaded) >> 20}
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    call()
    return {"loaded_mb": before, "peak_mb": megabytes("VmHWM") - before}


def paper_vocabulary() -> Vocabulary:
    """`WORDS` words with begin, end and unknown, and the padding."""
    return Vocabulary([f"word{i}" for i in range(WORDS - 3)])


def inputs(batch: int) -> tuple[RegionBatch, Tensor, Tensor]:
    """Regions and attributes (of the 1,000 commonest words) as they come from their models."""
    corner = torch.rand(batch, REGIONS, 2) * 300
    regions = RegionBatch(
        features=torch.randn(batch, REGIONS, FEATURES).relu(),
        boxes=torch.cat((corner, corner + 100), dim=-1),
        mask=torch.ones(batch, REGIONS, dtype=torch.bool),
        sizes=torch.full((batch, 2), 400.0),
    )
    attributes = torch.randint(4, 1004, (batch, ATTRIBUTES))
    return regions, attributes, torch.ones_like(attributes, dtype=torch.bool)


def captioning(
    captioner: Captioner,
    given: tuple[RegionBatch, Tensor, Tensor],
    search: DecodingConfig,
    decoder: Callable[[EncoderOutput], list[list[Hypothesis]]] | None = None,
) -> Callable[[], None]:
    """Encode and decode, plainly unless there is a `decoder`."""
    decoder = decoder or (lambda memory: decode(captioner.frozen, memory, search))

    @torch.inference_mode()
    def caption() -> None:
        found = decoder(captioner.frozen.encode(*given))
        assert all(len(one[0].tokens) == STEPS for one in found)

    return caption


@dataclass(frozen=True, kw_only=True)
class Products:
    """The matrix products of a model: layers (inputs, outputs) and attentions."""

    encoding: list[tuple[int, int]]
    """Layers over the regions, after their projection."""
    image: list[tuple[int, int]]
    """Layers once per image."""
    step: list[tuple[int, int]]
    """Layers at each word, without the classifier."""
    memories: list[int]
    """At each word, attentions with heads to so many things."""
    contexts: int = 0
    """At each word, attentions to the words so far."""
    among: int = 0
    """Attentions of the regions to each other."""
    additive: int = 0
    """Inner width of an attention that scores each region for each word, or 0."""


def products_of(architecture: str) -> Products:
    """What `architecture` multiplies at the paper's sizes."""
    config = PAPER_SIZES[architecture]
    width, inner, embedded = config.width, config.attention_width, config.embedded
    square, gates = (width, width), 4 * width
    if architecture == "base":
        return Products(
            encoding=[square] * 2, image=[], step=[square] * 8, memories=[REGIONS, ATTRIBUTES], contexts=1
        )
    if architecture == "glied":
        memories = [REGIONS, ATTRIBUTES] * 2
        return Products(
            encoding=[square] * 8, image=[], step=[square] * 12, memories=memories, contexts=1, among=1
        )
    if architecture == "ct":
        forward, layers = [(width, config.feed_forward), (config.feed_forward, width)], config.layers
        return Products(
            encoding=([square] * 6 + forward) * layers,
            image=[],
            step=([square] * 6 + forward) * layers,
            memories=[REGIONS] * layers,
            contexts=layers,
            among=layers,
        )
    if architecture == "lstm":
        return Products(encoding=[], image=[(width, gates)], step=[(embedded + width, gates)], memories=[])
    cells = [(embedded + 2 * width, gates)]
    image = []
    if architecture == "up_down":
        cells, image = [*cells, (3 * width, gates)], [(width, gates)]
    return Products(
        encoding=[(width, inner)], image=image, step=[(width, inner), *cells], memories=[], additive=inner
    )


def products(
    architecture: str, batch: int, beams: int, dtype: torch.dtype, *, packed: bool
) -> Callable[[], None]:
    """All matrix products of encoding and of 20 steps, the first with one beam, on random numbers.

    They are on torch's default device.
    """
    wanted, width = products_of(architecture), PAPER_SIZES[architecture].width
    device = torch.get_default_device()

    @functools.cache
    def given(size: int) -> Tensor:
        return torch.randn(batch * max(REGIONS, beams), size, dtype=dtype, device=device)

    def layer(size: int, out: int) -> Callable[[int], Tensor]:
        made = torch.nn.Linear(size, out, bias=False, dtype=dtype)
        run_layer = PackedLinear(made) if packed and can_pack(made.weight) else made
        return lambda rows: run_layer(given(size)[:rows])

    # As many weights as the model has: a few would stay in the cache.
    encoding = [layer(*sizes) for sizes in ((FEATURES, width), *wanted.encoding)]
    image = [layer(*sizes) for sizes in wanted.image]
    at_step = [layer(*sizes) for sizes in (*wanted.step, (width, WORDS + 1))]
    heads = batch * HEADS
    memories = [attention(heads, size, width // HEADS, dtype) for size in wanted.memories]
    contexts = [
        [attention(heads, 1 + beams * step, width // HEADS, dtype) for _ in range(wanted.contexts)]
        for step in range(STEPS)
    ]
    among = [attention(heads, REGIONS, width // HEADS, dtype) for _ in range(wanted.among)]
    additive = [scoring(batch, beams, width, wanted.additive, dtype)] if wanted.additive else []

    @torch.inference_mode()
    def everything() -> None:
        for one in encoding:
            one(batch * REGIONS)
        for one in image:
            one(batch)
        for attend in among:
            attend(REGIONS)
        for step in range(STEPS):
            count = beams if step else 1
            for one in at_step:
                one(batch * count)
            for attend in (*memories, *contexts[step], *additive):
                attend(count)

    return everything


def scoring(images: int, beams: int, width: int, inner: int, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """The products of an additive attention, without its tanh and softmax."""
    hidden = torch.randn(images, beams, REGIONS, inner, dtype=dtype)
    score, values = torch.randn(inner, 1, dtype=dtype), torch.randn(images, REGIONS, width, dtype=dtype)
    return lambda count: (hidden[:, :count] @ score).squeeze(-1) @ values


def attention(pairs: int, keys: int, size: int, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """The two products of an attention of some queries, without its softmax; pairs of image and head."""
    q = torch.randn(pairs, REGIONS, size, dtype=dtype)
    k, v = torch.randn(2, pairs, keys, size, dtype=dtype)
    return lambda queries: torch.bmm(torch.bmm(q[:, :queries], k.transpose(1, 2)), v)


def timed(call: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a call, with what it queued on a GPU."""
    start = clock()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start


def megabytes(field: str) -> int:
    """A size of this process in /proc (Linux): VmRSS, its memory, or VmHWM, the peak of it."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) // 1024


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures by the names of the contract, as far as their cells were measured."""
    named: dict[str, Any] = {"peak_mb": max(row["peak_mb"] for row in rows)}
    for name, cell in CONTRACT.items():
        for row in rows:
            if cell_of(row) == cell:
                named |= {name: row["captions_per_s"], f"{name}_share": row["share"]}
                named[f"{name}_packed_share"] = row["packed_share"]
    return named


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table."""
    keys = list(rows[0])
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(str(row[key]) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def machine(device: str = "cpu") -> str:
    """Processor or GPU, cores and torch."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = platform.processor() or platform.machine()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else cpu}, {max(len(names), 1)} cores, torch {torch.__version__}"


if __name__ == "__main__":
    run(main)
