import numpy as np
import pytest
import torch

from glied import checkpoint
from glied.captioner.captioner import Captioner, attribute_ids
from glied.captioner.config import DecodingConfig
from glied.errors import UsageError
from glied.regions import Regions
from glied.text.vocabulary import PAD, Vocabulary
from tests.captioner.tape import tapes

WORDS = Vocabulary([f"word{i}" for i in range(26)])


def make_regions(count, seed):
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 100, (count, 2))
    return Regions(
        boxes=np.concatenate((corner, corner + 40), axis=1).astype(np.float32),
        features=random.normal(size=(count, 12)).astype(np.float32),
        scores=np.ones(count, dtype=np.float32),
        labels=["thing"] * count,
        attributes=[[] for _ in range(count)],
        width=200,
        height=150,
    )


def test_a_saved_and_loaded_captioner_gives_the_same_captions(make_model, tmp_path):
    decoding = DecodingConfig(beam_size=3, n_best=2, max_length=6)
    captioner = Captioner(make_model(sharp=3.0, geometry=True), WORDS, attribute_count=2, decoding=decoding)
    regions = [make_regions(count, seed) for seed, count in enumerate((5, 1, 3))]
    attributes = [[("word3", 0.9), ("unheard", 0.8), ("word5", 0.7), ("word6", 0.6)], [], [("word1", 0.5)]]
    captions = captioner.caption(regions, attributes)
    assert [len(one) for one in captions] == [2, 2, 2]
    assert all(one.text for several in captions for one in several)
    captioner.save(str(tmp_path / "model"), note="kept")
    loaded = Captioner.load(str(tmp_path / "model"), decoding)
    assert loaded.caption(regions, attributes) == captions
    assert loaded.attribute_count == 2
    assert loaded.digest
    assert checkpoint.load(str(tmp_path / "model")).metadata["note"] == "kept"
    assert captioner.caption([], []) == []
    for row in range(3):
        alone = captioner.caption(regions[row : row + 1], attributes[row : row + 1])[0]
        assert [one.text for one in alone] == [one.text for one in captions[row]]


def test_cuda_graphs_give_the_same_captions(make_model):
    model = make_model(sharp=3.0, geometry=True)
    plain, recorded = (Captioner(model, WORDS, cuda_graphs=graphs) for graphs in (False, True))
    recorded._graph_decoder.new_capture = tapes  # replaces the GPU
    attributes = [[("word1", 0.5), ("word7", 0.2)], []]
    for seed in range(3):
        regions = [make_regions(5, seed), make_regions(3 + seed, seed)]
        texts = [[one.text for one in each.caption(regions, attributes)[1]] for each in (plain, recorded)]
        assert texts[0] == texts[1]
    assert len(recorded._graph_decoder._captured) == 1


def test_attribute_ids_drop_unknown_words_and_keep_the_first():
    ids, mask = attribute_ids([["word3", "unheard", "word5", "word6"], [], ["word0"]], WORDS, 2)
    assert ids.tolist() == [[7, 9], [PAD, PAD], [4, PAD]]
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    ids, mask = attribute_ids([[], []], WORDS, 2)
    assert ids.shape == mask.shape == (2, 0)


def test_other_checkpoints_are_refused(tmp_path):
    checkpoint.save(str(tmp_path), {}, {"kind": "detector"})
    with pytest.raises(UsageError, match="detector"):
        Captioner.load(str(tmp_path))


def test_suppressed_words_do_not_occur(make_model):
    regions, attributes = [make_regions(5, 0)], [[("word3", 0.9)]]
    model = make_model(sharp=3.0)
    caption = Captioner(model, WORDS).caption(regions, attributes)[0][0].text.split()
    decoding = DecodingConfig(suppress=(caption[0],))
    assert (
        caption[0]
        not in Captioner(model, WORDS, decoding=decoding).caption(regions, attributes)[0][0].text.split()
    )
    with pytest.raises(UsageError, match="'unheard'"):
        Captioner(model, WORDS, decoding=DecodingConfig(suppress=("unheard",)))


def test_samples_depend_on_the_seeds_of_their_images(make_model):
    regions, attributes = [make_regions(5, seed) for seed in range(3)], [[("word3", 0.9)]] * 3
    captioner = Captioner(make_model(), WORDS, decoding=DecodingConfig(method="sample", n_best=2))
    captions = captioner.caption(regions, attributes, seeds=[5, 6, 7])
    assert [len(one) for one in captions] == [2, 2, 2]
    alone = captioner.caption(regions[1:2], attributes[1:2], seeds=[6])[0]
    assert [one.text for one in alone] == [one.text for one in captions[1]]


def test_computes_in_bfloat16(make_model, tmp_path):
    Captioner(make_model(sharp=3.0), WORDS).save(str(tmp_path))
    loaded = Captioner.load(str(tmp_path), dtype=torch.bfloat16)
    assert loaded.model.embedding.weight.dtype == torch.bfloat16
    assert loaded.caption([make_regions(5, 0)], [[]])[0][0].text
