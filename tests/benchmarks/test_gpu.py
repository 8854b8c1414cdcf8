"""benchmarks/gpu.py: how stages run, what they compute in a dry run, and the wheels they need."""

import importlib
import json
import math
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu, gpu_wheels
from benchmarks.decoding_products import REGIONS, products
from benchmarks.gpu_stages import (
    captions,
    correctness,
    decoding,
    graphs,
    jpeg,
    memory,
    nccl,
    preload,
    regions,
    report,
)
from benchmarks.gpu_stages.measuring import timed
from benchmarks.gpu_stages.setting import Setting, check
from glied.captioner.cuda_graphs import GraphDecoder
from glied.errors import JobError, UsageError
from tests.captioner.tape import tapes

DRY = Setting(device="cpu", dry=True)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs stages of tests/benchmarks/gpu_stages.py by name.

    It returns the exit code, the last line, the results by stage, and all printed lines.
    """
    monkeypatch.setattr(gpu, "PRELOAD", ["benchmarks.gpu_stages.running"])
    for name in ("good", "raising", "failing", "dying", "slow"):
        monkeypatch.setitem(gpu.STAGES, name, f"tests.benchmarks.gpu_stages:{name}")
        monkeypatch.setitem(gpu.LIMITS, name, 20)

    def run(*names, **options):
        arguments = [
            f"--results={tmp_path}/results",
            f"--out={tmp_path}/out.json",
            f"--stages={json.dumps(names)}",
        ]
        arguments += [f"--{key}={value}" for key, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device=cpu", *arguments])
        code = gpu.main()
        printed = capsys.readouterr().out.splitlines()
        return (
            code,
            json.loads(printed[-1]),
            json.loads((tmp_path / "out.json").read_text())["stages"],
            printed,
        )

    return run


def test_a_failing_stage_keeps_its_rows_and_the_others_run(run):
    code, last, stages, _ = run("raising", "dying", "failing", "good")
    assert code == 1
    assert (last["incomplete"], last["failed_checks"]) == (["raising", "dying"], 1)
    assert stages["raising"]["error"] == "ValueError: no such kernel"
    assert stages["raising"]["rows"] == [{"figure": 2}]
    assert stages["dying"]["error"] == "the process exited with 139"
    assert stages["dying"]["rows"] == [{"figure": 3}]
    assert stages["good"]["complete"]
    assert stages["good"]["rows"][0]["ceilings"] == 5, "measured by the stage machine"


def test_complete_results_are_used_again(run, tmp_path):
    assert run("good", "raising")[0] == 1
    kept = tmp_path / "results" / "good.json"
    kept.write_text(kept.read_text().replace('"figure": 1', '"figure": 10'))
    _, _, stages, printed = run("good", "raising")
    assert stages["good"]["rows"][0]["figure"] == 10
    assert f"good: results of an earlier run, {kept}" in printed
    assert not any(line.startswith("raising: results of an earlier run") for line in printed), "incomplete"
    kept.write_text(kept.read_text().replace('"dry": true', '"dry": false'))
    assert run("good")[2]["good"]["rows"][0]["figure"] == 1, "the stored result has a different form"


def test_a_stage_is_killed_with_its_children_at_its_limit(run, monkeypatch):
    monkeypatch.setattr(gpu, "LONGER", 0.25)
    code, last, stages, _ = run("slow", "good")
    assert (code, last["incomplete"]) == (1, ["slow"])
    assert stages["slow"]["error"] == "stopped after 5 s"
    (row,) = stages["slow"]["rows"]
    state = Path(f"/proc/{row['child']}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_whole_run_has_a_limit(run):
    code, last, stages, _ = run("good", seconds=1)
    assert code == 1
    assert "good" in last["incomplete"]
    assert stages["good"]["error"] == "no time was left"


def test_bad_options_are_named(monkeypatch):
    with pytest.raises(UsageError, match="stages: 'speed' is none of machine, correctness"):
        gpu.Config(stages=("speed",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no GPU is available"):
        gpu.make_setting(gpu.Config(device="cuda"))
    assert gpu.make_setting(gpu.Config()).dry


@pytest.mark.parametrize("stage", [jpeg, memory, nccl, graphs])
def test_dry_stages(stage):
    rows = list(stage.rows(DRY))
    assert rows
    assert json.loads(json.dumps(rows)) == rows
    assert [row for row in rows if row.get("ok") is False] == []


def test_decoding_and_regions_dry():
    row = decoding.measure(DRY, ("float32", 3, 2))
    assert row["captions_per_s"] == pytest.approx(2000 / row["ms"], rel=0.01, abs=0.06)
    assert row["products_share"] > 0
    (first, *_), batch = regions.cases(DRY), 2
    pixels = [torch.zeros(50, 60, 3, dtype=torch.uint8).numpy()] * batch
    assert regions.measure(DRY, first[0], pixels)["gflop"] > 0


def test_replays_are_compared_with_plain_decoding(monkeypatch):
    """A tape replaces CUDA graphs; the check must fail for a recording that replays nothing."""
    monkeypatch.setattr(graphs, "SEARCHES", {name: graphs.SEARCHES[name] for name in ("greedy", "samples")})
    monkeypatch.setattr(graphs, "GraphDecoder", partial(GraphDecoder, new_capture=tapes))
    found = list(graphs.equality(DRY, torch.float32))
    assert [(row["value"], row["ok"]) for row in found] == [(1.0, True)] * 2
    monkeypatch.setattr(graphs, "GraphDecoder", partial(GraphDecoder, new_capture=lambda: mute))
    assert not any(row["ok"] for row in graphs.equality(DRY, torch.float32))


def mute(work):
    return lambda: None, work()


def test_correctness_detects_differences(monkeypatch):
    """The reference is the CPU, and here both sides run on it: the check must fail for a wrong model."""
    found = list(correctness.logits(DRY))
    assert all(row["ok"] for row in found)
    whole = correctness.captioner

    def wrong(device, dtype, **options):
        captioner = whole(device, dtype, **options)
        if dtype == torch.float32:
            with torch.no_grad():
                captioner.model.classifier.weight.mul_(1.01)
        return captioner

    monkeypatch.setattr(correctness, "captioner", wrong)
    correctness.paper_model.cache_clear()
    assert [row["ok"] for row in correctness.logits(DRY)] == [False, True]
    correctness.paper_model.cache_clear()


def test_a_check_passes_within_its_bounds_only():
    assert check("share", 0.5, least=0.5)["ok"]
    assert not check("share", 0.4, least=0.5)["ok"]
    assert not check("error", math.nan, most=1.0)["ok"]


@pytest.mark.parametrize("beams", [1, 3])
def test_the_roofline_counts_the_operations_of_the_products(beams):
    call = products("glied", 2, beams, torch.float32, packed=False)
    with FlopCounterMode(display=False) as counter:
        call()
    counted = list(decoding.operations(2, beams))
    assert sum(work for work, _ in counted) == counter.get_total_flops()
    ceilings = {"tflops_float32": 1e-6, "gb_per_s": 1e9}  # a device that computes slowly
    slow = decoding.roofline(2, beams, torch.float32, ceilings)
    assert slow == pytest.approx(counter.get_total_flops() / 1e6, rel=1e-3)
    narrow = decoding.roofline(2, beams, torch.float32, {"tflops_float32": 1e9, "gb_per_s": 1.0})
    features = 4 * 2 * REGIONS * 2048
    assert narrow > features / 1e9, "the region features are read once"


def test_every_stage_exists_and_is_preloaded():
    assert {"machine", *preload.STAGES} == {*gpu.LIMITS}
    for function in gpu.STAGES.values():
        module, _, name = function.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert gpu.TOTAL_S < 360


def test_workers_of_a_case_are_combined():
    one = {"images_per_s": 10.0, "peak_mb": 5, "reserved_mb": 6, "host_mb": 7, "share_decode": 0.2}
    one |= {"gpu_share": None, "cores": 2.0, "seconds": 3.0, "all_ok": True}
    found = captions.combine([one, one | {"images_per_s": 20.0, "share_decode": 0.4}])
    assert (found["images_per_s"], found["peak_mb"], found["share_decode"]) == (30.0, 10, 0.3)
    lost = [{"error": "BrokenBarrierError: "}, {"error": "RuntimeError: CUDA"}, one]
    assert captions.combine(lost) == {"error": "RuntimeError: CUDA", "ok": False}


def test_timing_is_the_median_of_rounds():
    seconds = iter([9.0, 9.0, 0.03, 0.01, 0.02])
    calls = []

    def call():
        calls.append(time.sleep(next(seconds) if len(calls) >= 2 else next(seconds) * 0))

    found = timed(call, torch.device("cpu"), seconds=0.0, least=3, warm_ups=2)
    assert len(calls) == 5
    assert found.rounds == 3
    assert found.median == pytest.approx(0.02, abs=0.005)
    assert found.row(10, "images")["images_per_s"] == pytest.approx(500, rel=0.25)


def test_figures_with_goals():
    results = {
        "machine": {"rows": [{"gpu": "card"}], "complete": True, "seconds": 1, "dry": False},
        "decoding": {
            "rows": [
                {"beams": 3, "dtype": "bfloat16", "captions_per_s": 5.0},
                {"beams": 1, "dtype": "bfloat16", "captions_per_s": 9.0},
                {"beams": 3, "dtype": "float32", "captions_per_s": 8.0},
            ],
            "complete": True,
            "seconds": 2,
        },
        "captions": {
            "rows": [
                {"extractor": {"model": "detector", "side": 800}, "images_per_s": 3.0},
                {"extractor": {"model": "x", "side": 224}, "error": "a worker ended", "ok": False},
            ],
            "complete": True,
            "seconds": 3,
        },
    }
    found = report.figures(results)
    assert found["glied_beam3_bf16_captions_per_s"] == 5.0
    assert found["bytes_to_captions_detector_images_per_s"] == 3.0
    assert found["bytes_to_captions_224_images_per_s"] is None
    assert (found["gpu"], found["dry"]) == ("card", False)
    tables = report.markdown(results)
    assert "| beams | dtype | captions_per_s |\n| --- | --- | --- |\n| 3 | bfloat16 | 5.0 |" in tables
    assert "| detector | 800 | 3.0 |" in tables


def test_the_wheels_are_pinned():
    assert gpu_wheels.pinned("a==1\nb==2.0\n", ["b"]) == ["b==2.0"]
    with pytest.raises(JobError, match=r"no version of c, d"):
        gpu_wheels.pinned("a==1\n", ["c", "d"])
    assert gpu_wheels.pinned((gpu_wheels.ROOT / "constraints.txt").read_text(), gpu_wheels.WHEELS)


def test_imported_packages_are_on_the_machine_or_among_the_wheels():
    machine = gpu_wheels.listed(gpu_wheels.MACHINE.read_text())
    assert "ray" not in machine
    assert gpu_wheels.import_error([*machine, "glied", *gpu_wheels.WHEELS]) == ""
    without = [name for name in gpu_wheels.WHEELS if name != "jsonargparse"]
    assert "No module named 'jsonargparse'" in gpu_wheels.import_error([*machine, "glied", *without])
