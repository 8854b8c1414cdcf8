"""A captioner's bad captions as negatives of the grammar head."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from glied.clip.grammar_head import CORRUPTIONS
from glied.errors import UsageError
from glied.training.tasks.bad_captions import BadCaptionsConfig, load_bad_captions
from glied.training.tasks.grammar import GrammarTask
from glied.training.tasks.grammar_accuracy import BAD, accuracies
from tests.training.settings import with_config
from tests.training.tasks.grammar_tasks import grammar_task
from tests.training.tasks.pairs import COLORS, write_pairs

LOOPS = [f"a {a} field on a {a} field on a {b} field" for a in COLORS for b in COLORS]


def write(file: Path, captions: list[str]) -> str:
    lines = [{"image": f"{number}.png", "caption": text} for number, text in enumerate(captions)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return str(file)


@pytest.fixture
def task(tmp_path: Path) -> GrammarTask:
    bad = BadCaptionsConfig(captions=write(tmp_path / "bad.jsonl", LOOPS), share=0.5)
    return grammar_task(tmp_path, write_pairs(tmp_path / "pairs"), bad_captions=bad)


def collate(task: GrammarTask, *, training: bool, seed: int = 0):
    rows = task.data("train").to_pylist()
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(seed))


def test_captions_are_read_as_a_captioner_writes_them_and_split(tmp_path: Path) -> None:
    captions = [f"A red field, and field {number}." for number in range(200)]
    found = load_bad_captions(write(tmp_path / "bad.jsonl", [*captions, *captions]))
    assert len(found.all) == 200
    assert "a red field and field 7" in found.all
    assert 8 < len(found.unseen) < 35
    assert not set(found.learned) & set(found.unseen)
    assert load_bad_captions("").all == []


def test_a_share_of_the_broken_captions_is_the_captioners(task: GrammarTask) -> None:
    kinds = torch.cat([collate(task, training=True, seed=seed).kinds[12:] for seed in range(20)])
    assert 0.4 < (kinds == BAD).float().mean() < 0.6
    batch = collate(task, training=True)
    learned = {
        tuple(row)
        for row in task._scorer.tokenizer([task._prompted(one) for one in task._bad.learned]).tolist()
    }
    bad = batch.tokens[batch.kinds == BAD].tolist()
    assert bad
    assert all(tuple(row) in learned for row in bad)
    faults = (batch.fits == 0).any(dim=1)
    assert faults[batch.kinds == BAD].all(), "a pair of words that comes again is a fault"
    none = with_config(task, bad_captions=BadCaptionsConfig())
    assert not (collate(none, training=True).kinds == BAD).any()


def test_share_0_learns_what_it_would_learn_without(task: GrammarTask) -> None:
    zero = with_config(task, bad_captions=dataclasses.replace(task.config.bad_captions, share=0.0))
    none = with_config(task, bad_captions=BadCaptionsConfig())
    assert not (collate(zero, training=True).kinds == BAD).any()
    first, second = collate(none, training=False), collate(task, training=False)
    assert torch.equal(first.tokens, second.tokens[: len(first.tokens)]), (
        "validation has more, behind the others"
    )


def test_unseen_bad_captions_are_validated_apart(task: GrammarTask) -> None:
    batch = collate(task, training=False)
    counts = torch.bincount(batch.kinds)
    assert counts.tolist() == [24] * (2 + 2 * len(CORRUPTIONS))
    with torch.no_grad():
        figures = task.validate(task.build().eval(), [batch])
    assert 0 <= figures["bad_captions"] <= 100
    assert figures["accuracy"] == min(figures[f"accuracy_{kind}"] for kind in CORRUPTIONS)


def test_their_accuracy_by_hand() -> None:
    kinds = torch.tensor([0, 0, *range(1, 1 + len(CORRUPTIONS)), BAD, BAD, BAD, BAD])
    right = torch.tensor([True, False, *[True] * len(CORRUPTIONS), True, True, True, False])
    figures = accuracies(right, kinds, torch.full((len(kinds),), 5))
    assert figures["bad_captions"] == (50 + 75) / 2
    assert figures["accuracy"] == (50 + 100) / 2
    assert figures["accuracy_words_1_7"] == (50 + 100) / 2


def test_a_head_learns_to_recognize_them(task: GrammarTask) -> None:
    torch.manual_seed(0)
    model = task.build().train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 3e-3)
    for step in range(25):
        loss, _ = task.loss(model.train(), collate(task, training=True, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        figures = task.validate(model.eval(), [collate(task, training=False)])
    assert figures["bad_captions"] > 80


def test_words_that_the_clip_does_not_know_leave_captions_out(
    task: GrammarTask, tmp_path: Path, caplog
) -> None:
    with caplog.at_level("INFO"):
        bad = write(tmp_path / "odd.jsonl", [*LOOPS, "a giraffe on a giraffe"])
        odd = with_config(task, bad_captions=BadCaptionsConfig(captions=bad))
        odd.data("train")
    assert f"{len(LOOPS)} of {len(LOOPS) + 1} different bad captions" in caplog.text
    only = BadCaptionsConfig(
        captions=write(tmp_path / "only.jsonl", ["a giraffe", "two giraffes", "no giraffes"])
    )
    with pytest.raises(UsageError, match="has words that this CLIP has never seen"):
        with_config(task, bad_captions=only).data("train")


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bad_captions\.share: 1\.5 is not in \[0, 1\]"):
        BadCaptionsConfig(share=1.5)
    with pytest.raises(UsageError, match="no caption file at"):
        load_bad_captions(str(tmp_path / "none.jsonl"))
    with pytest.raises(UsageError, match="has 0 different captions, too few"):
        load_bad_captions(write(tmp_path / "empty.jsonl", [""]))
