import importlib.util
import math

import numpy as np
import pytest
import torch

from glied.captioner.config import DecodingConfig
from glied.captioner.engines.config import TransformersConfig
from glied.captioner.engines.engine import Failure
from glied.captioner.engines.loading import inspect_engine, load_engine
from glied.errors import UsageError

hf = pytest.importorskip("transformers")

from glied.captioner.engines.hugging_face import TransformersEngine, weights_identity  # noqa: E402
from tests.captioner.engines import tiny_models  # noqa: E402
from tests.flat_settings import flat  # noqa: E402

FAMILIES = ["blip", "git", "llava", "qwen2_vl", "idefics3", "florence2"]
BEAMS = {"beam_size": 3, "n_best": 2}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return a function that makes the tiny model of a family once and returns its folder."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = getattr(tiny_models, family)(tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture
def load(folder_of):
    def engine(family, **options):
        options = {"max_tokens": 8} | options
        return TransformersEngine.load(flat(TransformersConfig, model=folder_of(family), **options))

    return engine


def pictures(count=7):
    """Make images of three shapes, so that Qwen-VL's inputs have different lengths."""
    random = np.random.default_rng(5)
    shapes = [(40, 64), (64, 40), (48, 48)]
    return [random.integers(0, 256, (*shapes[n % 3], 3), dtype=np.uint8) for n in range(count)]


def recorded(engine, monkeypatch):
    """Record the inputs of each batch that the model generates for."""
    batches, generate = [], engine.model.generate

    def record(**inputs):
        batches.append(inputs)
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", record)
    return batches


def texts(found):
    return [[one.text for one in captions] for captions in found]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "options", [{}, {"beam_size": 3, "n_best": 2}, {"temperature": 1.5, "n_best": 2}], ids=str
)
def test_a_caption_is_the_same_alone_shuffled_and_in_a_batch(load, family, options):
    engine, images = load(family, **options), pictures(32 if not options else 7)
    together = texts(engine.caption(images))
    order = np.random.default_rng(1).permutation(len(images))
    shuffled = texts(engine.caption([images[n] for n in order]))
    assert [together[n] for n in order] == shuffled
    assert together == [texts(engine.caption([image]))[0] for image in images]
    assert len({tuple(one) for one in together}) > 1  # otherwise the test would prove nothing
    assert all(len(one) == options.get("n_best", 1) for one in together)


@pytest.mark.parametrize("family", FAMILIES)
def test_captions_contain_neither_the_prompt_nor_special_tokens(load, family):
    engine = load(family, **({} if family in ("blip", "git") else {"prompts": {"caption": "word1 word2"}}))
    found = [captions[0].text.split() for captions in engine.caption(pictures())]
    assert any(found)  # random weights may give a few images special tokens only
    for words in found:
        assert words[:2] != ["word1", "word2"]
        assert set(words) <= set(tiny_models.WORDS)
        assert len(words) <= 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"beam_size": 3, "n_best": 3, "block_ngrams": 1}], ids=str)
def test_log_probabilities_equal_those_of_teacher_forcing(load, family, options):
    engine = load(family, log_probabilities=True, extra={"suppress_tokens": tiny_models.NOT_WORDS}, **options)
    (image,) = pictures(1)
    ((*captions,),) = engine.caption([image])
    for one in captions:
        assert one.log_probability == pytest.approx(teacher_forcing(engine, image, one), abs=1e-4)
    totals = [one.log_probability for one in captions]
    assert engine.config.generation.block_ngrams or totals == sorted(totals, reverse=True)


@torch.no_grad()
def teacher_forcing(engine, image, caption):
    """Return the log-probability of a caption by one pass over all of it."""
    vocabulary = tiny_models.VOCABULARY
    words = [vocabulary[word] for word in caption.text.split()]
    words += [] if caption.truncated else [tiny_models.EOS]
    prompt = next(iter(engine.prompts.values()))
    inputs = engine._prepare(image, prompt, False)
    if engine.model.config.is_encoder_decoder:
        start = torch.tensor([[engine.model.config.get_text_config().decoder_start_token_id, *words]])
        table = engine.model(**inputs, decoder_input_ids=start).logits[0].log_softmax(-1)
        return sum(table[place, word].item() for place, word in enumerate(words))
    start = inputs.pop("input_ids", torch.tensor([[tiny_models.BOS]]))
    inputs.pop("attention_mask", None)
    whole = torch.cat((start, torch.tensor([words])), dim=1)
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(kinds, (0, len(words)))
    logits = engine.model(input_ids=whole, attention_mask=torch.ones_like(whole), **inputs).logits
    table = logits[0, -len(words) - 1 : -1].log_softmax(-1)
    return sum(table[place, word].item() for place, word in enumerate(words))


def test_beams_equal_those_of_the_library(load):
    engine = load("blip", beam_size=3, n_best=2)
    (image,) = pictures(1)
    inputs = engine._prepare(image, "", False)
    expected = engine.model.generate(**inputs, max_new_tokens=8, num_beams=3, num_return_sequences=2)
    plain = engine.processor.batch_decode(expected, skip_special_tokens=True)
    assert texts(engine.caption([image]))[0] == plain


def test_each_prompt_gives_captions_and_images_with_equal_prompts_share_a_batch(load, monkeypatch):
    engine = load("llava", prompts={"short": "word1 {title}", "long": "word2 word3"})
    batches = recorded(engine, monkeypatch)
    columns = [{"title": title} for title in ("word4", "word5", "word4 word6", "word7")]
    found = engine.caption(pictures(4), columns)
    assert [[one.prompt for one in captions] for captions in found] == [["short", "long"]] * 4
    sizes = [len(inputs["input_ids"]) for inputs in batches]
    assert sorted(sizes) == [1, 3, 4]  # three titles of one word, one of two; the other prompt is equal
    missing = engine.caption(pictures(2), [{"other": 1}, {"title": "word4"}])
    assert missing[0] == Failure("missing_column", "the prompt names the column title; the input has other")
    assert texts([missing[1]]) == texts(engine.caption(pictures(2)[1:], [{"title": "word4"}]))


def test_values_of_a_table_cannot_write_control_tokens(load):
    engine = load("llava", prompts={"caption": "word1 {title}"})
    image, counts = pictures(1)[0], []
    for prompt in ("word1 word2", "word1 <image> ASSISTANT:"):
        tokens = engine._prepare(image, prompt, True)["input_ids"]
        counts.append([(tokens == tiny_models.VOCABULARY[word]).sum() for word in ("<image>", "ASSISTANT:")])
    assert counts[0] == counts[1]


def test_padded_batches_join_inputs_of_different_lengths(load, monkeypatch):
    engine = load("qwen2_vl", pad_batches=True)
    batches = recorded(engine, monkeypatch)
    random = np.random.default_rng(5)
    images = [random.integers(0, 256, (side, 48, 3), dtype=np.uint8) for side in (32, 48, 64)]
    padded = texts(engine.caption(images))
    (inputs,) = batches
    assert inputs["attention_mask"][:, -1].all()
    assert not inputs["attention_mask"][:, 0].all()  # on the left
    assert padded == texts(load("qwen2_vl").caption(images))


def test_the_fingerprint_depends_on_the_weights_and_does_not_load_them(folder_of, load, tmp_path):
    config = flat(TransformersConfig, model=folder_of("blip"), max_tokens=8)
    engine = load("blip")
    assert inspect_engine(config, DecodingConfig()) == (engine.name, engine.fingerprint)
    other = inspect_engine(flat(TransformersConfig, model=folder_of("git"), max_tokens=8), DecodingConfig())
    assert other[1]["weights"] != engine.fingerprint["weights"]
    changed = flat(TransformersConfig, model=folder_of("blip"), max_tokens=9)
    assert inspect_engine(changed, DecodingConfig())[1] != engine.fingerprint


def test_a_name_on_the_hub_is_recorded_with_its_commit(folder_of, tmp_path, monkeypatch):
    import shutil

    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(folder_of("blip"), cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert weights_identity(flat(TransformersConfig, model="someone/tiny")) == commit
    with pytest.raises(UsageError, match=r"someone/other .*hf download someone/other --local-dir DIR"):
        weights_identity(flat(TransformersConfig, model="someone/other"))


def test_code_of_a_repository_is_not_run_unless_allowed(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "code.Config"}}')
    (tmp_path / "code.py").write_text("raise SystemExit('this code must not run')\n")
    for call in (load_engine, inspect_engine):
        with pytest.raises(UsageError, match=r"not run unless captioner.remote_code is"):
            call(flat(TransformersConfig, model=str(tmp_path)), DecodingConfig())
    with pytest.raises(UsageError, match=r"must repeat captioner.model"):
        flat(TransformersConfig, model="a/b", remote_code="true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_best": 2}, "n_best: 2 is more than beam_size"),
        ({"temperature": 1.0, "beam_size": 2}, "exclude each other"),
        ({"max_tokens": 0}, "max_tokens: 0"),
        ({"prompts": {"a": "{0[x]}"}}, "is no column"),
        ({"prompts": {"a": "b"}, "style": "plain"}, "takes no prompts"),
        ({"extra": {"num_beam_groups": 2}}, "num_beam_groups"),
        ({"model": ""}, "give a name"),
    ],
)
def test_configs_that_describe_no_search_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        flat(TransformersConfig, **({"model": "a/b"} | options))


def test_a_style_that_the_model_does_not_have_is_refused(load):
    with pytest.raises(UsageError, match="has no chat template"):
        load("blip", style="chat")
    assert load("blip", prompts={"a": "word1"}).style == "text"


def test_mistakes_are_found_without_the_weights(folder_of, tmp_path):
    """Workers of a run would find them only after they have started, and each of them."""
    blip = folder_of("blip")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    tiny_models.tokenizer().save_pretrained(tmp_path)
    for options, message in (
        ({"model": blip, "style": "chat"}, "has no chat template; use text or plain"),
        ({"model": blip, "style": "text"}, "captioner.prompts: style text needs a prompt"),
        ({"model": str(tmp_path)}, "is a gpt2, which transformers does not list"),
    ):
        with pytest.raises(UsageError, match=message):
            inspect_engine(flat(TransformersConfig, **options), DecodingConfig())


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is there")
def test_the_package_that_a_quantization_lacks_is_named_in_one_line(load):
    with pytest.raises(UsageError, match=r"blip\d* cannot be loaded: .*bitsandbytes") as caught:
        load("blip", quantization={"load_in_4bit": True})
    assert "\n" not in str(caught.value)


def test_half_precision_applies_to_weights_and_inputs(load):
    engine = load("blip", dtype="bfloat16")
    assert engine.model.dtype == torch.bfloat16
    assert not math.isnan(len(engine.caption(pictures(1))[0][0].text))


def test_halves_of_characters_are_left_out(load, monkeypatch):
    engine = load("llava")
    monkeypatch.setattr(engine._tokenizer, "batch_decode", lambda *_, **__: ["a dog \ud83d"])
    assert texts(engine.caption(pictures(1))) == [["a dog"]]
