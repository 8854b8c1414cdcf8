"""Decoding replayed as CUDA graphs: the same captions as plain decoding, and captions/s beside it.

First the shipped captioner of the demo world on made-up regions: the captions of every search must be equal,
also where the graph is replayed for another batch. Then the speed of the paper-size model. Needs a GPU; that
a search can be recorded at all is tested on a CPU.
"""

from collections.abc import Iterator

import torch

from benchmarks.decoding import FEATURES, STEPS, captioning
from benchmarks.gpu_stages.decoding import cells
from benchmarks.gpu_stages.inputs import WEIGHTS, captioner, paper_inputs
from benchmarks.gpu_stages.measuring import peak_memory, release, timed
from benchmarks.gpu_stages.setting import Row, Setting, check
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.cuda_graphs import GraphDecoder
from glied.captioner.decode import decode
from glied.regions import RegionBatch

SEARCHES = {
    "greedy": DecodingConfig(beam_size=1),
    "beam 3": DecodingConfig(beam_size=3, n_best=3),
    "beam 5 exact": DecodingConfig(beam_size=5, n_best=5, stop="exact"),
    "groups": DecodingConfig(beam_size=4, groups=2, n_best=2),
    "no trigram twice": DecodingConfig(beam_size=3, block_ngrams=3),
    "samples": DecodingConfig(method="sample", n_best=5),
}


def rows(setting: Setting) -> Iterator[Row]:
    """Equality by search and dtype, then speeds."""
    if not setting.cuda:
        yield {"skipped": "CUDA graphs need a GPU"}
        return
    for dtype in setting.pick((torch.float32,), (torch.float32, torch.bfloat16)):
        yield from equality(setting, dtype)
    for cell in cells(setting):
        yield speed(setting, *cell)
        release(setting.torch_device)


def equality(setting: Setting, dtype: torch.dtype) -> Iterator[Row]:
    """Shares of equal captions over five batches: the first is decoded plainly, the second recorded."""
    device = setting.torch_device
    shipped = Captioner.load(str(WEIGHTS / "glied"), device=device, dtype=dtype)
    model, generator, batch = shipped.frozen, torch.Generator().manual_seed(0), setting.pick(8, 32)
    for name, search in SEARCHES.items():
        recorder, equal, count = GraphDecoder(model, search), 0, 0
        for _ in range(5):
            memory = model.encode(*random_images(shipped, batch, generator, device))
            seeds = torch.randint(2**62, (batch,), generator=generator).tolist()
            expected = decode(model, memory, search, seeds=seeds)
            found = recorder.decode(memory, seeds)
            pairs = zip(found, expected, strict=True)
            equal += sum([a.tokens for a in one] == [b.tokens for b in two] for one, two in pairs)
            count += len(found)
        # Padding to a multiple of eight can make another kernel sum in another order: rare ties may flip.
        yield check(f"graphs equal plain: {name}, {dtype}", equal / count, least=0.97, images=count)


def random_images(
    shipped: Captioner, batch: int, generator: torch.Generator, device: torch.device
) -> tuple[RegionBatch, torch.Tensor, torch.Tensor]:
    """Regions, some of them padding, and attributes."""
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
    """Plain decoding and replays of the same batch, in turn in one process."""
    device, dtype = setting.torch_device, getattr(torch, dtype_name)
    search = DecodingConfig(beam_size=beams, min_length=STEPS, max_length=STEPS)
    captions = captioner(device, dtype, feature_size=FEATURES, decoding=search)
    given = paper_inputs(batch, device)
    plain = captioning(captions, given, search)
    before = timed(plain, device, seconds=0.5)
    replay = captioning(captions, given, search, GraphDecoder(captions.frozen, search).decode)
    with peak_memory(device) as memory:
        taken = timed(replay, device, seconds=0.5, warm_ups=3)  # decodes plainly, records, replays
    gain = round(before.median / taken.median, 3)
    named = {"dtype": dtype_name, "beams": beams, "batch": batch}
    return named | taken.row(batch, "captions") | {"times_plain": gain} | memory
