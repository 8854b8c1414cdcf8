"""Check that decoding with CUDA graphs gives the captions of plain decoding, and measure its captions/s.

First the shipped captioner of the demo world decodes random regions: the captions of every search must be
equal, also when a graph is replayed for another batch. Then the speed of the paper-size model is measured.
This needs a GPU; the capture of each search is also tested on a CPU.
"""

from collections.abc import Iterator

import torch

from benchmarks.decoding import captioning
from benchmarks.decoding_products import FEATURES, STEPS
from benchmarks.gpu_stages.decoding import cases
from benchmarks.gpu_stages.inputs import WEIGHTS, captioner, paper_inputs
from benchmarks.gpu_stages.measuring import peak_memory, release, timed
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.captioner.captioner import Captioner
from glied.captioner.config import BeamSearchConfig, DecodingConfig
from glied.captioner.cuda_graphs import GraphDecoder
from glied.captioner.decode import decode
from glied.regions import RegionBatch

SEARCHES = {
    "greedy": DecodingConfig(beam_size=1),
    "beam 3": DecodingConfig(beam_size=3, n_best=3),
    "beam 5 exact": DecodingConfig(beam_size=5, n_best=5, search=BeamSearchConfig(stop="exact")),
    "groups": DecodingConfig(beam_size=4, n_best=2, search=BeamSearchConfig(groups=2)),
    "no trigram twice": DecodingConfig(beam_size=3, block_ngrams=3),
    "samples": DecodingConfig(method="sample", n_best=5),
}


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the checks of each search and data type, then the speeds."""
    if not setting.cuda:
        yield {"skipped": "CUDA graphs need a GPU"}
        return
    for dtype in setting.pick((torch.float32,), (torch.float32, torch.bfloat16)):
        yield from equality(setting, dtype)
    for case in cases(setting):
        yield speed(setting, *case)
        release(setting.torch_device)


def equality(setting: Setting, dtype: torch.dtype) -> Iterator[Row]:
    """Compare captions over five batches: the first is decoded plainly, the second captures the graph."""
    device = setting.torch_device
    shipped = Captioner.load(str(WEIGHTS / "glied"), device=device, dtype=dtype)
    model, generator, batch = shipped.frozen, torch.Generator().manual_seed(0), setting.pick(8, 32)
    for name, search in SEARCHES.items():
        recorder, equal, count = GraphDecoder(model, search), 0, 0
        for _ in range(5):
            memory = model.encode(*random_images(shipped, batch, generator, device))
            seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
            expected = decode(model, memory, search, seeds=seeds)
            replayed = recorder.decode(memory, seeds)
            pairs = zip(replayed, expected, strict=True)
            equal += sum([a.tokens for a in one] == [b.tokens for b in two] for one, two in pairs)
            count += len(replayed)
        # Padding to a multiple of eight can select a kernel that sums in a different order: ties may flip.
        yield check(f"graphs equal plain: {name}, {dtype}", equal / count, least=0.97, images=count)


def random_images(
    shipped: Captioner, batch: int, generator: torch.Generator, device: torch.device
) -> tuple[RegionBatch, torch.Tensor, torch.Tensor]:
    """Return random regions, some of them padding, random attributes, and the attributes' mask."""
    corner = torch.rand(batch, 20, 2, generator=generator) * 200
    mask = torch.arange(20) < torch.randint(4, 21, (batch, 1), generator=generator)
    regions = RegionBatch(
        features=torch.randn(batch, 20, shipped.model.feature_size, generator=generator).relu(),
        boxes=torch.cat((corner, corner + 100), dim=-1),
        mask=mask,
        sizes=torch.full((batch, 2), 300.0),
    )
    words = torch.randint(4, len(shipped.vocabulary), (batch, 10), generator=generator)
    return regions.to(device), words.to(device), torch.ones_like(words, dtype=torch.bool).to(device)


def speed(setting: Setting, dtype_name: str, beams: int, batch: int) -> Row:
    """Time plain decoding and replays of the same batch in one process."""
    device, dtype = setting.torch_device, getattr(torch, dtype_name)
    search = DecodingConfig(beam_size=beams, min_length=STEPS, max_length=STEPS)
    captions = captioner(device, dtype, feature_size=FEATURES, decoding=search)
    model_inputs = paper_inputs(batch, device)
    plain = timed(captioning(captions, model_inputs, search), device, seconds=0.5)
    replay = captioning(captions, model_inputs, search, GraphDecoder(captions.frozen, search).decode)
    with peak_memory(device) as memory:
        replayed = timed(replay, device, seconds=0.5, warm_ups=3)  # plain decoding, capture, replay
    speedup = round(plain.median / replayed.median, 3)
    case = {"dtype": dtype_name, "beams": beams, "batch": batch}
    return case | replayed.row(batch, "captions") | {"times_plain": speedup} | memory
