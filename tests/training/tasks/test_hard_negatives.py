"""Hard negatives in the training of a CLIP and of its grammar head."""

import dataclasses
import json
import pickle
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from glied.clip.config import ClipConfig
from glied.clip.scorer import load_clip
from glied.data.hard_negatives import FalseText, HardNegativesConfig
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.tasks.clip import ClipTask, TrainClipConfig
from glied.training.tasks.clip_model import ClipModelConfig
from glied.training.tasks.coca import CocaTask
from glied.training.tasks.contrastive import contrastive_loss
from glied.training.tasks.false_texts import NO_ROW, VALIDATED, FalseTexts, _draw, accuracy_by_kind
from glied.training.tasks.grammar import GrammarTask
from tests.training.settings import trainer, with_config
from tests.training.tasks.grammar_tasks import grammar_task
from tests.training.tasks.pairs import ARCHITECTURE, COLORS, write_pairs


@pytest.fixture
def pairs(tmp_path: Path) -> PairsConfig:
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def negatives(tmp_path: Path, pairs: PairsConfig) -> HardNegativesConfig:
    """Sides exchanged, and other colors, in the clauses of the first eight images."""
    lines = []
    for number, pair in enumerate(pairs.all[:8]):
        sides, colors = {}, {}
        for clause in pair.clauses:
            words = clause.split()
            exchanged = {"left": "right", "right": "left"}[words[-1]]
            sides[clause] = [" ".join([*words[:-1], exchanged])]
            other = next(color for color in COLORS if color not in pair.texts[0])
            place = next(place for place, word in enumerate(words) if word in COLORS)
            colors[clause] = [" ".join([*words[:place], other, *words[place + 1 :]])]
        lines += [
            {"image": f"{number}.png", "kind": "side", "negatives": sides},
            {"image": f"{number}.png", "kind": "color", "negatives": colors},
        ]
    file = tmp_path / "negatives.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    return HardNegativesConfig(train=str(file), validation=str(file), count=2)


@pytest.fixture
def task(tmp_path: Path, pairs: PairsConfig, negatives: HardNegativesConfig) -> ClipTask:
    model = ClipModelConfig(architecture=ARCHITECTURE, preprocess={"resize_mode": "squash"})
    return ClipTask(
        config=TrainClipConfig(
            train=pairs,
            validation=pairs,
            model=model,
            cache=str(tmp_path / "cache"),
            hard_negatives=negatives,
            trainer=trainer(),
        )
    )


def collate(task, *, training: bool, seed: int = 0):
    rows = task.data("train").to_pylist()
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(seed))


def test_kinds_are_drawn_alike_and_no_variant_twice():
    variants = [FalseText("only", 1), *(FalseText(str(number), 0) for number in range(9))]
    rng = random.Random(0)
    first = Counter(_draw(variants, 1, rng)[0].kind for _ in range(400))
    assert 150 < first[1] < 250
    assert sorted(one.text for one in _draw(variants, 99, rng)) == sorted(one.text for one in variants)
    assert _draw([], 2, rng) == []


def test_every_worker_has_as_many_places(task):
    batch = collate(task, training=True)
    assert batch.false.tokens.shape == (24, 32)
    assert batch.all_tokens.shape == (36, 32)
    rows = batch.false.rows
    assert set(rows[rows != NO_ROW].tolist()) <= set(range(8)), "the others have no negatives"
    assert int((rows == NO_ROW).sum()) >= 8
    unchanged = dataclasses.replace(
        task, config=dataclasses.replace(task.config, hard_negatives=HardNegativesConfig())
    )
    without = collate(unchanged, training=True)
    assert without.false is None
    assert torch.equal(without.tokens, batch.tokens), "the texts are drawn as without"
    assert torch.equal(without.images, batch.images)


def test_variants_share_the_prompt_of_their_text_and_differ_in_a_word(task):
    batch = collate(task, training=True)
    for tokens, row in zip(batch.false.tokens, batch.false.rows, strict=True):
        if row != NO_ROW:
            assert int((tokens != batch.tokens[row]).sum()) == 1
    validated = collate(task, training=False)
    counts = Counter(validated.false.rows.tolist())
    assert counts[0] == 4  # two sides and two colors in the full text
    assert len(validated.false.rows) == 12 * VALIDATED


def test_the_loss_compares_images_with_the_false_texts(task):
    torch.manual_seed(0)
    model, batch = task.build().train(), collate(task, training=True)
    loss, scalars = task.loss(model, batch)
    image, text, scale = model(task._images.normalized(batch.images), batch.tokens)
    false = F.normalize(model.clip.encode_text(batch.false.tokens), dim=1)
    real = batch.false.rows != NO_ROW
    logits = scale * image @ torch.cat((text, false[real])).T
    by_image = F.cross_entropy(logits, torch.arange(12))
    by_text = F.cross_entropy(scale * text @ image.T, torch.arange(12))
    torch.testing.assert_close(loss, (by_image + by_text) / 2)
    assert loss > contrastive_loss(image, text, scale)
    assert 0 <= scalars["hard"] <= 1


def test_a_clip_learns_what_pairs_alone_do_not_teach(task):
    """Sides: without the false texts, 50 steps end at 69 %."""
    torch.manual_seed(0)
    model = task.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(50):
        loss, _ = task.loss(model, collate(task, training=True, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        figures = task.validate(model.eval(), [collate(task, training=False)])
    assert next(iter(figures)) == "r1"
    assert figures["hard_side"] > 85
    assert figures["hard_color"] > 85


def test_words_of_false_texts_are_exported(task, tmp_path: Path):
    line = {"image": "0.png", "negatives": {"a red field": ["a crimson field"]}}
    (tmp_path / "negatives.jsonl").write_text(json.dumps(line))
    task.export(task.build(), str(tmp_path / "best"))
    scorer = load_clip(ClipConfig(checkpoint=str(tmp_path / "best")))
    assert scorer.unknown_words(["a crimson giraffe"]) == ["giraffe"]


def test_a_missing_file_is_found_at_the_start(task, tmp_path: Path):
    bad = with_config(task, hard_negatives=HardNegativesConfig(train=str(tmp_path / "none.jsonl")))
    with pytest.raises(UsageError, match="no hard negatives at"):
        bad.data("train")
    assert pickle.loads(pickle.dumps(task)) == task


def test_a_coca_is_trained_without(task):
    with pytest.raises(UsageError, match="hard_negatives: a CoCa is trained without"):
        CocaTask(task.config)


def test_accuracy_by_kind_by_hand():
    found = FalseTexts(torch.zeros(4, 3), torch.tensor([0, 1, 1, NO_ROW]), torch.tensor([0, 2, 0, 0]))
    image = torch.eye(2)
    text = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    false = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [1.0, 0.0]])
    nearer, kinds = found.nearer(image, text, false)
    assert nearer.tolist() == [True, False, True]
    assert found.share_nearer(image, text, false).item() == pytest.approx(2 / 3)
    assert accuracy_by_kind([(nearer, kinds)], ["a", "b", "c"]) == {"hard_a": 100.0, "hard_c": 0.0}
    assert accuracy_by_kind([], []) == {}


def test_the_grammar_head_keeps_comparing_with_false_texts(tmp_path, pairs, negatives):
    plain = grammar_task(tmp_path, pairs)
    hard = GrammarTask(dataclasses.replace(plain.config, hard_negatives=negatives))
    batch, other = collate(hard, training=True), collate(plain, training=True)
    assert torch.equal(batch.tokens, other.tokens), "captions are drawn and broken as without"
    torch.manual_seed(0)
    model = plain.build()
    loss, scalars = hard.loss(model, batch)
    loss_without, without = plain.loss(model, other)
    assert scalars["contrastive"] > without["contrastive"]
    difference = float(scalars["contrastive"] - without["contrastive"])
    assert (loss - loss_without).item() == pytest.approx(difference, rel=1e-3)
    assert scalars["grammar"].item() == pytest.approx(without["grammar"].item(), rel=1e-5)
    with torch.no_grad():
        figures = hard.validate(model.eval(), [collate(hard, training=False)])
    assert {"hard_side", "hard_color"} < set(figures)
