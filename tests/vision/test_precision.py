"""Networks in half precision."""

import os
import subprocess
import sys

import pytest

CODE = """
import torch
from glied.vision.extractors.half_precision import Cast
Cast(torch.nn.Linear(2, 2), torch.float32)
Cast(torch.nn.Linear(2, 2), torch.bfloat16)
print(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""


@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_a_processor_without_bfloat16_is_reported(instructions: str) -> None:
    """With AVX2 alone, which lacks bfloat16, a backbone in bfloat16 takes minutes per image."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    supported = done.stdout.strip() == "True"
    assert done.stderr.count("regions.compute.dtype float32 is") == (0 if supported else 1)
    assert not (instructions == "AVX2" and supported and os.uname().machine == "x86_64")
