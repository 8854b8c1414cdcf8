import json
from pathlib import Path

import pytest
import torch

from glied import checkpoint
from glied.clip.config import ClipConfig
from glied.clip.grammar_head import CORRUPTIONS, GrammarHead, has_grammar, load_grammar, save_grammar, unfit
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import load_clip
from glied.clip.tokenizer import token_ids
from glied.errors import UsageError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}
CAPTIONS = ["a dog on a beach", "dog dog a a", "two kites"]
FIT = {f"accuracy_{kind}": 90.0 for kind in CORRUPTIONS}


def saved(folder: Path, figures: dict[str, float], config: dict = TINY) -> ClipConfig:
    """Save a random CLIP with a random grammar head."""
    torch.manual_seed(0)
    used = token_ids(CAPTIONS, config) if config is TINY else None
    save_clip(str(folder), build_clip(config), config, used_tokens=used)
    save_grammar(str(folder), GrammarHead(width=24, hidden=8), figures)
    return ClipConfig(checkpoint=str(folder))


@pytest.mark.parametrize("custom_text", [False, True])
def test_scores_are_of_the_pooled_feature_before_projection(tmp_path, custom_text):
    architecture = TINY | {"custom_text": True} if custom_text else TINY
    scorer = load_grammar(saved(tmp_path, FIT, architecture))
    found, vectors = scorer.score(CAPTIONS)
    torch.testing.assert_close(vectors, scorer.clip.encode_texts(CAPTIONS))
    torch.testing.assert_close(scorer(CAPTIONS), found)
    model = scorer.clip.model
    text = model.text if custom_text else model
    tokens = scorer.clip.tokenizer([f"a photo depicts {caption}" for caption in CAPTIONS])
    with torch.no_grad():
        hidden = text.token_embedding(tokens) + text.positional_embedding
        hidden = text.ln_final(text.transformer(hidden, attn_mask=text.attn_mask))
        pooled = hidden[torch.arange(3), tokens.argmax(dim=1)]
        first, last = scorer._head.layers[0].weight, scorer._head.layers[2].weight
        expected = torch.softmax((pooled @ first.T).relu() @ last.T, dim=1)[:, 1]
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32
    assert found.std() > 0


def test_no_captions(tmp_path):
    assert load_grammar(saved(tmp_path, FIT))([]).shape == (0,)


def test_the_folder_is_also_a_clip_and_has_no_pickles(tmp_path):
    config = saved(tmp_path, FIT)
    assert has_grammar(config)
    assert load_clip(config).unknown_words(["a giraffe"]) == ["giraffe"]
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert files == ["grammar/model.json", "grammar/model.safetensors", "model.json", "model.safetensors"]
    scorer = load_grammar(config)
    assert scorer.digest == checkpoint.load(str(tmp_path / "grammar")).digest
    assert scorer.figures == FIT


def test_a_head_with_low_accuracy_is_refused_as_a_reward(tmp_path):
    config = saved(tmp_path, FIT | {"accuracy_remove": 89.9, "accuracy_loop": float("nan")})
    with pytest.raises(UsageError, match=r"90 % are needed: remove 89.9 %, loop nan %; train"):
        load_grammar(config, required=90.0)
    with pytest.raises(UsageError, match="80 % are needed: loop nan %; train"):
        load_grammar(config, required=80.0)
    assert load_grammar(config)(CAPTIONS).shape == (3,)
    assert unfit(FIT) == []
    assert unfit({})[0] == "repeat not measured"


def test_a_head_of_another_clip_is_refused(tmp_path):
    config = saved(tmp_path, FIT)
    model = build_clip(TINY)
    save_clip(str(tmp_path), model, TINY)
    with pytest.raises(UsageError, match="belongs to another CLIP"):
        load_grammar(config)


def test_a_clip_without_a_head(tmp_path):
    save_clip(str(tmp_path), build_clip(TINY), TINY)
    config = ClipConfig(checkpoint=str(tmp_path))
    assert not has_grammar(config)
    with pytest.raises(UsageError, match=r"has no grammar head: jobs/finetune_grammar\.py"):
        load_grammar(config)
    published = ClipConfig(model="ViT-B-32", allow_random=True)
    assert not has_grammar(published)
    with pytest.raises(UsageError, match="ViT-B-32 has no grammar head"):
        load_grammar(published)


def test_other_files_are_refused(tmp_path):
    config = saved(tmp_path, FIT)
    metadata = json.loads((tmp_path / "grammar" / "model.json").read_text())
    (tmp_path / "grammar" / "model.json").write_text(json.dumps(metadata | {"kind": "other"}))
    with pytest.raises(UsageError, match="a checkpoint of kind other, not grammar"):
        load_grammar(config)
