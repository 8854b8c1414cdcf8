import itertools

import pytest
import torch

from glied.captioner.config import DecodingConfig
from glied.captioner.decode import decode
from glied.captioner.engines.coca_model import END, PADDING, START, CocaDecoder
from glied.captioner.inference import freeze
from glied.errors import UsageError
from tests.captioner.engines.coca_models import tiny_coca
from tests.flat_settings import flat


@pytest.fixture(scope="module")
def coca():
    return tiny_coca()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def forward(coca, image, tokens):
    """Return open_clip's logits of the token after each of `tokens`, [T, V]."""
    _, image_tokens = coca._encode_image(image[None])
    # Without a class token open_clip accepts only the full length.
    padding = [] if coca.text.cls_emb is not None else [PADDING] * (20 - len(tokens))
    _, text_tokens = coca._encode_text(torch.tensor([[*tokens, *padding]]))
    return coca.text_decoder(image_tokens, text_tokens)[0, : len(tokens)]


def memory_of(coca, decoder, images):
    with torch.no_grad():
        return decoder.encode(coca._encode_image(images)[1])


def recompute(coca, image, one):
    """Return the log-probability of a hypothesis by teacher forcing."""
    tokens = [START, *one.tokens, *([END] if one.finished else [])]
    table = forward(coca, image, tokens[:-1]).log_softmax(-1)
    return sum(table[place, token].item() for place, token in enumerate(tokens[1:]))


@pytest.mark.parametrize("embed_cls", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_steps_give_the_logits_of_open_clip(images, embed_cls, packed):
    coca = tiny_coca(embed_cls=embed_cls)
    decoder = CocaDecoder(coca).eval()
    decoder = freeze(decoder) if packed else decoder
    tokens = torch.randint(1, START, (3, 2, 7), generator=torch.Generator().manual_seed(2))
    tokens[:, :, 0] = START
    with torch.no_grad():
        memory, cache = memory_of(coca, decoder, images), decoder.start(3, 2, 7)
        found = torch.stack([decoder.step(memory, tokens[:, :, t], cache) for t in range(7)], dim=2)
    expected = torch.stack([forward(coca, images[n // 2], tokens[n // 2, n % 2].tolist()) for n in range(6)])
    torch.testing.assert_close(found.flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_greedy_is_the_best_token_of_open_clip_after_every_prefix(coca, images):
    decoder = CocaDecoder(coca)
    found = decode(decoder, memory_of(coca, decoder, images), DecodingConfig(beam_size=1, max_length=12))
    for image, (one,) in zip(images, found, strict=True):
        tokens = [START]
        for _ in range(12):
            logits = forward(coca, image, tokens)[-1]
            logits[[PADDING, START]] = -torch.inf
            tokens.append(logits.argmax().item())
            if tokens[-1] == END:
                break
        assert list(one.tokens) == [token for token in tokens[1:] if token != END]
        assert one.log_probability == pytest.approx(recompute(coca, image, one), abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 4, "n_best": 4},
        {"beam_size": 4, "n_best": 4, "block_ngrams": 2, "min_length": 3},
        {"method": "sample", "n_best": 3, "top_k": 50, "seed": 5},
        {"beam_size": 4, "n_best": 4, "groups": 2},
    ],
    ids=str,
)
def test_log_probabilities_equal_those_of_teacher_forcing(coca, images, options):
    config = flat(DecodingConfig, max_length=8, **options)
    decoder = CocaDecoder(coca)
    with torch.no_grad():  # random weights hardly ever end a caption
        coca.text_decoder.text_projection[:, END] *= 3
    found = decode(decoder, memory_of(coca, decoder, images), config)
    for image, captions in zip(images, found, strict=True):
        assert len(captions) == config.n_best
        for one in captions:
            assert not {PADDING, START, END} & set(one.tokens)
            assert one.log_probability == pytest.approx(recompute(coca, image, one), abs=1e-4)
    if config.blocked:
        pairs = [list(itertools.pairwise(one.tokens)) for captions in found for one in captions]
        assert all(len(pair) == len(set(pair)) for pair in pairs)


def test_captions_do_not_depend_on_the_batch(coca, images):
    decoder = CocaDecoder(coca)
    config = DecodingConfig(beam_size=3, max_length=8)
    together = decode(decoder, memory_of(coca, decoder, images), config)
    alone = [decode(decoder, memory_of(coca, decoder, image[None]), config)[0] for image in images]
    assert [[one.tokens for one in row] for row in together] == [[one.tokens for one in row] for row in alone]


def test_more_tokens_than_the_model_has_positions_are_refused(coca, images):
    decoder = CocaDecoder(coca)
    with pytest.raises(UsageError, match="max_length: 21, but this CoCa reads 20 tokens"):
        decode(decoder, memory_of(coca, decoder, images), DecodingConfig(max_length=21))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ({"no_causal_mask": True}, "looks at later tokens"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_text_towers_that_cannot_step_are_refused(text, reason):
    with pytest.raises(UsageError, match=reason):
        CocaDecoder(tiny_coca(**text))
