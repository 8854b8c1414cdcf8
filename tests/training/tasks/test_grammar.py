import json
import pickle

import pytest
import torch

from glied.clip.config import ClipConfig
from glied.clip.grammar_head import CORRUPTIONS, load_grammar
from glied.clip.scorer import load_clip
from glied.data.pairs import PairsConfig
from glied.errors import UsageError
from glied.training.task import Task
from glied.training.tasks.grammar import FinetuneGrammarConfig, GrammarTask, accuracies, plain, word_loss
from tests.training.settings import trainer
from tests.training.tasks.grammar_tasks import grammar_task
from tests.training.tasks.pairs import write_pairs


@pytest.fixture
def task(tmp_path) -> GrammarTask:
    return grammar_task(tmp_path, write_pairs(tmp_path / "pairs"))


def collate(task: GrammarTask, *, training: bool, seed: int = 0):
    rows = task.data("train").to_pylist()
    return task.collate(rows, training=training, generator=torch.Generator().manual_seed(seed))


def test_the_task_is_small_when_pickled(task):
    assert isinstance(task, Task)
    collate(task, training=True)
    assert len(pickle.dumps(task)) < 2000
    assert pickle.loads(pickle.dumps(task)) == task


def test_training_batch_has_a_broken_caption_for_each_correct_one(task):
    batch = collate(task, training=True)
    assert batch.tokens.shape == (24, 32)
    assert batch.kinds[:12].tolist() == [0] * 12
    assert set(batch.kinds[12:].tolist()) <= set(range(1, 1 + len(CORRUPTIONS)))
    assert all(not torch.equal(*pair) for pair in zip(batch.tokens[:12], batch.tokens[12:], strict=True))
    torch.testing.assert_close(batch.images.norm(dim=1), torch.ones(12))
    again = collate(task, training=True)
    assert torch.equal(batch.tokens, again.tokens)
    assert not torch.equal(batch.tokens, collate(task, training=True, seed=1).tokens)
    start = task._scorer.tokenizer(["a photo depicts"])[0, :4]
    assert (batch.tokens[:, :4] == start).all()


def test_every_word_has_a_label_where_its_last_token_is(task):
    batch = collate(task, training=True)
    assert batch.fits.shape == batch.tokens.shape
    for tokens, fits, words, kind in zip(batch.tokens, batch.fits, batch.lengths, batch.kinds, strict=True):
        end = int(tokens.argmax())
        if words > 32 - 1 - 3 - 1:  # a loop that is truncated by the context
            assert fits.max() < 0
            continue
        assert int((fits >= 0).sum()) == words + 1
        assert fits[end] >= 0 > fits[end + 1 :].max()
        assert fits[: 1 + len(["a", "photo", "depicts"])].max() < 0
        assert (fits == 0).any() == (kind > 0)


def test_words_of_several_tokens_and_truncated_captions(task):
    captions = ["a zqxj field", "a red field " * 12]
    tokens = task._scorer.tokenizer([f"{task.config.clip.prompt} {text}" for text in captions])
    fits = task._fits(captions, [0, 0], tokens)
    more = task._token_count("zqxj") - 1
    assert more > 0
    expected = [1, *[-100] * more, 0, 0, 1, -100]  # an unknown word, another word, the end token
    assert fits[0, 4 : 4 + len(expected)].tolist() == expected
    assert fits[1].max() < 0, "it does not fit into the context"


def test_words_have_equal_weight_and_unknown_ones_none():
    logits = torch.tensor([[[0.0, 0.0], [5.0, 1.0], [0.0, 2.0]]])
    fits = torch.tensor([[-100, 0, 1]])
    expected = -(logits.log_softmax(dim=-1)[0, 1, 0] + logits.log_softmax(dim=-1)[0, 2, 1]) / 2
    assert word_loss(logits, fits).item() == pytest.approx(expected.item())
    assert word_loss(logits, torch.full((1, 3), -100)).item() == 0


def test_validation_batch_has_every_corruption_of_two_captions_per_image(task):
    batch = collate(task, training=False)
    counts = torch.bincount(batch.kinds)
    assert counts.tolist() == [24] * (1 + 2 * len(CORRUPTIONS)), "drawn with checks, and drawn once"
    assert batch.images.shape == (12, 16)
    assert batch.lengths[:12].tolist() == [13] * 12  # the first texts: "a red field on the left with a ..."


def test_learns_keeps_similarity_and_exports(task, tmp_path):
    torch.manual_seed(0)
    model = task.build().train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 3e-3)
    batch = collate(task, training=False)
    with torch.no_grad():
        untrained = task.validate(model.eval(), [batch])
    frozen = {name: value.clone() for name, value in model.clip.visual.state_dict().items()}
    for step in range(90):
        loss, scalars = task.loss(model.train(), collate(task, training=True, seed=step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        figures = task.validate(model.eval(), [batch])
    assert next(iter(figures)) == "accuracy"
    assert figures["accuracy"] == min(figures[f"accuracy_{kind}"] for kind in CORRUPTIONS)
    mean = sum(figures[f"accuracy_{kind}"] for kind in CORRUPTIONS) / len(CORRUPTIONS)
    assert mean > 75 > 60 > sum(untrained[f"accuracy_{kind}"] for kind in CORRUPTIONS) / len(CORRUPTIONS)
    assert figures["before_r1"] == untrained["before_r1"] == untrained["r1"]
    assert figures["r5"] >= figures["before_r5"]
    assert all(torch.equal(value, frozen[name]) for name, value in model.clip.visual.state_dict().items())
    assert set(scalars) == {"loss", "grammar", "contrastive", "words", "accuracy"}
    assert {f"once_{kind}" for kind in CORRUPTIONS} < set(figures)

    task.export(model, str(tmp_path / "best"))
    scorer = load_grammar(ClipConfig(checkpoint=str(tmp_path / "best")))
    assert scorer.figures == figures
    good, bad = scorer(["a red field and a blue field", "field a a blue and red field a a a"])
    assert good > bad
    before = load_clip(task.config.clip)
    image = torch.zeros(9, 9, 3, dtype=torch.uint8).numpy()
    torch.testing.assert_close(
        scorer.clip.encode_images([image]), before.encode_images([image]), atol=1e-2, rtol=0
    )


def test_pairs_with_words_the_clip_does_not_know_are_left_out(task, tmp_path, caplog):
    lines = [{"image": "0.png", "text": "a giraffe"}, {"image": "1.png", "text": ["a red field", "a field"]}]
    file = tmp_path / "pairs" / "other.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    other = PairsConfig(pairs=str(file))
    odd = GrammarTask(
        config=FinetuneGrammarConfig(
            clip=task.config.clip, train=other, validation=other, cache=task.config.cache, trainer=trainer()
        )
    )
    assert odd.data("train")["index"].to_pylist() == [1]
    assert "never seen the words giraffe; 1 of 2 pairs are left out" in caplog.text
    assert odd._before["pool"] == 1
    file.write_text(json.dumps(lines[0]))
    other = PairsConfig(pairs=str(file))
    with pytest.raises(UsageError, match="never seen the words giraffe; every pair has some"):
        GrammarTask(
            config=FinetuneGrammarConfig(
                clip=task.config.clip,
                train=other,
                validation=other,
                cache=task.config.cache,
                trainer=trainer(),
            )
        ).data("train")


def test_captions_are_normalized_like_those_of_a_captioner():
    assert plain("A man's dog, on a Beach.") == "a man 's dog on a beach"


def test_accuracies_by_hand():
    """3 of 4 correct captions are accepted; of the corrupted ones, half of the first kind are."""
    first = CORRUPTIONS[0]
    right = torch.tensor([True, True, True, False, True, False, *[True] * (len(CORRUPTIONS) - 1)])
    kinds = torch.tensor([0, 0, 0, 0, 1, 1, *range(2, 1 + len(CORRUPTIONS))])
    lengths = torch.tensor([3, 3, 10, 10, 3, 10, *[30] * (len(CORRUPTIONS) - 1)])
    found = accuracies(right, kinds, lengths)
    assert found["correct"] == 75
    assert found[f"accuracy_{first}"] == found["accuracy"] == (75 + 50) / 2
    assert found[f"accuracy_{CORRUPTIONS[1]}"] == (75 + 100) / 2
    assert (found["accuracy_words_1_7"], found["correct_words_1_7"]) == (100, 100)
    assert (found["accuracy_words_8_12"], found["correct_words_8_12"]) == (25, 50)
    assert "accuracy_words_21_99" not in found  # no correct captions of that length
    once = torch.tensor([len(CORRUPTIONS) + 1] * 4)
    more = torch.cat((right, torch.tensor([True, True, True, False])))
    with_raw = accuracies(more, torch.cat((kinds, once)), torch.cat((lengths, torch.tensor([3] * 4))))
    assert with_raw[f"once_{first}"] == (75 + 75) / 2
    assert found.items() <= with_raw.items(), "corruptions drawn once count only there"
