"""Measure the captions/s of the paper-size GLIED: beams 1, 3 and 5, batches 64 to 4,096, fp32 and bf16.

Decoding goes from region features and attribute ids on the device to token ids on the host, with random
weights and 20 words per caption. Three figures show how close it comes to the device's limits:

* `products_share`: time of the matrix products alone / time of decoding. On a GPU the products are
  replayed as one CUDA graph, so that the bound includes no launches.
* `roofline_share`: bound / time of decoding. The bound is the sum, over all products and passes over the
  logits, of the larger of operations / measured matrix rate and bytes / measured bandwidth. It assumes that
  every operand is read once.
* `spread`: range of the rounds / median; smaller differences are noise.
"""

from collections.abc import Callable, Iterator
from itertools import chain

import torch

from benchmarks.decoding import captioning
from benchmarks.decoding_products import FEATURES, REGIONS, STEPS, WORDS, products, products_of
from benchmarks.gpu_stages.inputs import captioner, paper_inputs
from benchmarks.gpu_stages.measuring import peak_memory, release, timed
from benchmarks.gpu_stages.setting import Row, Setting
from glied.captioner.architectures import PAPER_SIZES
from glied.captioner.config import DecodingConfig

Case = tuple[str, int, int]
"""Dtype, beams, batch."""
BATCHES = (1024, 4096, 256, 64)
WIDTH = PAPER_SIZES["glied"].width


def cases(setting: Setting) -> list[Case]:
    """Return the cases in order of importance: bf16 with 3 beams, then fp32, then the other beams."""
    batches = setting.pick((2,), BATCHES)
    few = setting.pick((2,), BATCHES if setting.full else (1024, 64))
    widths = setting.pick((3, 1), (3, 1, 5))
    order = [(dtype, beams) for beams in widths for dtype in ("bfloat16", "float32")]
    cases = ([(dtype, beams, batch) for batch in (batches if beams == 3 else few)] for dtype, beams in order)
    return list(chain.from_iterable(cases))


def rows(setting: Setting) -> Iterator[Row]:
    """Yield a row per case."""
    device = setting.torch_device
    for case in cases(setting):
        yield measure(setting, case)
        release(device)


def measure(setting: Setting, case: Case) -> Row:
    """Measure a case."""
    dtype_name, beams, batch = case
    device, dtype = setting.torch_device, getattr(torch, dtype_name)
    search = DecodingConfig(beam_size=beams, min_length=STEPS, max_length=STEPS)
    captions = captioner(device, dtype, feature_size=FEATURES, decoding=search)
    caption = captioning(captions, paper_inputs(batch, device), search)
    caption()  # packs the weights and loads kernels
    with peak_memory(device) as memory:
        caption()
    taken = timed(caption, device, seconds=setting.pick(0.0, 1.0), least=setting.pick(1, 3), warm_ups=0)
    release(device)
    row: Row = {"dtype": dtype_name, "beams": beams, "batch": batch, **taken.row(batch, "captions")}
    bound = product_seconds(setting, batch, beams, dtype)
    row |= {"products_ms": round(1000 * bound, 3), "products_share": round(bound / taken.median, 3)}
    if setting.ceilings:
        least = roofline(batch, beams, dtype, setting.ceilings)
        row |= {"roofline_ms": round(1000 * least, 3), "roofline_share": round(least / taken.median, 3)}
    return row | memory


def product_seconds(setting: Setting, batch: int, beams: int, dtype: torch.dtype) -> float:
    """Return the seconds of the matrix products alone."""
    device = setting.torch_device
    with device:
        call = products("glied", batch, beams, dtype, packed=False)
        queued = graph_of(call) if setting.cuda else call
    return timed(queued, device, seconds=setting.pick(0.0, 0.5), least=setting.pick(1, 3)).median


def graph_of(call: Callable[[], object]) -> Callable[[], object]:
    """Capture a call as a CUDA graph and return its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # libraries allocate their workspaces before the capture
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def roofline(batch: int, beams: int, dtype: torch.dtype, ceilings: dict[str, float]) -> float:
    """Return the roofline bound of encoding and `STEPS` steps in seconds; see the module's docstring."""
    size = torch.finfo(dtype).bits // 8
    rate = ceilings[f"tflops_{str(dtype).removeprefix('torch.')}"] * 1e12
    bandwidth = ceilings["gb_per_s"] * 1e9
    return sum(max(work / rate, size * values / bandwidth) for work, values in operations(batch, beams))


def operations(batch: int, beams: int) -> Iterator[tuple[int, int]]:
    """Yield the floating-point operations and the values read or written of each product and logit pass."""
    model_products = products_of("glied")
    for layer in ((FEATURES, WIDTH), *model_products.encoding):
        yield _layer(batch * REGIONS, *layer)
    for _ in range(model_products.region_attentions):
        yield _attention(batch, REGIONS, REGIONS)
    for step in range(STEPS):
        count = beams if step else 1
        for layer in model_products.step:
            yield _layer(batch * count, *layer)
        for memory in (
            *model_products.cross_attentions,
            *[1 + beams * step] * model_products.self_attentions,
        ):
            yield _attention(batch, count, memory)
        yield _layer(batch * count, WIDTH, WORDS + 1)
        yield 0, 2 * batch * count * (WORDS + 1)  # read once for normalization and once for token selection


def _layer(count: int, size: int, out: int) -> tuple[int, int]:
    return 2 * count * size * out, count * (size + out) + size * out


def _attention(images: int, queries: int, keys: int) -> tuple[int, int]:
    """Count both products; keys, values, queries and results pass through memory once, scores do not."""
    return 4 * images * queries * keys * WIDTH, 2 * images * (keys + queries) * WIDTH
