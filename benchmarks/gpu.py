"""Test and measure everything on a GPU without Ray: correctness against the CPU, then the speed of each part.

python benchmarks/gpu.py --out benchmarks/results/gpu.json --table benchmarks/results/gpu.md
python benchmarks/gpu.py --device cpu --dry true

The script takes less than 6 minutes on an H100. The stages run in order of importance, each in its own
process and with its own time limit (the modules of benchmarks/gpu_stages describe them):

    machine      GPU, versions; measured matrix rate and bandwidth, which the other stages compare with
    correctness  logits, gradients, captions, regions, CLIP-S, CIDEr-D of GPU and CPU; bf16; padding
    captions     bytes to captions through the fused stage, the share of each part, peak memory
    decoding     captions/s at beams 1, 3, 5, batches 64 to 4,096; the products' bound and the roofline
    training     XE and SCST images/s, the share of each part; the training loop, interrupted and resumed
    regions      images/s of R50-FPN v2 at 800 pixels and of timm cells at 224 to 448
    jpeg         nvJPEG compared with decoding on the CPU
    graphs       CUDA graphs: captions equal to those of plain decoding, and captions/s
    memory       a batch that runs out of memory is halved and completes
    nccl         one rank with NCCL and DDP
    finetune     a backbone finetuned on photographs, if --carried names their folder

A stage writes <results>/<stage>.json and is skipped if that file is complete and comes from the same machine
and form (device, dry, full); delete the file to measure again. If a stage fails or exceeds its limit, its
rows are kept and the next stage starts. --out and --table are written after every stage. Rows with "ok" are
checks; the exit code is 1 if a check or a stage failed.

Without a GPU, or with --dry true, all sizes are tiny: this checks that every stage runs, and the figures mean
nothing. --full measures all cases and has three times the time. The last line is one JSON object.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.gpu_stages.report import figures, markdown
from benchmarks.gpu_stages.running import perform
from benchmarks.gpu_stages.setting import Row, Setting
from benchmarks.measurement import ROOT
from glied.config import parse, run
from glied.errors import UsageError

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
"""Time limits of the stages in seconds, in the order of the stages."""
STAGES = {name: f"benchmarks.gpu_stages.{name}:rows" for name in LIMITS}
"""The function of each stage."""
PRELOAD = ["benchmarks.gpu_stages.preload"]
"""Modules that the stages' processes have imported when they start."""
TOTAL_S = 350.0
"""Time limit of the whole run in seconds; the last stages get the remaining time."""
LONGER = 3
"""Factor of the time limits with --full, and of the stages' limits in a dry run."""
LEAST_S = 5.0
"""Minimum remaining time for which a stage is started, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure, and where to write the results."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto is a GPU if there is one."""
    dry: bool | None = None
    """Use tiny sizes; null for only without a GPU."""
    full: bool = False
    """Measure all cases, with three times the time."""
    stages: tuple[str, ...] = tuple(LIMITS)
    """Stages to run, in this order; machine always runs first."""
    results: str = "runs/gpu"
    """Folder of the stages' result files."""
    carried: str = ""
    """Folder for finetune with train/ and val/, each with captions.json and images/; empty for none."""
    seconds: float = TOTAL_S
    """Time limit of the whole run in seconds."""
    out: str | None = None
    """File for all results as JSON."""
    table: str | None = None
    """File for all results as Markdown tables."""

    def __post_init__(self) -> None:
        """Check the names of the stages and the time limit."""
        unknown = sorted({*self.stages} - {*LIMITS})
        if unknown:
            raise UsageError(f"stages: {unknown[0]!r} is none of {', '.join(LIMITS)}")
        if self.seconds <= 0:
            raise UsageError(f"seconds: {self.seconds} must be above 0")


def main() -> int:
    """Run the stages; return 1 if a check or a stage failed."""
    config = parse(Config, description=__doc__)
    stop = time.monotonic() + config.seconds * (LONGER if config.full else 1)
    context = start_server()
    setting = make_setting(config)
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Row] = {}
    for name, result in run_stages(config, setting, context, folder, stop):
        results[name] = result
        write(config, results)
    failed = [row for one in results.values() for row in one["rows"] if row.get("ok") is False]
    incomplete = [name for name, one in results.items() if not one["complete"]]
    print(markdown(results))
    print(json.dumps(figures(results) | {"failed_checks": len(failed), "incomplete": incomplete}))
    return int(bool(failed or incomplete))


def start_server() -> Any:
    """Start a fork server that imports everything once for the processes of the stages."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()
    return context


def make_setting(config: Config) -> Setting:
    """Return the setting of the stages; raises `UsageError` if a GPU is requested and there is none."""
    import torch

    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("device: cuda, but no GPU is available; --device cpu does a dry run")
    device = "cuda" if available and config.device != "cpu" else "cpu"
    dry = device == "cpu" if config.dry is None else config.dry
    return Setting(device=device, dry=dry, full=config.full, carried=config.carried, results=config.results)


def run_stages(
    config: Config, setting: Setting, context: Any, folder: Path, stop: float
) -> Iterator[tuple[str, Row]]:
    """Run the stages and yield the name and result of each; the stage `machine` runs every time."""
    machine: Row = {}
    for name in dict.fromkeys(("machine", *config.stages)):
        path = folder / f"{name}.json"
        known = finished(path, machine, setting) if name != "machine" else None
        if known is not None:
            print(f"{name}: results of an earlier run, {path}", flush=True)
            yield name, known
            continue
        limit = min(LIMITS[name] * (LONGER if setting.full or setting.dry else 1), stop - time.monotonic())
        result = run_stage(name, setting, context, path, limit) | form(machine, setting)
        if name == "machine" and result["complete"]:
            machine, ceilings = result["rows"]
            setting = dataclasses.replace(setting, ceilings=ceilings)
            result |= form(machine, setting)
        path.write_text(json.dumps(result, indent=1) + "\n")
        yield name, result


def form(machine: Row, setting: Setting) -> Row:
    """Return the properties that a stored result must share with this run to be used again."""
    named = {key: machine.get(key) for key in ("gpu", "machine", "cores")}
    return {"where": named, "device": setting.device, "dry": setting.dry, "full": setting.full}


def finished(path: Path, machine: Row, setting: Setting) -> Row | None:
    """Return the stored result of a stage if it is complete and of this machine and form, else None."""
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    same = all(stored.get(key) == value for key, value in form(machine, setting).items())
    return stored if same and stored["complete"] else None


def run_stage(name: str, setting: Setting, context: Any, path: Path, limit: float) -> Row:
    """Run a stage in its own process, for at most `limit` seconds."""
    if limit < LEAST_S:
        return {"complete": False, "error": "no time was left", "seconds": 0.0, "rows": []}
    lines, start = path.with_suffix(".jsonl"), time.monotonic()
    lines.unlink(missing_ok=True)
    process = context.Process(target=perform, args=(name, STAGES[name], setting, str(lines)))
    process.start()
    process.join(limit)
    late = process.is_alive()
    if late:
        kill(process)
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    errors = [row.pop("stage_error") for row in rows if "stage_error" in row]
    if late:
        errors = [f"stopped after {limit:.0f} s"]
    elif not errors and process.exitcode:
        errors = [f"the process exited with {process.exitcode}"]
    lines.unlink(missing_ok=True)
    result: Row = {"complete": not errors, "seconds": round(time.monotonic() - start, 1)}
    result |= {"error": errors[0]} if errors else {}
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result | {"rows": [row for row in rows if row]}


def kill(process: Any) -> None:
    """Kill the process of a stage and all processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)  # it leads a process group, see `perform`
    except ProcessLookupError:
        process.kill()
    process.join(10)


def write(config: Config, results: dict[str, Row]) -> None:
    """Write the results so far to --out and --table."""
    if config.out:
        text = json.dumps(figures(results) | {"stages": results}, indent=1)
        Path(config.out).write_text(text + "\n")
    if config.table:
        Path(config.table).write_text(markdown(results))


if __name__ == "__main__":
    run(main)
