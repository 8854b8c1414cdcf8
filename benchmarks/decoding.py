"""Measure the captions/s of the decoding engine, and compare them with the time of its matrix products alone.

taskset -c 0 python benchmarks/decoding.py
python benchmarks/decoding.py --full --out decoding.json --table decoding.md
python benchmarks/decoding.py --device cuda --out decoding_gpu.json

The models have the paper's sizes (D 512, 8 heads, 36 regions x 2048, 49 attributes, 9,487 words) and random
weights. The end token is suppressed, so that every caption has 20 words. Each case runs in its own process
and reports captions/s from region features and attribute ids to token ids, and the peak memory of decoding
above that of the loaded model and its inputs. Each figure is the fastest of several rounds, because other
work on the machine only adds time.

The bounds are the matrix products of encoding and decoding with the same shapes in the same order and nothing
between them, timed alternately with the decoding. `share` is the time of the products with plain torch layers
divided by that of the engine; `packed_share` uses the packed linear layers of the engine, which is the
stricter bound. Above 1 the engine is faster than plain products.

The script takes about a minute on two cores. --full measures 144 cases in half an hour; with --out it resumes
on the same machine, and measures everything again if the file is deleted. --device cuda measures GLIED with 3
beams and 256 to 4,096 images; graphs_per_s is the speed with CUDA graphs. The last line is one JSON object.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.decoding_products import ATTRIBUTES, FEATURES, REGIONS, STEPS, WORDS, products
from benchmarks.measurement import (
    json_from_subprocess,
    memory_mb,
    print_result,
    reset_peak_memory,
    torch_machine,
)
from glied.captioner.architectures import PAPER_SIZES, build_model
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.cuda_graphs import GraphDecoder
from glied.captioner.decode import decode
from glied.captioner.model import EncoderOutput
from glied.captioner.search_state import Hypothesis
from glied.config import parse, run
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.text.vocabulary import Vocabulary

Case = tuple[str, int, int, str, int]
"""Architecture, batch, beams, dtype, threads."""

SHORT_CASES = {
    "beam5_b50_fp32": ("glied", 50, 5, "float32", 1),
    "beam5_b1_fp32": ("glied", 1, 5, "float32", 1),
    "greedy_b50_fp32": ("glied", 50, 1, "float32", 1),
    "beam5_b50_bf16": ("glied", 50, 5, "bfloat16", 1),
}
"""The cases of the short form by the names of their figures."""
GPU_CASES: list[Case] = [
    ("glied", batch, 3, dtype, 1) for dtype in ("bfloat16", "float32") for batch in (256, 1024, 4096)
]
"""The cases of the short form on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    full: bool = False
    """Measure every combination of the options below; otherwise four cases."""
    architectures: tuple[str, ...] = tuple(PAPER_SIZES)
    """With full: models, at the paper's sizes."""
    batches: tuple[int, ...] = (1, 50)
    """With full: batch sizes."""
    beams: tuple[int, ...] = (1, 3, 5)
    """With full: beam widths."""
    threads: tuple[int, ...] = (1, 2)
    """With full: numbers of torch threads."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """With full: data types."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device that decodes."""
    rounds: int = 8
    """Number of rounds; the fastest counts."""
    out: str | None = None
    """File for the JSON."""
    table: str | None = None
    """File for the Markdown table."""
    case: str | None = None
    """Used by the script itself: measure one case, given as JSON, in this process."""

    def __post_init__(self) -> None:
        """Check that there is a GPU if one is requested."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("device: cuda, but no GPU is available; --device cpu measures the processor")


def main() -> int:
    """Measure each case in its own process and print the figures."""
    config = parse(Config, description=__doc__)
    if config.case:
        print(json.dumps(measure(json.loads(config.case), config.rounds, torch.device(config.device))))
        return 0
    grid = itertools.product(
        config.architectures, config.batches, config.beams, config.dtypes, config.threads
    )
    short = list(SHORT_CASES.values()) if config.device == "cpu" else GPU_CASES
    cases: list[Case] = list(grid) if config.full else short
    earlier = measured(config)
    rows = []
    for case in cases:
        rows.append(earlier.get(case) or measure_in_subprocess(case, config))
        result = figures(rows) | {"machine": torch_machine(config.device), "measurements": rows}
        if config.out and len(rows) >= len(earlier):  # keep all earlier rows
            Path(config.out).write_text(json.dumps(result, indent=1) + "\n")
    table = f"{result['machine']}\n\n{markdown(rows)}"
    print(table)
    if config.table:
        Path(config.table).write_text(table)
    print_result(result, config.out)
    return 0


def measured(config: Config) -> dict[Case, dict[str, Any]]:
    """Return the rows of an earlier full run on this machine."""
    if not (config.full and config.out and Path(config.out).exists()):
        return {}
    earlier = json.loads(Path(config.out).read_text())
    same_machine = earlier["machine"] == torch_machine(config.device)
    return {case_of(row): row for row in earlier["measurements"]} if same_machine else {}


def case_of(row: dict[str, Any]) -> Case:
    """Return the case that a row belongs to."""
    return row["architecture"], row["batch"], row["beams"], row["dtype"], row["threads"]


def measure_in_subprocess(case: Case, config: Config) -> dict[str, Any]:
    """Call `measure` in a new process."""
    options = ["--rounds", str(config.rounds), "--device", config.device]
    return json_from_subprocess(__file__, *options, "--case", json.dumps(case))


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Time a case and its bounds alternately; return captions/s, shares of the bounds and memory."""
    architecture, batch, beams, dtype_name, threads = case
    dtype = getattr(torch, dtype_name)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    vocabulary = paper_vocabulary()
    model = build_model(PAPER_SIZES[architecture], feature_size=FEATURES, vocabulary_size=len(vocabulary))
    captioner = Captioner(model.to(device, dtype), vocabulary)
    search = DecodingConfig(beam_size=beams, min_length=STEPS, max_length=STEPS)
    regions, attributes, mask = inputs(batch)
    on_device = regions.to(device), attributes.to(device), mask.to(device)
    caption = captioning(captioner, on_device, search)
    assert captioner.frozen.frozen  # packs the weights
    peak = peak_memory_of(caption, device)  # warms up
    calls = {"decoding": caption}
    with torch.device(device):
        for name in ("plain", "packed"):
            calls[name] = products(architecture, batch, beams, dtype, packed=name == "packed")
    if device.type == "cuda":
        calls["graphs"] = captioning(
            captioner, on_device, search, GraphDecoder(captioner.frozen, search).decode
        )
        calls["graphs"]()  # the first call decodes without a graph, the next captures it
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


def peak_memory_of(call: Callable[[], None], device: torch.device) -> dict[str, int]:
    """Return the memory in use before a call, and the peak that the call adds to it, in MB."""
    if device.type == "cuda":
        loaded = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return {"loaded_mb": loaded >> 20, "peak_mb": (torch.cuda.max_memory_allocated() - loaded) >> 20}
    before = memory_mb("VmRSS")
    reset_peak_memory()
    call()
    return {"loaded_mb": before, "peak_mb": memory_mb("VmHWM") - before}


def paper_vocabulary() -> Vocabulary:
    """Return a vocabulary of 9,488 entries, the special tokens included: the paper's number."""
    return Vocabulary([f"word{i}" for i in range(WORDS - 3)])


def inputs(batch: int) -> tuple[RegionBatch, Tensor, Tensor]:
    """Return random regions, random attributes among 1,000 words, and the attributes' mask."""
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
    model_inputs: tuple[RegionBatch, Tensor, Tensor],
    search: DecodingConfig,
    decoder: Callable[[EncoderOutput], list[list[Hypothesis]]] | None = None,
) -> Callable[[], None]:
    """Return a function that encodes and decodes a batch, with `decode` or another decoder."""
    decoder = decoder or (lambda memory: decode(captioner.frozen, memory, search))

    @torch.inference_mode()
    def caption() -> None:
        results = decoder(captioner.frozen.encode(*model_inputs))
        assert all(len(hypotheses[0].tokens) == STEPS for hypotheses in results)

    return caption


def timed(call: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of a call, including its asynchronous work on a GPU."""
    start = clock()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the short form by name, as far as their cases were measured."""
    named: dict[str, Any] = {"peak_mb": max(row["peak_mb"] for row in rows)}
    for name, case in SHORT_CASES.items():
        for row in rows:
            if case_of(row) == case:
                named |= {name: row["captions_per_s"], f"{name}_share": row["share"]}
                named[f"{name}_packed_share"] = row["packed_share"]
    return named


def markdown(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a Markdown table."""
    keys = list(rows[0])
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    lines += [" | ".join(str(row[key]) for key in keys) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


if __name__ == "__main__":
    run(main)
