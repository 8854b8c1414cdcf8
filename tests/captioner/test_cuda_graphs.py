"""Recording and replaying a search without a GPU, and CUDA graphs on a GPU."""

import dataclasses
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from glied.captioner.attention import KeyValues
from glied.captioner.config import DecodingConfig
from glied.captioner.cuda_graphs import MOST, GraphDecoder
from glied.captioner.decode import DecodeInputs, decode, run_steps, start
from glied.captioner.inference import freeze
from glied.captioner.model import EncoderOutput
from tests.captioner.tape import tapes, tensors
from tests.flat_settings import flat

ARCHITECTURES = ["base", "glied", "lstm", "soft_att", "up_down", "ct"]
SEARCHES = {
    "greedy": {"beam_size": 1},
    "beam": {"beam_size": 3, "n_best": 3},
    "exact": {"beam_size": 5, "n_best": 5, "stop": "exact", "length_penalty": 0.4},
    "groups": {"beam_size": 4, "n_best": 4, "groups": 2},
    "blocked": {"beam_size": 3, "block_ngrams": 2, "min_length": 6},
    "samples": {"method": "sample", "n_best": 4, "top_k": 5, "top_p": 0.9},
}


def images(make_inputs, seed, **options):
    """Return inputs in which some regions and attributes are padding."""
    regions, ids, mask = make_inputs(batch=4, seed=seed, **options)
    regions.mask[seed % 4, 3:] = False
    mask[(seed + 1) % 4, 1:] = False
    mask[(seed + 2) % 4] = False
    return regions, ids, mask


def same(found, expected):
    assert [[one.tokens for one in image] for image in found] == [
        [one.tokens for one in image] for image in expected
    ]
    pairs = [pair for images in zip(found, expected, strict=True) for pair in zip(*images, strict=True)]
    for one, other in pairs:
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.finished == other.finished


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_replay_equals_decoding(make_model, make_inputs, architecture, search):
    config = flat(DecodingConfig, max_length=9, **SEARCHES[search])
    model = freeze(make_model(architecture=architecture, sharp=4.0))
    made = []
    recorder = GraphDecoder(model, config, new_capture=lambda: made.append(1) or tapes())
    distinct = set()
    for seed in range(5):
        memory = model.encode(*images(make_inputs, seed))
        expected = decode(model, memory, config, seeds=range(seed, seed + 4))
        same(recorder.decode(memory, range(seed, seed + 4)), expected)
        distinct.update(one[0].tokens for one in expected)
    assert len(distinct) > 5  # the batches differ
    assert len(made) == 1  # the first batch is decoded without a recording


def test_a_replay_stops_when_all_images_are_done(make_model, make_inputs):
    model, config = freeze(make_model(sharp=4.0, vocabulary_size=6)), DecodingConfig(max_length=20)
    recorded, replayed = [], []

    def counting():
        record = tapes()

        def counted(work):
            again, found = record(work)
            recorded.append(found)
            return lambda: (replayed.append(found), again()), found

        return counted

    recorder = GraphDecoder(model, config, new_capture=counting)
    memory = model.encode(*make_inputs(vocabulary_size=6))
    for _ in range(2):
        found = recorder.decode(memory)
    assert max(len(one[0].tokens) for one in found) == 6
    assert len(recorded) == 6  # the start, and four steps each
    assert len(replayed) < 5


def test_few_recordings_are_kept(make_model, make_inputs):
    model, config = freeze(make_model()), DecodingConfig(beam_size=1, max_length=5)
    recorder = GraphDecoder(model, config, new_capture=tapes)
    for batch in (1, 2, 3, 4, 5, 6, 1):
        memory = model.encode(*make_inputs(batch=batch))
        for _ in range(2):
            same(recorder.decode(memory), decode(model, memory, config))
    assert len(recorder._captured) == MOST


def test_similar_sizes_share_a_recording(make_model, make_inputs):
    model, config = freeze(make_model(sharp=3.0)), DecodingConfig(beam_size=3, max_length=7)
    made = []
    recorder = GraphDecoder(model, config, new_capture=lambda: made.append(1) or tapes())
    for regions, attributes in ((6, 5), (8, 3), (4, 8), (1, 1)):
        memory = model.encode(*make_inputs(regions=regions, attributes=attributes))
        same(recorder.decode(memory), decode(model, memory, config))
    assert len(made) == 1


class OnTheGpu(TorchDispatchMode):
    """Checks that the tensors of all operations are on the GPU, except for numbers."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        assert all(one.device.type == "cuda" or one.ndim == 0 for one in tensors((args, found))), operation
        return found


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_on_a_gpu_the_steps_wait_for_nothing(make_model, make_inputs, architecture, search):
    """Tensors that claim to be on a GPU: reading a value is an error."""
    config = flat(DecodingConfig, max_length=9, **SEARCHES[search])
    options = {"architecture": architecture, "vocabulary_size": 1003}
    memory = make_model(**options).encode(*images(make_inputs, 0))
    with FakeTensorMode() as mode, torch.device("cuda"):
        there = make_model(**options)
        there.tabulate()

    def move(part):
        return None if part is None else torch.empty(part.shape, dtype=part.dtype, device="cuda")

    with mode, torch.inference_mode():
        sources = {
            name: KeyValues(*(move(part) for part in vars(source).values()))
            for name, source in memory.sources.items()
        }
        given = DecodeInputs(torch.tensor([0, 1, 3], device="cuda"), torch.rand(4, 4, 9, device="cuda"))
        given = given if config.method == "sample" else dataclasses.replace(given, uniform=None)
        search = start(there, EncoderOutput(sources, 4, move(memory.vector)), config, no_sync=True)
        with OnTheGpu():
            run_steps(there, search, config, given, range(9))
        with pytest.raises(DataDependentOutputException):
            bool(search.scores.any())  # as reading a value would


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_cuda_graphs_equal_decoding(make_model, make_inputs):
    for architecture, search in itertools.product(ARCHITECTURES, SEARCHES.values()):
        config = flat(DecodingConfig, max_length=9, **search)
        model = freeze(make_model(architecture=architecture, sharp=4.0).to("cuda"))
        recorder = GraphDecoder(model, config)
        for seed in range(5):
            regions, *attributes = images(make_inputs, seed)
            memory = model.encode(regions.to("cuda"), *(part.to("cuda") for part in attributes))
            expected = decode(model, memory, config, seeds=range(seed, seed + 4))
            same(recorder.decode(memory, range(seed, seed + 4)), expected)
        assert len(recorder._recordings) == 1  # these were replays
