import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glied.clip.config import ClipConfig
from glied.clip.grammar_head import CORRUPTIONS, GrammarHead, load_grammar, save_grammar
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import load_clip
from glied.clip.scores import clip_score, ref_clip_score_metric
from glied.clip.tokenizer import token_ids
from glied.errors import UsageError
from glied.metrics.clip_metrics import ClipMetrics
from glied.metrics.retrieval import retrieval
from glied.reports import evaluation_report
from glied.reports.evaluate import BootstrapConfig, EvaluateConfig, EvaluationClipConfig, evaluate

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}
REFERENCES = {
    "0.png": ["a dog on a beach", "a dog"],
    "1.png": ["two kites"],
    "2.png": ["a man and a dog", "the man", "a beach"],
}
CAPTIONS = {"0.png": "a dog on the beach", "1.png": "a kite", "2.png": "two man"}
FIGURES = {f"accuracy_{kind}": 95.0 for kind in CORRUPTIONS}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images, references, captions, and a CLIP with their words."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in REFERENCES:
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    images = [{"id": number, "file_name": name} for number, name in enumerate(REFERENCES)]
    annotations = [
        {"image_id": number, "caption": text}
        for number, texts in enumerate(REFERENCES.values())
        for text in texts
    ]
    (tmp_path / "references.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    write_captions(tmp_path / "captions.json", CAPTIONS)
    torch.manual_seed(3)
    words = [*CAPTIONS.values(), *(text for texts in REFERENCES.values() for text in texts)]
    save_clip(str(tmp_path / "clip"), build_clip(TINY), TINY, used_tokens=token_ids(words, TINY))
    return tmp_path


def write_captions(path: Path, captions: dict[str, str]) -> None:
    path.write_text(json.dumps([{"image_id": name, "caption": text} for name, text in captions.items()]))


def config(folder: Path, **options) -> EvaluateConfig:
    defaults = {
        "captions": str(folder / "captions.json"),
        "references": str(folder / "references.json"),
        "metrics": ["CIDEr"],
        "bootstrap": BootstrapConfig(resamples=200),
        "clip": EvaluationClipConfig(
            checkpoint=str(folder / "clip"), batch_size=2, images=str(folder / "images")
        ),
    }
    return EvaluateConfig(**(defaults | options))


def test_equal_a_direct_computation(folder):
    found = ClipMetrics(ClipConfig(checkpoint=str(folder / "clip")), str(folder / "images"))(
        CAPTIONS, REFERENCES
    )
    scorer = load_clip(ClipConfig(checkpoint=str(folder / "clip")))
    images = scorer.encode_images([np.asarray(Image.open(folder / "images" / name)) for name in CAPTIONS])
    texts = scorer.encode_texts(list(CAPTIONS.values()))
    scores = [
        ref_clip_score_metric(
            images[row : row + 1],
            texts[row : row + 1],
            scorer.encode_texts(refs)[None],
            torch.ones(1, len(refs)) > 0,
        ).item()
        for row, refs in enumerate(REFERENCES.values())
    ]
    expected = {
        "CLIP-S": 100 * clip_score(images, texts).mean().item(),
        "RefCLIP-S": 100 * float(np.mean(scores)),
    }
    expected |= retrieval(texts, images) | {"pool": 3}
    assert found.values == pytest.approx(expected, rel=1e-5)
    assert found.by_image.keys() == {"CLIP-S", "RefCLIP-S", "R@1", "R@5", "R@10"}
    assert found.by_image["RefCLIP-S"] == pytest.approx(100 * np.array(scores), rel=1e-5)


def test_evaluation_carries_figures_and_the_clips_digest(folder):
    evaluation = evaluate(config(folder), ["evaluate.py"])
    results = json.loads(json.dumps(evaluation.to_json()))
    assert list(results["clip"]) == [
        *("CLIP-S", "RefCLIP-S", "R@1", "R@5", "R@10", "median rank", "mean rank", "pool")
    ]
    recipe = results["recipe"]["clip"]
    scorer = load_clip(ClipConfig(checkpoint=str(folder / "clip")))
    assert recipe["weights_sha256"] == scorer.fingerprint["weights"]
    assert (recipe["checkpoint"], recipe["grammar_sha256"]) == (str(folder / "clip"), None)
    assert "open_clip_torch" in results["recipe"]["versions"]
    assert results["notes"] == []
    assert any("CLIP-S" in line for line in evaluation_report.lines(evaluation))
    assert "## By CLIP" in evaluation_report.markdown(evaluation)


def test_without_a_clip_nothing_changes(folder):
    results = evaluate(config(folder, clip=None)).to_json()
    assert "clip" not in results
    assert results["recipe"]["clip"] is None


def test_p_grammatical_with_a_grammar_head(folder):
    save_grammar(str(folder / "clip"), GrammarHead(width=24, hidden=8), FIGURES)
    results = evaluate(config(folder)).to_json()
    grammar = load_grammar(ClipConfig(checkpoint=str(folder / "clip")))
    expected = 100 * grammar(list(CAPTIONS.values())).mean().item()
    assert results["clip"]["p(grammatical)"] == pytest.approx(expected)
    assert results["recipe"]["clip"]["grammar_sha256"] == grammar.digest
    assert results["notes"] == []
    save_grammar(str(folder / "clip"), GrammarHead(width=24, hidden=8), FIGURES | {"accuracy_loop": 50.0})
    notes = evaluate(config(folder)).to_json()["notes"]
    assert notes == ["p(grammatical) is unreliable: its accuracy is loop 50.0 %; 90 % is needed"]


def test_two_files_are_compared(folder):
    write_captions(folder / "same.json", CAPTIONS)
    other = evaluate(config(folder, compare=[str(folder / "same.json")])).to_json()
    for name in ("CLIP-S", "RefCLIP-S", "R@1"):
        assert other["differences"][name]["difference"] == 0
        assert other["differences"][name]["first"] == pytest.approx(other["first"]["clip"][name])


def test_empty_captions_score_nothing(folder):
    metrics = ClipMetrics(ClipConfig(checkpoint=str(folder / "clip")), str(folder / "images"))
    found = metrics(dict.fromkeys(CAPTIONS, ""), REFERENCES)
    assert (found.values["CLIP-S"], found.values["RefCLIP-S"]) == (0, 0)


def test_unknown_words_are_left_out_and_counted(folder):
    clip, images = ClipConfig(checkpoint=str(folder / "clip")), str(folder / "images")
    expected, metrics = ClipMetrics(clip, images)(CAPTIONS, REFERENCES), ClipMetrics(clip, images)
    longer = CAPTIONS | {"1.png": "a kite giraffe", "2.png": "two giraffe man"}
    more = REFERENCES | {"1.png": ["two zebra kites"]}
    found = metrics(longer, more)
    assert found.values == pytest.approx(expected.values)
    place = f"the CLIP in {folder / 'clip'} does not know"
    assert metrics.notes() == [
        f"{place} 2 of 11 words of the captions, which are left out: giraffe",
        f"{place} 1 of 19 words of the references, which are left out: zebra",
    ]
    write_captions(folder / "captions.json", longer)
    assert evaluate(config(folder)).to_json()["notes"] == metrics.notes()[:1]


def test_a_caption_of_unknown_words_only_scores_nothing(folder):
    metrics = ClipMetrics(ClipConfig(checkpoint=str(folder / "clip")), str(folder / "images"))
    found = metrics(CAPTIONS | {"2.png": "giraffe"}, REFERENCES)
    assert found.by_image["CLIP-S"][2] == found.by_image["RefCLIP-S"][2] == 0


def test_mismatched_inputs_are_one_clear_error(folder):
    write_captions(folder / "captions.json", CAPTIONS | {"1.png": "a giraffe in love"})
    message = (
        r"does not know 3 of 11 words of the captions \(giraffe, in, love\): use a CLIP that was trained"
    )
    with pytest.raises(UsageError, match=message):
        evaluate(config(folder))
    write_captions(folder / "captions.json", CAPTIONS)
    (folder / "images" / "1.png").unlink()
    with pytest.raises(UsageError, match=r"images: .*1\.png cannot be read"):
        evaluate(config(folder))
    for lone in ({"images": "images"}, {"checkpoint": "clip"}):
        with pytest.raises(UsageError, match="clip and images must be set together"):
            EvaluationClipConfig(**lone)
    with pytest.raises(UsageError, match="no checkpoint in"):
        evaluate(config(folder, clip=EvaluationClipConfig(checkpoint=str(folder / "none"), images="images")))
