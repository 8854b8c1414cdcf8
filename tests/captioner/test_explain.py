import json

import numpy as np
import pytest
import torch

from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.captioner.explain import Explanation
from glied.captioner.model import ABLATIONS
from glied.regions import RegionBatch
from glied.text.vocabulary import BOS, Vocabulary
from tests.captioner.test_captioner import make_regions

WORDS = Vocabulary([f"word{i}" for i in range(26)])
VARIANTS = [{"architecture": "base"}, {}, *({name: True} for name in ABLATIONS)]
ATTRIBUTES = [("word3", 0.9), ("unheard", 0.8), ("word5", 0.7), ("word6", 0.6)]
SIZES = {
    "regions_global": (3, 4, 5),
    "regions_local": (3, 4, 5),
    "attributes_global": (3, 4, 3),
    "attributes_local": (3, 4, 3),
    "groupings": (4, 5, 5),
    "collocations": (3, 4, 3),
    "attribute_groupings": (4, 3, 3),
}
PRESENT = {
    "base": {"regions_global", "attributes_global"},
    "glied": {"regions_global", "regions_local", "attributes_local", "groupings", "collocations"},
}
LACKING = {
    "no_visual_distilling": {"groupings"},
    "no_attribute_distilling": {"collocations"},
    "no_local_distilling": {"regions_local", "attributes_local"},
    "vision_only": {"collocations", "attributes_local"},
    "attributes_only": {"regions_global", "regions_local", "groupings"},
}


def expected_parts(options):
    parts = set(PRESENT[options.get("architecture", "glied")])
    if "no_pivot" in options:
        parts = parts - {"collocations"} | {"attributes_global", "attribute_groupings"}
    for name in options:
        parts -= LACKING.get(name, set())
    return parts


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_has_every_attention_of_the_model(make_model, options):
    captioner = Captioner(make_model(geometry=True, **options), WORDS)
    found = captioner.explain(make_regions(5, 0), ATTRIBUTES, "Word1 word25 unheard.")
    assert found.words == ["word1", "word25", "<unk>"]
    assert found.attributes == ["word3", "word5", "word6"]
    assert {name for name in SIZES if getattr(found, name) is not None} == expected_parts(options)
    for name in expected_parts(options):
        weights = getattr(found, name)
        assert weights.shape == SIZES[name]
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("attributes", [ATTRIBUTES, []], ids=["attributes", "none"])
def test_json_and_back(make_model, attributes):
    captioner = Captioner(make_model(), WORDS)
    found = captioner.explain(make_regions(5, 0), attributes, "word1 word2")
    again = Explanation.from_json(json.loads(json.dumps(found.to_json())))
    for name, value in vars(found).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
        else:
            assert getattr(again, name) == value


def test_weights_and_probabilities_equal_those_of_the_step(make_model):
    model = make_model(sharp=3.0)
    captioner, regions = Captioner(model, WORDS, decoding=DecodingConfig(max_length=6)), make_regions(5, 0)
    best = captioner.caption([regions], [ATTRIBUTES])[0][0]
    found = captioner.explain(regions, ATTRIBUTES, best.text)
    counted = found.log_probabilities[:6]  # a truncated caption has no end token
    assert counted.sum() == pytest.approx(best.log_probability, abs=1e-4)
    with torch.no_grad():
        ids = torch.tensor([WORDS.encode(found.attributes)])
        memory = model.encode(RegionBatch.collate([regions]), ids, torch.ones_like(ids, dtype=torch.bool))
        cache = model.start(1, 1, 6)
        for place, token in enumerate([BOS, *WORDS.encode(found.words)][:-1]):
            trace = {}
            model.step(memory, torch.tensor([[token]]), cache, trace)
            np.testing.assert_allclose(trace["H_v"][0, :, 0], found.regions_global[place], atol=1e-5)
            np.testing.assert_allclose(trace["H_al"][0, :, 0], found.attributes_local[place], atol=1e-5)
            np.testing.assert_allclose(trace["H_ad"][0, :, 0], found.collocations[place], atol=1e-5)
