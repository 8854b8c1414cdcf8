"""What a GPU shows, without Ray: correctness against the CPU, then the speed of every part.

python benchmarks/gpu.py --out benchmarks/results/gpu.json --table benchmarks/results/gpu.md
python benchmarks/gpu.py --device cpu --dry true

Under 6 minutes on an H100. The stages, the most wanted first, each in a process and with a time limit of its
own (benchmarks/gpu_stages says more about each):

    machine      card, versions; measured matrix rate and bandwidth, which the others compare with
    correctness  logits, gradients, captions, regions, CLIP-S, CIDEr-D of GPU and CPU; bf16; padding
    captions     bytes to captions through the fused stage, the share of each part, peak memory
    decoding     captions/s at beams 1, 3, 5, batches 64 to 4,096; the products' bound and the roofline
    training     XE and SCST images/s, the share of each part; the training loop, interrupted and resumed
    regions      images/s of R50-FPN v2 at 800 pixels and of timm cells at 224 to 448
    jpeg         nvJPEG against decoding on the CPU
    graphs       CUDA graphs: the same captions as plain decoding, and captions/s
    memory       a batch that runs out of memory is halved and completes
    nccl         one rank under NCCL and DDP
    finetune     a backbone trained end to end on photographs, where --carried names some

A stage writes <results>/<stage>.json and is skipped when that file is complete and of the same machine and
form; delete the file to measure anew. A stage that fails or runs out of time keeps the rows that it has, and
the next one starts. --out and --table are written after every stage, so that they hold what there is. Rows
with "ok" are checks; the exit code is 1 where a check or a stage failed.

Without a GPU, or with --dry true, everything is tiny: it proves that every stage runs, and its figures mean
nothing. --full measures all cells of the grids, with three times the time. The last line is one JSON object.
"""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.gpu_stages

from benchmarks.gpu_stages.report import figures, markdown
from benchmarks.gpu_stages.running import perform
from benchmarks.gpu_stages.setting import Row, Setting
from glied.config import parse, run
from glied.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {
    "machine": 60,
    "correctness": 60,
    "captions": 110,
    "decoding": 70,
    "training": 70,
    "regions": 60,
    "jpeg": 30,
    "graphs": 60,
    "memory": 30,
    "nccl": 30,
    "finetune": 90,
}
"""Stages in their order, and the seconds that each may take."""
STAGES = {name: f"benchmarks.gpu_stages.{name}:rows" for name in LIMITS}
"""The function of each stage."""
PRELOAD = ["benchmarks.gpu_stages.preload"]
"""What the stages' processes have imported when they start."""
TOTAL_S = 350.0
"""Seconds of the whole run: the last stages get what is left."""
LONGER = 3
"""Times as long with --full, and a stage of a dry run on a busy machine."""
LEAST_S = 5.0
"""A stage is not started with less time than this."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure, and where the results are."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU where there is one."""
    dry: bool | None = None
    """Everything tiny; null: where there is no GPU."""
    full: bool = False
    """All cells of the grids, with three times the time."""
    stages: tuple[str, ...] = tuple(LIMITS)
    """Which stages, in this order; machine always comes first."""
    results: str = "runs/gpu"
    """Folder of the stages' own result files."""
    carried: str = ""
    """Folder with train/ and val/, each a captions.json beside images/, for finetune; empty for none."""
    seconds: float = TOTAL_S
    """Most seconds of the whole run."""
    out: str | None = None
    """Where to write all of it as JSON."""
    table: str | None = None
    """Where to write it as tables (Markdown)."""

    def __post_init__(self) -> None:
        """Refuse stages that there are not."""
        unknown = sorted({*self.stages} - {*LIMITS})
        if unknown:
            raise UsageError(f"stages: {unknown[0]!r} is none of {', '.join(LIMITS)}")
        if self.seconds <= 0:
            raise UsageError(f"seconds: {self.seconds} must be above 0")


def main() -> int:
    """Run the stages; 1 where a check or a stage failed."""
    config = parse(Config, description=__doc__)
    stop = time.monotonic() + config.seconds * (LONGER if config.full else 1)
    context = start_server()
    setting = setting_of(config)
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Row] = {}
    for name, result in stages(config, setting, context, folder, stop):
        results[name] = result
        write(config, results)
    failed = [row for one in results.values() for row in one["rows"] if row.get("ok") is False]
    incomplete = [name for name, one in results.items() if not one["complete"]]
    print(markdown(results))
    print(json.dumps(figures(results) | {"failed_checks": len(failed), "incomplete": incomplete}))
    return int(bool(failed or incomplete))


def start_server() -> Any:
    """A server that imports everything once; the stages' processes are forked from it."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    return context


def setting_of(config: Config) -> Setting:
    """What the stages are told; raises `UsageError` where a GPU is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UsageError("device: cuda, but there is no GPU here; --device cpu does a dry run")
    device = "cuda" if there and config.device != "cpu" else "cpu"
    dry = device == "cpu" if config.dry is None else config.dry
    return Setting(device=device, dry=dry, full=config.full, carried=config.carried, results=config.results)


def stages(
    config: Config, setting: Setting, context: Any, folder: Path, stop: float
) -> Iterator[tuple[str, Row]]:
    """Each stage with its result, as they are done; the machine is looked at every time."""
    machine: Row = {}
    for name in dict.fromkeys(("machine", *config.stages)):
        path = folder / f"{name}.json"
        known = finished(path, machine, setting) if name != "machine" else None
        if known is not None:
            print(f"{name}: done before, {path}", flush=True)
            yield name, known
            continue
        limit = min(LIMITS[name] * (LONGER if setting.full or setting.dry else 1), stop - time.monotonic())
        result = stage(name, setting, context, path, limit) | form(machine, setting)
        if name == "machine" and result["complete"]:
            machine, ceilings = result["rows"]
            setting = dataclasses.replace(setting, ceilings=ceilings)
            result |= form(machine, setting)
        path.write_text(json.dumps(result, indent=1) + "\n")
        yield name, result


def form(machine: Row, setting: Setting) -> Row:
    """What a result must have in common with a run to be taken over."""
    named = {key: machine.get(key) for key in ("gpu", "machine", "cores")}
    return {"where": named, "device": setting.device, "dry": setting.dry, "full": setting.full}


def finished(path: Path, machine: Row, setting: Setting) -> Row | None:
    """A complete result of this machine and form."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    wanted = form(machine, setting)
    same = all(found.get(key) == value for key, value in wanted.items())
    return found if same and found["complete"] else None


def stage(name: str, setting: Setting, context: Any, path: Path, limit: float) -> Row:
    """Run a stage in a process of its own, for `limit` seconds at most."""
    if limit < LEAST_S:
        return {"complete": False, "error": "no time was left", "seconds": 0.0, "rows": []}
    lines, start = path.with_suffix(".jsonl"), time.monotonic()
    lines.unlink(missing_ok=True)
    process = context.Process(target=perform, args=(name, STAGES[name], setting, str(lines)))
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late:
        end(process)
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    errors = [row.pop("stage_error") for row in found if "stage_error" in row]
    if late:
        errors = [f"stopped after {limit:.0f} s"]
    elif not errors and process.exitcode:
        errors = [f"the process ended with {process.exitcode}"]
    lines.unlink(missing_ok=True)
    result: Row = {"complete": not errors, "seconds": round(time.monotonic() - start, 1)}
    result |= {"error": errors[0]} if errors else {}
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result | {"rows": [row for row in found if row]}


def end(process: Any) -> None:
    """End a stage's process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a group, see `perform`
    except ProcessLookupError:
        process.kill()
    process.join(10)


def write(config: Config, results: dict[str, Row]) -> None:
    """Write what there is to --out and --table."""
    if config.out:
        text = json.dumps(figures(results) | {"stages": results}, indent=1)
        Path(config.out).write_text(text + "\n")
    if config.table:
        Path(config.table).write_text(markdown(results))


if __name__ == "__main__":
    run(main)
