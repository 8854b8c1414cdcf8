import pytest
import torch

from glied.captioner.inference import PackedLinear, can_pack, freeze
from glied.captioner.model import ABLATIONS

BLOCKS = [{"blocks": 2}, {"blocks": 2, "shared": True}]
VARIANTS = [{"architecture": "base"}, {}, *({name: True} for name in ABLATIONS), *BLOCKS]


@pytest.mark.parametrize("options", [*VARIANTS, {"tied": True, "feed_forward": 24}], ids=str)
def test_a_frozen_model_gives_the_same_logits(make_model, make_inputs, options):
    model, inputs = make_model(geometry=True, **options), make_inputs()
    inputs[2][1] = False
    tokens = torch.randint(4, 30, (3, 2, 7))
    frozen = freeze(model)
    with torch.inference_mode():
        torch.testing.assert_close(frozen(*inputs, tokens), model(*inputs, tokens), atol=1e-5, rtol=1e-5)
        memory = frozen.encode(*inputs)
        cache = frozen.start(3, 2, 7)
        stepped = [frozen.step(memory, tokens[:, :, t], cache) for t in range(7)]
    torch.testing.assert_close(torch.stack(stepped, dim=2), model(*inputs, tokens), atol=1e-5, rtol=1e-5)


def test_the_model_is_not_changed(make_model):
    model = make_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = freeze(model)
    assert model.training
    assert not frozen.training
    assert frozen.embedding.weight is model.embedding.weight
    assert model.tables is None
    assert model.state_dict().keys() == before.keys()
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_packs_on_a_cpu(make_model):
    weight = make_model().embedding.weight
    frozen = freeze(make_model())
    assert isinstance(frozen.classifier, PackedLinear) == can_pack(weight)
    assert not can_pack(weight.to("meta"))
    assert not can_pack(weight.double())


def test_without_packing(make_model, make_inputs, monkeypatch):
    monkeypatch.setattr("glied.captioner.inference.can_pack", lambda weight: False)
    model, inputs = make_model(), make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    frozen = freeze(model)
    assert not any(isinstance(module, PackedLinear) for module in frozen.modules())
    torch.testing.assert_close(frozen(*inputs, tokens), model(*inputs, tokens), atol=1e-5, rtol=1e-5)


def test_packed_layers_run_under_autocast(make_model, make_inputs):
    """SCST samples with a frozen model under the autocast of its step."""
    frozen, inputs = freeze(make_model()), make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    with torch.inference_mode():
        expected = frozen(*inputs, tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = frozen(*inputs, tokens)
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)
