import dataclasses
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from glied import checkpoint
from glied.clip.config import ClipConfig
from glied.clip.fingerprint import stored_fingerprint
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import ClipScorer, load_clip
from glied.clip.scores import clip_score, pad_references, ref_clip_score_metric, ref_clip_score_reward
from glied.clip.tokenizer import token_ids
from glied.errors import StorageError, UsageError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CAPTIONS = ["a dog on a beach", "two red kites over the sea", "a man", "Snow.", "a dog near a dog near a dog"]
END = 49407


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_clip(TINY, preprocess={"resize_mode": "squash"})


@pytest.fixture(scope="module")
def scorer(tiny) -> ClipScorer:
    return ClipScorer(tiny, TINY)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = [(40, 60), (32, 32), (97, 31), (20, 20), (64, 48)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    """Return unit vectors with cosines of 1, 0.6, -1 and 0 between image and text."""
    right, up = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    slanted = torch.tensor([0.6, 0.8])
    return {
        "image": torch.stack([right, right, right, up]),
        "text": torch.stack([right, slanted, -right, right]),
        "references": torch.stack([torch.stack(pair) for pair in [(up, right)] * 4]),
        "mask": torch.tensor([[True, True], [False, True], [True, True], [True, True]]),
    }


def straightforward(model: Any, images: list, texts: list[str], preprocess: dict) -> torch.Tensor:
    """Compute CLIP-S one by one with open_clip's transform, tokenizer and encoders."""
    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    scores = []
    for image, text in zip(images, texts, strict=True):
        with torch.inference_mode():
            a = model.encode_image(transform(Image.fromarray(image))[None])[0]
            b = model.encode_text(open_clip.tokenize(["A photo depicts " + text]))[0]
        scores.append(2.5 * max(float(a @ b / (a.norm() * b.norm())), 0.0))
    return torch.tensor(scores)


def best_cosine(model: Any, text: str, references: list[str]) -> float:
    """Return the cosine of a text and its nearest reference, with open_clip's tokenizer and encoder."""
    with torch.inference_mode():
        tokens = open_clip.tokenize(["A photo depicts " + one for one in (text, *references)])
        own, *others = (vector / vector.norm() for vector in model.encode_text(tokens))
    return max(float(own @ other) for other in others)


def random_file(folder: Path, name: str) -> Path:
    """Save random weights of the tiny config in the format of open_clip's training."""
    path = folder / name
    model = build_clip(TINY)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": model.state_dict()}, path)
    return path


@pytest.fixture
def tiny_architecture(monkeypatch) -> str:
    """Register the tiny config in open_clip under a new name, for this test only."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "glied-tiny", TINY)
    return "glied-tiny"


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_scores_equal_open_clip(images, mode):
    torch.manual_seed(1)
    model = build_clip(TINY, preprocess={"resize_mode": mode})
    scorer = ClipScorer(model, TINY)
    found = clip_score(scorer.encode_images(images), scorer.encode_texts(CAPTIONS))
    expected = straightforward(model, images, CAPTIONS, {"size": 32, "resize_mode": mode})
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found > 0).any()


def test_vectors_are_unit_float32(scorer, images):
    for vectors in (scorer.encode_images(images), scorer.encode_texts(CAPTIONS)):
        assert vectors.shape == (5, 16)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert scorer.encode_images([]).shape == (0, 16)
    assert scorer.encode_texts([]).shape == (0, 16)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batch_size_and_order_do_not_matter(tiny, scorer, images, batch_size):
    order = [3, 0, 4, 2, 1]
    other = ClipScorer(tiny, TINY, batch_size=batch_size)
    found = other.encode_images([images[i] for i in order]), other.encode_texts([CAPTIONS[i] for i in order])
    expected = scorer.encode_images(images)[order], scorer.encode_texts(CAPTIONS)[order]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_callers_precision_changes_nothing_and_is_restored(scorer, images):
    expected = scorer.encode_images(images), scorer.encode_texts(CAPTIONS)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = scorer.encode_images(images), scorer.encode_texts(CAPTIONS)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(map(torch.equal, found, expected))


def test_scores_are_differentiable(scorer, images):
    scores = clip_score(scorer.encode_images(images), scorer.encode_texts(CAPTIONS))
    log_probability = torch.full((5,), -1.0, requires_grad=True)
    (scores * log_probability).sum().backward()
    torch.testing.assert_close(log_probability.grad, scores)


def test_thin_images_are_cropped_before_they_are_resized(tiny, images):
    model = build_clip(TINY)
    model.load_state_dict(tiny.state_dict())
    cropping = ClipScorer(model, TINY)
    generator = np.random.default_rng(1)
    thin = generator.integers(0, 256, (65535, 2, 3), dtype=np.uint8)
    middle = thin[65535 // 2 - 40 : 65535 // 2 + 41]
    torch.testing.assert_close(cropping.encode_images([thin]), cropping.encode_images([middle]))
    sizes = []
    first, *rest = cropping.pixels._resize
    cropping.pixels._resize = [lambda image: sizes.append(image.size) or first(image), *rest]
    assert cropping.encode_images([thin, thin.transpose(1, 0, 2), thin[:5, :1]]).isfinite().all()
    assert sizes == [(2, 64), (64, 2), (1, 5)]


def test_prompt(tiny, scorer):
    plain = ClipScorer(tiny, TINY, prompt="")
    torch.testing.assert_close(plain.encode_texts(CAPTIONS), scorer.encode_texts(CAPTIONS, prompt=False))
    assert not torch.allclose(plain.encode_texts(CAPTIONS), scorer.encode_texts(CAPTIONS))
    written = scorer.encode_texts(["A photo depicts " + text for text in CAPTIONS], prompt=False)
    torch.testing.assert_close(written, scorer.encode_texts(CAPTIONS))
    unspaced = ClipScorer(tiny, TINY, prompt="A photo depicts")  # command lines lose trailing spaces
    assert torch.equal(unspaced.encode_texts(CAPTIONS), scorer.encode_texts(CAPTIONS))


def test_long_captions_keep_the_end_token(scorer):
    words = " ".join(f"dog {number % 10}" for number in range(200))
    tokens = scorer.tokenizer([words])
    assert tokens.shape == (1, 77)
    assert tokens[0, -1] == END
    cut = scorer.tokenizer.decode(tokens[0, 1:-1].tolist())
    found = scorer.encode_texts([words, cut], prompt=False)
    torch.testing.assert_close(found[0], found[1])


def test_configs_with_random_token_reduction_are_refused():
    config = {**TINY, "text_cfg": {**TINY["text_cfg"], "tokenizer_kwargs": {"reduction_mask": "shuffle"}}}
    scorer = ClipScorer(build_clip(config), config)
    words = " ".join(f"dog {number}" for number in range(100))
    assert torch.equal(scorer.tokenizer([words]), open_clip.tokenize([words]))


def test_clip_score_by_hand(rows):
    torch.testing.assert_close(clip_score(rows["image"], rows["text"]), torch.tensor([2.5, 1.5, 0, 0]))


def test_ref_clip_score_reward_by_hand(rows):
    # Nearest references: 1 (right), 0.6 (up is nearer, but padding), 0 (up), 1.
    found = ref_clip_score_reward(**rows)
    torch.testing.assert_close(found, torch.tensor([2.5, 1.5, 0, 0]))
    rows["text"][1] = torch.tensor([0.8, 0.6])
    rows["references"][1, 1] = torch.tensor([0.0, 1.0])
    # CLIP-S 2.0, references 2.5 * 0.6 = 1.5.
    torch.testing.assert_close(ref_clip_score_reward(**rows)[1], torch.tensor(2 * 2.0 * 1.5 / 3.5))


def test_ref_clip_score_metric_by_hand(rows):
    found = ref_clip_score_metric(**rows)
    expected = [2 * 2.5 * 1.0 / 3.5, 2 * 1.5 * 0.6 / 2.1, 0, 0]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("score", [ref_clip_score_reward, ref_clip_score_metric])
def test_without_references_the_score_is_zero(rows, score):
    masked = score(rows["image"], rows["text"], rows["references"], torch.zeros_like(rows["mask"]))
    assert masked.tolist() == [0, 0, 0, 0]
    none = score(rows["image"], rows["text"], rows["references"][:, :0], rows["mask"][:, :0])
    assert none.tolist() == [0, 0, 0, 0]


def test_padded_references_change_nothing(rows):
    rows["references"][~rows["mask"]] = float("nan")
    assert ref_clip_score_reward(**rows).isfinite().all()


def test_checkpoint_round_trip(tmp_path, tiny, scorer, images):
    save_clip(str(tmp_path), tiny, TINY, used_tokens=token_ids(CAPTIONS, TINY), seed=7)
    loaded = load_clip(ClipConfig(checkpoint=str(tmp_path)))
    for found, expected in [
        (loaded.encode_images(images), scorer.encode_images(images)),
        (loaded.encode_texts(CAPTIONS), scorer.encode_texts(CAPTIONS)),
    ]:
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-3)
    assert loaded.model.visual.preprocess_cfg["resize_mode"] == "squash"
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.float32}
    assert checkpoint.load(str(tmp_path)).metadata["seed"] == 7


def test_only_used_rows_are_stored(tmp_path, tiny):
    ids = token_ids(CAPTIONS, TINY)
    save_clip(str(tmp_path / "used"), tiny, TINY, used_tokens=ids)
    stored = checkpoint.load(str(tmp_path / "used")).tensors
    assert stored["used_tokens"].tolist() == ids
    assert stored["token_embedding.weight"].shape == (len(ids), 32)
    others = sum(t.numel() for name, t in tiny.state_dict().items() if name != "token_embedding.weight")
    file = tmp_path / "used" / checkpoint.TENSORS
    assert file.stat().st_size == pytest.approx(2 * (others + 32 * len(ids)), abs=8192)
    table = load_clip(ClipConfig(checkpoint=str(tmp_path / "used"))).model.token_embedding.weight
    assert table.shape == (49408, 32)
    assert (table.abs().sum(dim=1) > 0).nonzero().flatten().tolist() == ids


def test_full_precision_and_whole_table(tmp_path, tiny, scorer, images):
    save_clip(str(tmp_path), tiny, TINY, half=False)
    loaded = load_clip(ClipConfig(checkpoint=str(tmp_path)))
    assert torch.equal(loaded.encode_images(images), scorer.encode_images(images))
    assert loaded.unknown_words(["zebra giraffe"]) == []
    assert loaded.fingerprint == scorer.fingerprint


def test_unknown_words_are_refused_by_name(tmp_path, tiny):
    save_clip(str(tmp_path), tiny, TINY, used_tokens=token_ids(CAPTIONS, TINY))
    loaded = load_clip(ClipConfig(checkpoint=str(tmp_path)))
    assert loaded.unknown_words([*CAPTIONS, "a zebra and a giraffe", "the zebra"]) == [
        "zebra",
        "and",
        "giraffe",
    ]
    with pytest.raises(UsageError, match=r"zebra, giraffe"):
        loaded.encode_texts(["a dog", "a zebra near a giraffe"])
    assert loaded.encode_texts(["red dog over the sea", ""]).isfinite().all()


def test_known_parts_of_texts_have_scores(tmp_path, tiny, scorer):
    save_clip(str(tmp_path), tiny, TINY, used_tokens=token_ids(CAPTIONS, TINY))
    loaded = load_clip(ClipConfig(checkpoint=str(tmp_path)))
    texts = ["a zebra  near a giraffe dog", "two red kites", "zebra giraffe", ""]
    assert loaded.known_parts(texts) == ["a near a dog", "two red kites", "", ""]
    assert loaded.known_parts(["two  red kites"]) == ["two red kites"]
    assert scorer.known_parts(texts) == texts  # of a whole token table
    assert loaded.encode_texts(loaded.known_parts(texts)).isfinite().all()


@pytest.mark.parametrize("space", ["\x85", "\u2028", "\x1c", "\xa0"])
def test_white_space_of_any_kind_is_no_unknown_word(tmp_path, tiny, space):
    """The tokenizer reads U+0085 as an ellipsis, str.split as white space."""
    save_clip(str(tmp_path), tiny, TINY, used_tokens=token_ids(CAPTIONS, TINY))
    loaded = load_clip(ClipConfig(checkpoint=str(tmp_path)))
    texts = [f"a dog{space}", f"a{space} {space}dog"]
    expected = loaded.encode_texts(["a dog"] * 2)
    assert torch.equal(loaded.encode_texts(texts), expected)
    assert torch.equal(loaded.encode_texts(loaded.known_parts(texts)), expected)


def test_a_prompt_with_unknown_words_is_refused(tmp_path, tiny):
    save_clip(str(tmp_path / "used"), tiny, TINY, used_tokens=token_ids(CAPTIONS, TINY))
    save_clip(str(tmp_path / "whole"), tiny, TINY)
    config = ClipConfig(checkpoint=str(tmp_path / "used"), prompt="A photo shows a")
    assert stored_fingerprint(config) is None  # the driver loads the model
    with pytest.raises(UsageError, match=r"clip\.prompt: this CLIP does not know these words: shows;"):
        load_clip(config)
    known = dataclasses.replace(config, prompt="two kites near")
    assert load_clip(known).prompt == "two kites near"
    whole = dataclasses.replace(config, checkpoint=str(tmp_path / "whole"))
    assert stored_fingerprint(whole) == load_clip(whole).fingerprint


@pytest.mark.parametrize(
    ("text", "used", "half"), [(False, True, True), (True, True, False), (False, False, True)]
)
def test_files_tell_the_fingerprint_of_the_loaded_model(tmp_path, text, used, half):
    torch.manual_seed(1)
    architecture = TINY | {"custom_text": True} if text else TINY
    tokens = token_ids(CAPTIONS, architecture) if used else None
    save_clip(str(tmp_path), build_clip(architecture), architecture, used_tokens=tokens, half=half)
    for prompt in ("A photo depicts ", ""):
        config = ClipConfig(checkpoint=str(tmp_path), prompt=prompt)
        assert stored_fingerprint(config) == load_clip(config).fingerprint


def test_where_files_do_not_tell_the_fingerprint(tmp_path, tiny):
    assert stored_fingerprint(ClipConfig(model="RN50", allow_random=True)) is None
    checkpoint.save(str(tmp_path / "other"), {"a": torch.zeros(1)}, {"kind": "attributes"})
    assert stored_fingerprint(ClipConfig(checkpoint=str(tmp_path / "other"))) is None
    save_clip(str(tmp_path / "broken"), tiny, TINY)
    tensors = tmp_path / "broken" / checkpoint.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-10])
    assert stored_fingerprint(ClipConfig(checkpoint=str(tmp_path / "broken"))) is None
    with pytest.raises(UsageError, match="no checkpoint in"):
        stored_fingerprint(ClipConfig(checkpoint=str(tmp_path / "none")))


def test_token_ids_are_padded_to_the_full_length():
    ids = token_ids(["dog " * 100 + "zebra"], TINY)
    assert ids == sorted(open_clip.tokenize(["A photo depicts dog zebra"]).unique().tolist())


def test_custom_text_tower(tmp_path, images):
    config = {**TINY, "custom_text": True}
    model = build_clip(config)
    expected = ClipScorer(model, config).encode_texts(CAPTIONS)
    save_clip(str(tmp_path), model, config, used_tokens=token_ids(CAPTIONS, config), half=False)
    found = load_clip(ClipConfig(checkpoint=str(tmp_path))).encode_texts(CAPTIONS)
    torch.testing.assert_close(found, expected)


def test_fingerprint_has_all_relevant_settings(tiny, scorer):
    assert scorer.fingerprint == ClipScorer(tiny, TINY, batch_size=2).fingerprint
    assert scorer.fingerprint != ClipScorer(tiny, TINY, prompt="").fingerprint
    other = build_clip(TINY, preprocess={"resize_mode": "squash"})
    changed = ClipScorer(other, TINY).fingerprint
    assert {key for key in changed if changed[key] != scorer.fingerprint[key]} == {"weights"}
    assert set(changed) == {"model_config", "preprocess", "weights", "prompt"}


@pytest.mark.parametrize("name", ["clip.safetensors", "clip.pt"])
def test_local_weights(tmp_path, images, tiny_architecture, name):
    path = random_file(tmp_path, name)
    scorer = load_clip(ClipConfig(model=tiny_architecture, weights=str(path)))
    tensors = open_clip.factory.load_state_dict(str(path))
    assert all(torch.equal(tensors[key], value) for key, value in scorer.model.state_dict().items())
    expected = straightforward(scorer.model, images, CAPTIONS, {"size": 32})
    found = clip_score(scorer.encode_images(images), scorer.encode_texts(CAPTIONS))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_published_weights_bring_preprocessing_and_activation(tmp_path, monkeypatch, tiny_architecture):
    path = random_file(tmp_path, "clip.safetensors")
    tags = {
        "ours": {"file": str(path), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "quick_gelu": True},
        "other": {"url": "", "hf_hub": "nowhere/nothing/", "mean": (0.4, 0.4, 0.4)},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, tiny_architecture, tags)
    scorer = load_clip(ClipConfig(model=tiny_architecture, weights="ours"))
    assert scorer.fingerprint["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert "QuickGELU" in str(scorer.model)
    local = ClipConfig(model=tiny_architecture, weights=str(path), weights_tag="ours")
    assert load_clip(local).fingerprint == scorer.fingerprint
    with pytest.raises(UsageError, match=r"weights_tag.*ours, other"):
        load_clip(dataclasses.replace(local, weights_tag=""))

    def offline(published):
        raise OSError("no internet")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(StorageError, match=r"other of glied-tiny: no internet; .*weights_tag"):
        load_clip(ClipConfig(model=tiny_architecture, weights="other"))


def test_openai_tag_has_its_activation():
    # The activation of the reference ViT-B/32; open_clip's plain name has a different one.
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"]
    assert not open_clip.get_model_config("ViT-B-32").get("quick_gelu")


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_are_refused(tmp_path, tiny_architecture):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil(tmp_path / "ran")}))
    torch.save({"weight": Evil(tmp_path / "ran")}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(UsageError, match="they can run code"):
            load_clip(ClipConfig(model=tiny_architecture, weights=str(tmp_path / name)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_real_architecture_and_no_global_state(images):
    root = logging.getLogger()
    handlers, names = list(root.handlers), open_clip.list_models()
    generator = torch.get_rng_state()
    scorer = load_clip(ClipConfig(model="ViT-B-32", allow_random=True, batch_size=2))
    vectors, texts = scorer.encode_images(images[:3]), scorer.encode_texts(CAPTIONS[:3])
    assert torch.equal(torch.get_rng_state(), generator)
    assert root.handlers == handlers
    assert open_clip.list_models() == names
    expected = straightforward(scorer.model, images[:3], CAPTIONS[:3], {"size": 224})
    assert (expected > 0).any()
    torch.testing.assert_close(clip_score(vectors, texts), expected, rtol=1e-5, atol=1e-6)

    references = [CAPTIONS[3:], CAPTIONS[1:2], CAPTIONS[:3]]  # seconds per image
    padded, mask = pad_references([scorer.encode_texts(own) for own in references])
    cosines = [best_cosine(scorer.model, *pair) for pair in zip(CAPTIONS[:3], references, strict=True)]
    for score, weight in ((ref_clip_score_reward, 2.5), (ref_clip_score_metric, 1.0)):
        nearest = weight * torch.tensor(cosines).clamp(min=0)
        harmonic = 2 * expected * nearest / (expected + nearest).clamp(min=1e-30)
        found = score(vectors, texts, padded, mask)
        torch.testing.assert_close(found, harmonic, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either checkpoint"),
        ({"model": "ViT-B-32", "checkpoint": "x", "allow_random": True}, "either checkpoint"),
        ({"checkpoint": "x", "weights": "openai"}, "belong to an architecture"),
        ({"model": "vit-b32", "weights": "openai"}, r"'vit-b32' is not .*ViT-B-32"),
        ({"model": "ViT-B-32"}, r"ViT-B-32 needs weights: the tags openai, "),
        ({"model": "RN50", "weights": "x.pt", "weights_tag": "laion2b"}, r"weights_tag 'laion2b': RN50 has"),
        ({"checkpoint": "x", "batch_size": 0}, "batch_size 0"),
    ],
)
def test_bad_configs_name_the_key(given, message):
    with pytest.raises(UsageError, match=message):
        ClipConfig(**given)


def test_devices_are_checked_when_the_model_is_loaded(tmp_path, tiny):
    save_clip(str(tmp_path), tiny, TINY)
    with pytest.raises(UsageError, match="device 'gpu7' is not a torch device"):
        load_clip(ClipConfig(checkpoint=str(tmp_path), device="gpu7"))


def test_missing_and_wrong_files(tmp_path, tiny_architecture):
    with pytest.raises(UsageError, match=r"neither a file nor a published tag of .*no published tags"):
        load_clip(ClipConfig(model=tiny_architecture, weights="missing.pt"))
    with pytest.raises(
        UsageError, match=r"nor a published tag of RN50, which has the tags openai, yfcc15m, cc12m"
    ):
        load_clip(ClipConfig(model="RN50", weights="opnai"))
    with pytest.raises(UsageError, match="no checkpoint in"):
        load_clip(ClipConfig(checkpoint=str(tmp_path)))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="do not fit glied-tiny"):
        load_clip(ClipConfig(model=tiny_architecture, weights=str(tmp_path / "other.safetensors")))
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(UsageError, match="neither safetensors"):
        load_clip(ClipConfig(model=tiny_architecture, weights=str(tmp_path / "broken.safetensors")))


def test_other_checkpoints_are_refused(tmp_path, tiny):
    checkpoint.save(str(tmp_path / "other"), {"a": torch.zeros(1)}, {"format": "glied-attributes-1"})
    with pytest.raises(UsageError, match="of kind attributes, not clip"):
        load_clip(ClipConfig(checkpoint=str(tmp_path / "other")))
    wider = {**TINY, "embed_dim": 24}
    save_clip(str(tmp_path / "wide"), tiny, wider)
    with pytest.raises(UsageError, match="do not fit its config"):
        load_clip(ClipConfig(checkpoint=str(tmp_path / "wide")))


def test_bad_model_configs():
    with pytest.raises(UsageError, match="cannot build"):
        build_clip({**TINY, "vision": {}})
    with pytest.raises(UsageError, match="resize_mod"):
        build_clip(TINY, preprocess={"resize_mod": "squash"})
    with pytest.raises(UsageError, match="shortest, longest, squash"):
        build_clip(TINY, preprocess={"resize_mode": "squish"})
    hugging = {**TINY, "text_cfg": {**TINY["text_cfg"], "hf_tokenizer_name": "t5"}}
    with pytest.raises(UsageError, match="own tokenizer"):
        token_ids([], hugging)
