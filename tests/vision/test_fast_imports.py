"""Fast imports of torchvision and timm, and that their temporary stand-ins are removed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed_by(code: str) -> list[str]:
    """Run code in a new process and return the lines it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_compiler_is_imported_on_first_use() -> None:
    lines = printed_by("""
import sys
from glied.vision import fast_imports
standin = fast_imports._Deferred(fast_imports.HEAVY)
fast_imports.import_torchvision()
from glied.vision.extractors import torchvision_regions
print("torchvision" in sys.modules, "torch._dynamo" in sys.modules, fast_imports.HEAVY in sys.modules)

import torch
from torchvision.ops import roi_align
images, boxes = torch.arange(64.0).reshape(1, 1, 8, 8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
plain = roi_align(images, boxes, 2)
torch.use_deterministic_algorithms(True)
print(torch.equal(plain, roi_align(images, boxes, 2)))
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"))
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
print(standin.counters is sys.modules[fast_imports.HEAVY].counters)
""")
    assert lines == ["True False False", "True", "True", "2.0", "True"]


def test_timm_is_imported_without_the_compiler() -> None:
    lines = printed_by("""
import sys
from glied.vision import fast_imports
fast_imports.import_torchvision()
fast_imports.import_timm()
print("timm.models" in sys.modules, "torch._dynamo" in sys.modules)

import torch
plain = lambda x: x + 1
marked = torch.compiler.disable(plain)
print(marked is plain, "torch._dynamo" in sys.modules)
print(torch.compile(marked, backend="eager")(torch.ones(1)).item())
assert fast_imports._no_decorator(plain) is plain is fast_imports._no_decorator(recursive=False)(plain)
""")
    assert lines == ["True False", "False True", "2.0"]
