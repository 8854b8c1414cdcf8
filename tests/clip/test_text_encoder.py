import pytest
import torch

from glied.clip.model import build_clip
from glied.clip.text_encoder import has_text_tower, read_texts, text_width
from glied.clip.tokenizer import clip_tokenizer
from glied.errors import UsageError
from tests.clip.test_grammar_head import TINY

WORDS = ["a", "dog", "on", "the", "beach", "with", "two", "red", "kites", "in", "a", "blue", "sky"]
TEXTS = [" ".join(WORDS[: 1 + number % 12]) for number in range(70)]
FORMS = {
    "older": {},
    "custom": {"custom_text": True},
    "end token by its number": {"custom_text": True, "pool_type": "eos", "eos_id": 49407},
    "both ways": {"custom_text": True, "no_causal_mask": True},
    "last token": {"custom_text": True, "pool_type": "last"},
    "with bias": {"custom_text": True, "proj_bias": True},
}


def build(form: str) -> tuple[torch.nn.Module, dict]:
    settings = dict(FORMS[form])
    custom = {"custom_text": True} if settings.pop("custom_text", False) else {}
    architecture = TINY | custom | {"text_cfg": TINY["text_cfg"] | settings}
    torch.manual_seed(0)
    return build_clip(architecture).eval(), architecture["text_cfg"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 70])
@torch.no_grad()
def test_equals_open_clip(form: str, count: int) -> None:
    model, text_config = build(form)
    tokens = clip_tokenizer(text_config)(TEXTS[-count:])
    read = read_texts(model, tokens)
    torch.testing.assert_close(read.projected, model.encode_text(tokens), rtol=1e-4, atol=1e-5)
    assert read.words.shape == (count, 32, text_width(model))
    assert read.pooled.shape == (count, 24)


@torch.no_grad()
def test_nothing_is_computed_after_the_end_token() -> None:
    model, text_config = build("older")
    tokens = clip_tokenizer(text_config)(["a dog", "a dog on the beach"])
    words = read_texts(model, tokens).words
    assert not words[:, int(tokens[1].argmax()) + 1 :].any()
    assert words[0, : int(tokens[0].argmax()) + 1].any(dim=1).all()


def test_gradients_flow_to_every_token() -> None:
    model, text_config = build("older")
    tokens = clip_tokenizer(text_config)(TEXTS)
    read_texts(model, tokens).projected.sum().backward()
    used = torch.unique(tokens[tokens > 0])
    assert model.token_embedding.weight.grad[used].any(dim=1).all()


def test_other_text_encoders_are_refused() -> None:
    other = torch.nn.Linear(2, 2)
    assert not has_text_tower(other)
    with pytest.raises(UsageError, match="own text tower"):
        read_texts(other, torch.zeros(1, 4, dtype=torch.int64))
