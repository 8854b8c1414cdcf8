import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch

from glied.captioner.config import DecodingConfig
from glied.captioner.engines.coca import CocaEngine
from glied.captioner.engines.coca_model import END
from glied.captioner.engines.config import CocaConfig
from glied.clip.model import OpenedClip, build_clip, save_clip
from glied.errors import UsageError
from tests.captioner.engines.coca_models import CONFIG, tiny_coca
from tests.flat_settings import flat

BEAMS = DecodingConfig(beam_size=3, n_best=3, max_length=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint in the format of open_clip's models on the Hub."""
    path = tmp_path_factory.mktemp("coca")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    safetensors.torch.save_file(tiny_coca().state_dict(), path / "open_clip_model.safetensors")
    return str(path)


@pytest.fixture(scope="module")
def engine(folder):
    return CocaEngine.load(CocaConfig(checkpoint=folder), BEAMS)


def pictures(count=5):
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (40 + 8 * (n % 5), 60, 3), dtype=np.uint8) for n in range(count)]


def texts(found):
    return [[one.text for one in captions] for captions in found]


def test_an_image_has_its_best_captions_with_log_probabilities(engine):
    for captions in engine.caption(pictures()):
        assert len(captions) == 3
        assert len({one.text for one in captions}) == 3
        assert all(one.log_probability < 0 and one.text == one.text.strip() for one in captions)
        assert all(one.truncated for one in captions)  # random weights do not end after six tokens


def test_a_caption_is_the_same_alone_shuffled_and_in_a_batch(engine):
    images = pictures(32)
    order = np.random.default_rng(1).permutation(32)
    together = texts(engine.caption(images))
    assert [together[n] for n in order] == texts(engine.caption([images[n] for n in order]))
    assert together == [texts(engine.caption([image]))[0] for image in images]


def test_the_text_equals_open_clip_without_spaces_before_punctuation(engine):
    tokens = open_clip.SimpleTokenizer().encode("a man's dog, on the grass.")
    assert engine._text(tokens) == "a man's dog, on the grass."


def test_a_checkpoint_of_our_own_gives_the_same_captions(engine, tmp_path):
    model = tiny_coca()
    open_clip.set_model_preprocess_cfg(model, open_clip.get_model_preprocess_cfg(build_clip(CONFIG)))
    save_clip(str(tmp_path), model, CONFIG, half=False)
    for config in (
        CocaConfig(checkpoint=str(tmp_path)),
        CocaConfig(model="coca_ViT-L-14", weights=str(tmp_path)),  # the folder says its architecture
    ):
        own = CocaEngine.load(config, BEAMS)
        assert own.fingerprint == engine.fingerprint
        assert own.caption(pictures(2)) == engine.caption(pictures(2))


@pytest.mark.parametrize("name", ["coca.pt", "coca.bin", "coca.safetensors"])
def test_an_architecture_by_name_with_a_file_or_a_published_tag(engine, tmp_path, monkeypatch, name):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "coca_tiny", CONFIG)
    file = tmp_path / name
    save = safetensors.torch.save_file if file.suffix == ".safetensors" else torch.save
    save(tiny_coca().state_dict(), file)
    by_file = CocaEngine.load(CocaConfig(model="coca_tiny", weights=str(file)), BEAMS)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "coca_tiny", {"ours": {"file": str(file)}})
    by_tag = CocaEngine.load(CocaConfig(model="coca_tiny", weights="ours"), BEAMS)
    assert by_file.caption(pictures(2)) == by_tag.caption(pictures(2)) == engine.caption(pictures(2))


def test_tokens_whose_rows_were_not_stored_never_occur(tmp_path):
    known = open_clip.SimpleTokenizer().encode("a red kite over the sea")  # and those of the prompt
    save_clip(str(tmp_path), tiny_coca(), CONFIG, half=False, used_tokens=known)
    engine = CocaEngine.load(CocaConfig(checkpoint=str(tmp_path)), BEAMS)
    words = {word for row in texts(engine.caption(pictures())) for text in row for word in text.split()}
    assert words <= {"a", "red", "kite", "over", "the", "sea", "photo", "depicts"}


def test_the_fingerprint_depends_on_weights_and_precision_but_not_on_the_device(engine, folder):
    half = CocaEngine.load(CocaConfig(checkpoint=folder, dtype="bfloat16"), BEAMS)
    assert half.fingerprint == engine.fingerprint | {"dtype": "bfloat16"}
    assert half.caption(pictures(1))[0][0].text
    assert engine.name == f"coca-{engine.fingerprint['weights'][:12]}"


def eager(word):
    """Make a CoCa that generates only `word`."""
    model = tiny_coca()
    with torch.no_grad():
        model.text_decoder.ln_final.weight.zero_()
        model.text_decoder.ln_final.bias.fill_(1)
        model.text_decoder.text_projection[:, word] = 100
    return OpenedClip(model, CONFIG, None)


def test_suppressed_words():
    (dog,) = open_clip.SimpleTokenizer().encode("dog")
    config = CocaConfig(model="coca", allow_random=True)
    options = {"beam_size": 1, "max_length": 2}
    (one,) = CocaEngine(eager(dog), config, flat(DecodingConfig, **options)).caption(pictures(1))[0]
    assert one.text == "dog dog"
    without = flat(DecodingConfig, **options, suppress=("dog",))
    (one,) = CocaEngine(eager(dog), config, without).caption(pictures(1))[0]
    assert "dog" not in one.text.split()
    with pytest.raises(UsageError, match=r"'hippopotamuses' is \d tokens"):
        CocaEngine(eager(dog), config, DecodingConfig(suppress=("hippopotamuses",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either checkpoint or model .* local folder"),
        ({"model": "coca_ViT-B-32", "checkpoint": "folder"}, "either checkpoint or model .* local folder"),
        ({"model": "coca_ViT-B-32"}, "needs a published tag"),
        ({"checkpoint": "folder", "weights": "tag"}, "belongs to captioner.model"),
    ],
)
def test_configs_without_one_set_of_weights_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        CocaConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ViT-B-32", "allow_random": True}, "is a CLIP, which writes no captions"),
        ({"model": "coca_ViT-B-33", "weights": "tag"}, "similar ones: coca_ViT-B-32"),
        ({"model": "coca_ViT-B-32", "weights": "missing.pt"}, "neither a file nor a published tag"),
        ({"checkpoint": "nowhere"}, "no checkpoint in nowhere"),
        ({"model": "coca_ViT-B-32", "weights": "tests"}, "no checkpoint in tests"),
    ],
)
def test_other_models_are_refused_in_one_line(options, message):
    with pytest.raises(UsageError, match=message):
        CocaEngine.load(CocaConfig(**options), BEAMS)


def test_more_tokens_than_positions_are_refused_at_once(folder):
    with pytest.raises(UsageError, match="max_length: 30"):
        CocaEngine.load(CocaConfig(checkpoint=folder), DecodingConfig(max_length=30))


def test_the_end_token_ends_a_caption():
    config = CocaConfig(model="coca", allow_random=True)
    engine = CocaEngine(eager(END), config, DecodingConfig(beam_size=1, min_length=2))
    (one,) = engine.caption(pictures(1))[0]
    assert not one.truncated
    assert one.text
    assert "end" not in one.text
