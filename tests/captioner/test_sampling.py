import itertools
from collections import Counter

import pytest
import torch

from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.model import ABLATIONS
from glied.captioner.token_selection import random_streams, sample_words
from glied.errors import UsageError
from glied.text.vocabulary import BOS, EOS, PAD, UNK
from tests.captioner import plain_decoder as plain
from tests.flat_settings import flat

VARIANTS = [{"architecture": "base"}, {}, *({name: True} for name in ABLATIONS)]
OPTIONS = [
    {},
    {"temperature": 0.6},
    {"top_k": 3},
    {"top_p": 0.7},
    {"top_k": 6, "top_p": 0.8, "temperature": 1.5},
    {"min_length": 5, "block_ngrams": 2, "suppress": ("six",)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equals_the_plain_sampler(make_model, make_inputs, variant, options):
    config = flat(DecodingConfig, method="sample", n_best=3, max_length=7, **options)
    model = make_model(vocabulary_size=12, sharp=2.0, **variant)
    inputs = make_inputs(batch=4, vocabulary_size=12)
    suppressed = [6] if config.suppress else []
    found = decode(model, model.encode(*inputs), config, suppressed=suppressed, seeds=[7, 8, 9, 7])
    for row, seed in enumerate((7, 8, 9, 7)):
        expected = plain.sample(model, inputs, row, config, seed, suppressed)
        assert [one.tokens for one in found[row]] == [one.tokens for one in expected]
        for one in found[row]:
            again = plain.recompute(model, inputs, row, one.tokens, one.finished)
            assert one.log_probability == pytest.approx(again, abs=1e-4)


def test_seeds(make_model, make_inputs):
    model, inputs = make_model(), make_inputs(batch=3)
    memory = model.encode(*inputs)
    settings = {"method": "sample", "n_best": 2, "max_length": 6}

    def words(seeds=None, **options):
        found = decode(model, memory, flat(DecodingConfig, **settings | options), seeds=seeds)
        return [[one.tokens for one in captions] for captions in found]

    assert words([1, 2, 3]) == words([1, 2, 3]) != words([1, 2, 4])
    assert words([1, 2, 3])[:2] == words([1, 2, 4])[:2]
    assert words() == words([0, 0, 0]) == words(seed=0) != words(seed=1)
    assert words(torch.Generator().manual_seed(5)) == words(torch.Generator().manual_seed(5))
    assert words(torch.Generator().manual_seed(5)) != words(torch.Generator().manual_seed(6))
    with pytest.raises(UsageError, match="seeds"):
        words([1])


def test_frequencies_of_samples_equal_their_probabilities(make_model, make_inputs):
    model, inputs = make_model(vocabulary_size=7), make_inputs(batch=1, vocabulary_size=7)
    config = DecodingConfig(method="sample", n_best=4000, max_length=2, min_length=0)
    drawn = Counter(one.tokens for one in decode(model, model.encode(*inputs), config)[0])
    assert not {PAD, BOS, UNK, EOS} & {word for caption in drawn for word in caption}
    every = [caption for length in range(3) for caption in itertools.product((4, 5, 6), repeat=length)]
    # The probability of forbidden words is distributed among the others at each word.
    first, kept = plain.next_words(model, plain.pick(inputs, 0), ()).exp(), [EOS, 4, 5, 6]
    for caption in every:
        expected = first[EOS] / first[kept].sum()
        if caption:
            second = plain.next_words(model, plain.pick(inputs, 0), caption[:1]).exp()
            last = caption[1] if len(caption) == 2 else EOS
            expected = first[caption[0]] / first[kept].sum() * second[last] / second[kept].sum()
        assert drawn[caption] / 4000 == pytest.approx(float(expected), abs=0.03)


def test_truncation_keeps_the_most_probable():
    log_probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().view(1, 1, 4)[..., [2, 0, 3, 1]]
    uniform = torch.linspace(0, 1, 100)[:-1].view(1, -1)
    table = log_probabilities.expand(1, 99, 4)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}

    def words(**changed):
        return set(sample_words(table, uniform, **options | changed).flatten().tolist())

    assert words() == {0, 1, 2, 3}
    assert words(top_k=2) == {1, 3}
    assert words(top_p=0.79) == {1, 3}
    assert words(top_p=0.81) == {0, 1, 3}
    assert words(top_p=0.4) == words(top_k=1) == words(temperature=1e-3) == {1}


def test_words_of_zero_probability_are_never_drawn():
    table = torch.full((1, 2, 5000), -torch.inf)
    table[..., 100:4900] = torch.randn(4800).log_softmax(0)
    drawn = sample_words(table, torch.tensor([[0.0, 1 - 2**-24]]), temperature=1.0, top_k=0, top_p=1.0)
    assert drawn.tolist() == [[100, 4899]]


def test_random_streams_depend_on_the_seed():
    numbers = random_streams([3, 4, 3], 2, 5)
    assert numbers.shape == (3, 2, 5)
    assert (numbers[0] == numbers[2]).all()
    assert (numbers[0] != numbers[1]).any()
    assert ((numbers >= 0) & (numbers < 1)).all()
