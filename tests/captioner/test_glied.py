import pytest
import torch
from torch.nn import functional as F

from glied.captioner.architectures import build_model
from glied.captioner.model import ABLATIONS, CaptionerConfig
from glied.errors import UsageError
from tests.captioner import plain_decoder as plain
from tests.flat_settings import flat

BLOCKS = [
    {"blocks": 2, "architecture": "base"},
    {"blocks": 3},
    {"blocks": 2, "shared": True},
    {"blocks": 2, "no_pivot": True},
    {"blocks": 2, "attributes_only": True},
    {"blocks": 2, "region_layers": 3},
    {"region_layers": 2, "no_pivot": True},
]
VARIANTS = [{"architecture": "base"}, {}, *({name: True} for name in ABLATIONS), *BLOCKS]


def describe(options):
    return "-".join(f"{key}={value}" for key, value in options.items()) or "glied"


def straight_line(model, regions, attributes, tokens):
    """Compute the equations of the paper for one image and caption at a time, with the weights of `model`."""
    config, off = model.config, model.config.ablation
    heads = config.heads

    def H(name, q, k, mask=None):
        part = model.attentions[name]
        split = lambda y: y.view(len(y), heads, -1).transpose(0, 1)[None]  # noqa: E731
        q, v, k = split(part.query(q)), split(part.value(k)), split(part.key(k))
        y = F.scaled_dot_product_attention(q, k, v, mask)[0].transpose(0, 1).flatten(1)
        return part.output(y)

    def G(name, y, s):
        return model.wraps[name].norm(s + y)

    def block(b, x):
        if config.architecture == "base":
            x = G(f"x{b}", H(f"H_x{b}", x, x, causal), x)
            return G(f"v{b}", H(f"H_v{b}", x, image) + H(f"H_a{b}", x, a), x)
        t = x
        if not (off.no_attribute_distilling or off.no_pivot or off.vision_only):
            t = G(f"ad{b}", H(f"H_ad{b}", x, a), x)
        x = G(f"x{b}", H(f"H_x{b}", t, t, causal), t)
        if off.no_pivot:
            c = G(f"v{b}", H(f"H_v{b}", x, distilled) + H(f"H_a{b}", x, among), x)
        elif off.attributes_only:
            c = x
        else:
            c = G(f"v{b}", H(f"H_v{b}", x, distilled), x)
        if off.vision_only:
            return G(f"l{b}", H(f"H_vl{b}", c, image), c)
        if off.attributes_only:
            return G(f"l{b}", H(f"H_al{b}", c, a), c)
        if off.no_local_distilling:
            return c
        return G(f"l{b}", H(f"H_vl{b}", c, image) + H(f"H_al{b}", c, a), c)

    rows = []
    for i in range(len(tokens)):
        features = model.region_norm(regions.features[i])
        if config.geometry:
            scale = regions.sizes[i].repeat(2)
            box = regions.boxes[i] / scale
            features = torch.cat(
                (features, box, ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))[:, None]), 1
            )
        image = model.region_projection(features)
        a = model.embedding(attributes[i]) * config.width**0.5
        length = tokens.shape[1]
        x = model.embedding(tokens[i]) * config.width**0.5
        place = torch.arange(length)[:, None] / 10_000 ** (torch.arange(config.width) // 2 * 2 / config.width)
        x = x + torch.where(torch.arange(config.width) % 2 == 0, place.sin(), place.cos())
        causal = torch.ones(length, length).tril().bool()
        distilled, among = image, a
        if "H_vd" in model.attentions:
            for layer in [f"vd_{number}" for number in range(1, config.stack.region_layers)] + ["vd"]:
                distilled = G(layer, H(f"H_{layer}", distilled, distilled), distilled)
        if off.no_pivot:
            among = G("ad", H("H_ad", a, a), a)
        for number in range(1, config.stack.blocks + 1):
            x = block("" if config.stack.shared or number == config.stack.blocks else f"_{number}", x)
        rows.append(x @ model.classifier.weight.T)
    return torch.stack(rows)


@pytest.mark.parametrize("options", [*VARIANTS, {"geometry": True}, {"tied": True}], ids=describe)
def test_equations(make_model, make_inputs, options):
    model, inputs = make_model(**options), make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    expected = straight_line(model, inputs[0], inputs[1], tokens)
    torch.testing.assert_close(model(*inputs, tokens), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [*VARIANTS, {"geometry": True, "feed_forward": 24}], ids=describe)
def test_step_equals_teacher_forcing(make_model, make_inputs, options):
    model, inputs = make_model(**options), make_inputs()
    tokens = torch.randint(4, 30, (3, 2, 7))
    memory = model.encode(*inputs)
    expected = model.logits(memory, tokens)
    cache = model.start(3, 2, 7)
    stepped = torch.stack([model.step(memory, tokens[:, :, t], cache) for t in range(7)], dim=2)
    torch.testing.assert_close(stepped, expected, atol=1e-5, rtol=1e-5)


def test_captions_of_an_image_are_independent(make_model, make_inputs):
    model, inputs = make_model(), make_inputs()
    tokens = torch.randint(4, 30, (3, 5, 7))
    together = model(*inputs, tokens)
    for caption in range(5):
        torch.testing.assert_close(
            together[:, caption], model(*inputs, tokens[:, caption]), atol=1e-5, rtol=1e-5
        )
    where = torch.arange(7) < torch.randint(1, 8, (3, 5, 1))
    torch.testing.assert_close(model(*inputs, tokens, where), together[where])


@pytest.mark.parametrize("options", VARIANTS, ids=describe)
def test_padding_changes_nothing(make_model, make_inputs, options):
    model = make_model(geometry=True, **options)
    regions, ids, mask = make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    expected = model(regions, ids, mask, tokens)
    for junk in (0, 9):
        result = model(plain.padded(regions), F.pad(ids, (0, 3), value=junk), F.pad(mask, (0, 3)), tokens)
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-5)
    model(plain.padded(regions), F.pad(ids, (0, 3)), F.pad(mask, (0, 3)), tokens).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("options", VARIANTS, ids=describe)
def test_without_attributes_their_attention_is_zero(make_model, make_inputs, options):
    model = make_model(**options)
    regions, ids, mask = make_inputs()
    tokens = torch.randint(4, 30, (3, 7))
    mask[1] = False
    some = model(regions, ids, mask, tokens)
    none = model(regions, ids[:, :0], mask[:, :0], tokens)
    assert some.isfinite().all()
    torch.testing.assert_close(some[1], none[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(some[0], model(*make_inputs(), tokens)[0], atol=1e-6, rtol=1e-5)
    if "H_a" in model.attentions:
        trace = {}
        memory = model.encode(regions, ids, mask)
        y = model.attentions["H_a"](torch.randn(3, 16), memory.sources["H_a"], trace, "H_a")
        assert (y[1] == 0).all()


@pytest.mark.parametrize("options", VARIANTS, ids=describe)
def test_trace_has_every_attention(make_model, make_inputs, options):
    model, inputs = make_model(**options), make_inputs()
    inputs[0].mask[0, 4:] = False
    tokens = torch.randint(4, 30, (3, 2, 7))
    trace = {}
    memory = model.encode(*inputs, trace)
    traced = model.logits(memory, tokens, trace=trace)
    torch.testing.assert_close(traced, model(*inputs, tokens), atol=1e-5, rtol=1e-5)
    assert trace.keys() == set(model.attentions.keys())
    for weights in trace.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    if "H_v" in trace:
        assert trace["H_v"].shape == (3, 4, 2, 7, 6)
        assert (trace["H_v"][0, ..., 4:] == 0).all()


def test_captions_longer_than_the_position_table(make_model, make_inputs):
    model = make_model()
    assert model(*make_inputs(), torch.full((3, 100), 5)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "base", "glied"),
    [({}, 13.9, 17.1), ({"tied": True}, 9.1, 12.2), ({"tied": True, "feed_forward": 1024}, 12.2, 18.5)],
    ids=["untied", "tied", "tied-feed-forward"],
)
def test_parameters_of_the_paper_sizes(options, base, glied):
    for architecture, expected in (("base", base), ("glied", glied)):
        config = CaptionerConfig(architecture=architecture, **options)
        with torch.device("meta"):
            model = build_model(config, feature_size=2048, vocabulary_size=9488)
        count = sum({id(p): p.numel() for p in model.parameters()}.values())
        assert count / 1e6 == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"width": 30}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"feed_forward": -1}, "feed_forward"),
        ({"architecture": "base", "no_pivot": True}, "no_pivot"),
        ({"vision_only": True, "attributes_only": True}, "vision_only"),
        ({"blocks": 0}, "blocks"),
        ({"architecture": "ct", "blocks": 2}, "stack.blocks"),
        ({"architecture": "base", "region_layers": 2}, "stack.region_layers"),
        ({"region_layers": 2, "no_visual_distilling": True}, "stack.region_layers"),
    ],
)
def test_config_refuses(options, key):
    with pytest.raises(UsageError, match=key):
        flat(CaptionerConfig, **options)


def test_gradients_in_bfloat16_are_close_to_float32(make_model, make_inputs):
    regions, attributes, mask = make_inputs()
    tokens = torch.randint(4, 30, (3, 2, 7), generator=torch.Generator().manual_seed(0))
    real = torch.arange(7) < torch.tensor([[7, 4], [5, 7], [2, 6]])[..., None]
    found = []
    for half in (False, True):
        model = make_model().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(regions, attributes, mask, tokens, real)
        logits.float().square().mean().backward()
        found.append((logits.float(), model.attentions["H_v"].query.weight.grad, model.embedding.weight.grad))
    for exact, half in zip(*found, strict=True):
        assert (exact - half).norm() < 0.05 * exact.norm()
        assert exact.norm() > 0
