"""A cluster that grows and shrinks during a run: the short form of benchmarks/scaling.py on real raylets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_joining_nodes_are_used_and_a_lost_node_loses_no_row(tmp_path):
    options = ["--nodes=[1,2]", "--wait_s=0.4", "--window_s=2", "--lose=true", f"--folder={tmp_path}"]
    command = [sys.executable, "benchmarks/scaling.py", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["images_per_s"].keys() == {"1", "2"}, "both nodes were working at the end"
    lost = result["lost_node"]
    assert lost["rows"] == lost["images"] == sum(lost["by_node"]) == 320
    assert len(lost["by_node"]) == 2, "the lost node had been working, and the head never was"
