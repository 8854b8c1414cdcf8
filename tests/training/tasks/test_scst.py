import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from glied.captioner.captioner import Captioner
from glied.captioner.decode import NEVER_WORDS
from glied.captioner.familiarity import FILE
from glied.captioner.search_state import Hypothesis
from glied.clip.config import ClipConfig
from glied.clip.model import build_clip, save_clip
from glied.clip.scorer import ClipScorer
from glied.clip.tokenizer import token_ids
from glied.errors import UsageError
from glied.regions import RegionBatch
from glied.rewards.config import RewardConfig
from glied.rewards.reward import Captions
from glied.rewards.weighted_sum import WeightedSum
from glied.text.references import save_frequencies
from glied.text.vocabulary import BOS, EOS, PAD, Vocabulary
from glied.training import steps
from glied.training.plan import Progress
from glied.training.task import WEIGHT
from glied.training.tasks.losses import entropy, self_critical_loss
from glied.training.tasks.samples import caption_figures, sample_tensors
from glied.training.tasks.scst import ScstTask
from glied.training.tasks.scst_config import RewardLossConfig, SamplingConfig, TrainScstConfig
from glied.vision.extractors.clip_images import image_fingerprint
from tests.clip.test_clip import TINY
from tests.training.settings import trainer, with_config
from tests.training.tasks.rewarded import CAPTIONS, IMAGES, VOCABULARY, write_store, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    torch.manual_seed(1)
    clip = build_clip(TINY, preprocess={"resize_mode": "squash"})
    known = [*VOCABULARY.to_json(), *(text for one in CAPTIONS for text in one)]
    save_clip(str(folder / "clip"), clip, TINY, used_tokens=token_ids(known, TINY), half=False)
    vectors = np.random.default_rng(0).normal(size=(IMAGES, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_store(folder / "clip_features", vectors, image_fingerprint(ClipScorer(clip, TINY)))
    return folder


def make_task(world: Path, **rewards) -> ScstTask:
    split = write_split(world)
    clip = ClipConfig(checkpoint=str(world / "clip"))
    reward = RewardConfig(frequencies=str(world / "df"), clip=clip, **(rewards or {"cider": 1.0}))
    return ScstTask(
        config=TrainScstConfig(
            start=str(world / "start"),
            attributes=str(world / "attributes"),
            train=split,
            validation=split,
            reward=reward,
            sampling=SamplingConfig(max_length=8),
            trainer=trainer(),
        )
    )


def write_split(world: Path):
    from glied.data.captioned_regions import RewardedRegions

    return RewardedRegions(
        features=str(world / "features"),
        captions=str(world / "captions.json"),
        clip_features=str(world / "clip_features"),
    )


def make_batch(task: ScstTask, step: int = 0, rows: slice = slice(None)):
    every = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]
    return task.collate(every[rows], training=True, generator=steps.generator("collate", step))


def train_steps(task: ScstTask, model: nn.Module, optimizer, first: int, last: int) -> list[float]:
    """Run training steps like the trainer, without Ray."""
    rewards = []
    for step in range(first, last):
        steps.seed_everything("step", step)
        model.train()
        loss, scalars = task.loss(model, make_batch(task, step))
        steps.optimizer_step(loss, model, optimizer, learning_rate=3e-3, clip_norm=1.0)
        rewards.append(float(scalars["reward"]))
    return rewards


def build_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return steps.build_optimizer(model, name="adamw", learning_rate=3e-3, weight_decay=0.0)


def test_gradient_of_a_two_word_toy_equals_the_hand_computed_one() -> None:
    # One image; samples "w" <end> and "w w" (truncated); p(w) = p, p(end) = 1 - p;
    # rewards 3 and 1, baseline 1.5.
    logit = torch.tensor(0.4, requires_grad=True)
    logits = torch.stack([logit, torch.zeros(())]).expand(4, 2)  # words w and <end>
    log_probabilities = logits.log_softmax(dim=1).gather(1, torch.tensor([[0], [1], [0], [0]])).squeeze(1)
    mask = torch.tensor([[[True, True], [True, True]]])
    loss = self_critical_loss(log_probabilities, torch.tensor([[3 - 1.5, 1 - 1.5]]), mask)
    loss.backward()
    p = 1 / (1 + math.exp(-0.4))
    # d log p / d logit = 1 - p, d log (1 - p) / d logit = -p; four tokens.
    expected = -(1.5 * ((1 - p) - p) + -0.5 * 2 * (1 - p)) / 4
    assert float(logit.grad) == pytest.approx(expected, rel=1e-5)
    assert loss.item() == pytest.approx(-(1.5 * math.log(p * (1 - p)) - 0.5 * math.log(p * p)) / 4)


def test_padding_carries_no_gradient() -> None:
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    log_probabilities = torch.tensor([-1.0, -2.0, -4.0])
    loss = self_critical_loss(log_probabilities, torch.tensor([[1.0, -3.0]]), mask)
    assert loss.item() == pytest.approx(-(-1.0 - 2.0 + 12.0) / 3)


@pytest.mark.parametrize("name", ["scst", "dico"])
@pytest.mark.parametrize("baseline", ["greedy", "leave_one_out", "normalized"])
def test_equal_rewards_give_zero_gradient(world: Path, baseline, name) -> None:
    task = make_task(world, bleu=2.0)
    sampling = SamplingConfig(max_length=8, baseline=baseline)
    task = with_config(task, sampling=sampling, loss=RewardLossConfig(name=name))
    task._made["train"] = WeightedSum(
        {"bleu": lambda c: torch.full((len(c.images), c.samples), 0.5)}, {"bleu": 2.0}
    )
    model = task.build().train()
    loss, scalars = task.loss(model, make_batch(task))
    loss.backward()
    assert float(scalars["reward"]) == pytest.approx(1.0)
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in model.parameters())


def test_a_reward_of_weight_zero_contributes_nothing_and_is_not_computed() -> None:
    def refuse(captions: Captions):
        raise AssertionError("computed")

    def by_length(captions: Captions) -> torch.Tensor:
        return torch.tensor([[float(len(one)) for one in image] for image in captions.tokens])

    captions = Captions(["a"], [[(4, EOS), (4, 5, EOS)]], [["x", "x y"]])
    rewards = WeightedSum({"length": by_length, "other": refuse}, {"length": 0.5, "other": 0.0})(captions)
    assert rewards.total.tolist() == [[1.0, 1.5]]
    assert set(rewards.parts) == set(rewards.seconds) == {"length"}


def test_sampled_log_probabilities_equal_the_rescored_ones(world: Path) -> None:
    task = make_task(world)
    batch, model = make_batch(task), task.build().train()
    drawn = task.draw(model, batch)
    inputs, targets = sample_tensors(drawn.sampled, 5)
    mask = targets != PAD
    model.eval()
    logits = model(batch.regions, batch.attributes, batch.attribute_mask, inputs, mask)
    chosen = logits.log_softmax(dim=-1).gather(1, targets[mask][:, None]).squeeze(1)
    sums = torch.zeros(mask.shape).masked_scatter(mask, chosen).sum(dim=-1)
    expected = torch.tensor([one.log_probability for one in drawn.sampled]).view(sums.shape)
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)
    assert {one.finished for one in drawn.sampled} == {True, False}, (
        "both ended and truncated samples were compared"
    )
    assert len({one.tokens for one in drawn.hypotheses[0]}) > 2


def test_words_that_are_never_sampled_get_no_gradient(world: Path) -> None:
    """Otherwise training would move all probability to the unknown word, which no reward sees."""
    task = make_task(world)
    model = task.build().train()
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, given: tuple, logits: torch.Tensor) -> None:
        logits.retain_grad()
        seen.append(logits)

    model.register_forward_hook(keep)
    loss, _ = task.loss(model, make_batch(task))
    loss.backward()
    gradient = seen[-1].grad
    assert not gradient[:, list(NEVER_WORDS)].any()
    assert gradient[:, EOS].any()
    torch.testing.assert_close(gradient.sum(dim=-1), torch.zeros(len(gradient)), atol=1e-6, rtol=0.0)


def test_rescoring_has_the_dropout_mode_of_sampling_and_training_goes_on(world: Path) -> None:
    task = make_task(world)
    model, batch = task.build().train(), make_batch(task)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(task.loss(model, batch)[0].item())
        assert model.training
    assert losses[0] == losses[1], "dropout would differ"


def test_scoring_may_keep_the_dropout_while_samples_are_drawn_without(world: Path) -> None:
    task = make_task(world)
    kept = with_config(task, sampling=dataclasses.replace(task.config.sampling, dropout=True))
    model, batch = kept.build().train(), make_batch(kept)
    losses, rewards = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loss, figures = kept.loss(model, batch)
        losses.append(loss.item())
        rewards.append(figures["reward"])
        assert model.training
    assert losses[0] != losses[1]
    assert rewards[0] == rewards[1] == task.loss(model, batch)[1]["reward"]


def test_training_images_lose_regions_and_validation_images_none(world: Path) -> None:
    task = with_config(make_task(world), region_dropout=0.5)
    rows = [row for uri in task.data("train") for row in pq.read_table(uri).to_pylist()]
    whole = make_batch(make_task(world)).regions.mask.sum(dim=1)
    assert make_batch(task).regions.mask.sum(dim=1).equal((whole / 2).ceil().long())
    unseen = task.collate(rows, training=False, generator=steps.generator("collate", 0))
    assert unseen.regions.mask.sum(dim=1).equal(whole)


def test_sample_tensors_by_hand() -> None:
    samples = [
        Hypothesis((7, 8), -1.0),
        Hypothesis((), -1.0),
        Hypothesis((9, 9, 9), -1.0, False),
        Hypothesis((5,), -1.0),
    ]
    inputs, targets = sample_tensors(samples, 2)
    assert targets.tolist() == [[[7, 8, EOS], [EOS, PAD, PAD]], [[9, 9, 9], [5, EOS, PAD]]]
    assert inputs.tolist() == [[[BOS, 7, 8], [BOS, PAD, PAD]], [[BOS, 9, 9], [BOS, 5, PAD]]]
    figures = caption_figures([*samples, Hypothesis((4, 5, 4, 5), -1.0)])
    assert figures == {"length": 2.0, "repeated_bigrams": 0.4, "truncated": 0.2}


def test_entropy_by_hand() -> None:
    found = entropy(torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log())
    assert float(found) == pytest.approx(math.log(2) / 2)


def test_training_raises_the_cider_reward(world: Path, tmp_path: Path) -> None:
    task = make_task(world)
    model = task.build()
    batch = make_batch(task)
    before = task.validate(model.eval(), [batch])
    rewards = train_steps(task, model, build_optimizer(model), 0, 30)
    after, shown = task.validate_and_show(model.eval(), [batch])
    assert next(iter(after)) == "reward"
    known = [task.config.validation.references[name][0] for name in batch.names]
    assert [one.reference for one in shown] == known[: len(shown)]
    assert len(shown) == min(8, len(known))
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.5
    assert after["reward"] > before["reward"] + 0.3
    assert after["cider"] > before["cider"] + 20
    task.export(model, str(tmp_path / "best"))
    assert Captioner.load(str(tmp_path / "best")).vocabulary.digest == VOCABULARY.digest


def log_probabilities(model: nn.Module, batch, samples: list[list[Hypothesis]]) -> torch.Tensor:
    """Sums over the words and the end of each sample, one by one; words that are never drawn excluded."""
    found = torch.zeros(len(samples), len(samples[0]))
    for image, several in enumerate(samples):
        row = slice(image, image + 1)
        parts = {one.name: getattr(batch.regions, one.name)[row] for one in dataclasses.fields(RegionBatch)}
        given = RegionBatch(**parts), batch.attributes[row], batch.attribute_mask[row]
        for place, sample in enumerate(several):
            words = [*sample.tokens, EOS] if sample.finished else list(sample.tokens)
            inputs = torch.tensor([[[BOS, *words[:-1]]]])
            logits = model(*given, inputs, torch.ones_like(inputs, dtype=torch.bool))
            logits[:, list(NEVER_WORDS)] = -math.inf
            found[image, place] = logits.log_softmax(dim=-1)[range(len(words)), words].sum()
    return found


def test_the_loss_of_dico_equals_the_plain_formula(world: Path) -> None:
    """With a captioner that has moved away from the start, whose copy stays where it was."""
    task = make_task(world)
    loss = RewardLossConfig(name="dico", beta=0.4, temperature=0.6)
    task = with_config(task, loss=loss)
    model, batch = task.build(), make_batch(task, rows=slice(0, 4))
    train_steps(make_task(world), model, build_optimizer(model), 0, 3)
    loss, scalars = task.loss(model.train(), batch)
    with torch.no_grad():
        samples = task.draw(model.eval(), batch).hypotheses
        rewards = task.rewards("train")(task.captions(batch.names, samples)).total[:, :-1]
        sampled = [image[:-1] for image in samples]
        start = Captioner.load(str(world / "start")).model.eval()
        ratios = log_probabilities(model, batch, sampled) - log_probabilities(start, batch, sampled)
    losses = []
    for ratio, reward in zip(ratios.double(), rewards.double(), strict=True):
        best = int(reward.argmax())
        worse = [place for place in range(5) if reward[place] < reward[best]]
        weights = torch.stack([(reward[best] - reward[place]) / 0.6 for place in worse]).softmax(0)
        losses.append(-torch.log(torch.sigmoid(0.4 * (ratio[best] - (weights * ratio[worse]).sum()))))
    assert loss.item() == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    assert scalars["divergence"].item() == pytest.approx(float(ratios.mean()), abs=1e-4)
    assert abs(scalars["divergence"]) > 1e-3
    assert scalars[WEIGHT] == 4, "an average over images"


def test_a_new_captioner_is_its_own_reference(world: Path) -> None:
    task = with_config(make_task(world), loss=RewardLossConfig(name="dico"))
    model = task.build().train()
    loss, scalars = task.loss(model, make_batch(task))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert scalars["divergence"] == pytest.approx(0, abs=1e-5)
    loss.backward()
    assert any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert not any(p.requires_grad for p in task._reference(torch.device("cpu")).parameters())


def test_the_likelihood_is_that_of_the_start_for_each_word(world: Path) -> None:
    """Of captions by a captioner that has moved away from it, in training and in validation."""
    task = make_task(world, cider=1.0, likelihood=0.5)
    task.check()
    model, batch = task.build(), make_batch(task, rows=slice(0, 4))
    train_steps(make_task(world), model, build_optimizer(model), 0, 3)
    samples = task.draw(model.eval(), batch).hypotheses
    rewards = task._reward("train", batch, samples, task._by_reference(batch, samples))
    start = Captioner.load(str(world / "start")).model.eval()
    words = torch.tensor([[len(one.tokens) + one.finished for one in image] for image in samples])
    expected = log_probabilities(start, batch, samples) / words
    torch.testing.assert_close(rewards.parts["likelihood"], expected.to(torch.float32), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, log_probabilities(model, batch, samples) / words, rtol=1e-3)
    total = rewards.parts["cider"] + 0.5 * rewards.parts["likelihood"]
    torch.testing.assert_close(rewards.total, total)
    metrics = task.validate(model.eval(), [make_batch(task)])
    total = metrics["reward_cider"] + 0.5 * metrics["reward_likelihood"]
    assert metrics["reward"] == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", ["scst", "dico"])
def test_normalized_rewards_by_numpy(world: Path, name) -> None:
    weights = {"cider": 1.0, "clip_s": 2.0, "likelihood": 1.0}
    task = make_task(world, **weights)
    sampling = SamplingConfig(max_length=8, baseline="normalized")
    task = with_config(task, sampling=sampling, loss=RewardLossConfig(name=name))
    model, batch = task.build().eval(), make_batch(task)
    samples = task.draw(model, batch).hypotheses
    rewards = task._reward("train", batch, samples, task._by_reference(batch, samples))
    total = np.zeros((len(batch.names), 5))
    for part, weight in weights.items():
        values = rewards.parts[part].numpy()[:, :-1].astype(float)
        deviation = values.std(axis=1, ddof=1, keepdims=True) + 1e-4
        total += weight * (values - values.mean(axis=1, keepdims=True)) / deviation
    expected = total / (total.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(task._advantages(rewards, torch.device("cpu")), expected, rtol=1e-3, atol=1e-4)
    _, scalars = task.loss(model.train(), batch)
    assert float(scalars["baseline"]) == pytest.approx(float(scalars["reward"]), abs=1e-4), "the mean"


@pytest.mark.parametrize(
    ("baseline", "name"), [("normalized", "scst"), ("greedy", "dico"), ("normalized", "dico")]
)
def test_the_other_ways_to_learn_raise_the_reward_as_well(world: Path, baseline, name) -> None:
    task = make_task(world, cider=1.0, bleu=1.0)
    sampling = SamplingConfig(max_length=8, baseline=baseline)
    task = with_config(task, sampling=sampling, loss=RewardLossConfig(name=name))
    model = task.build()
    rewards = train_steps(task, model, build_optimizer(model), 0, 30)
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.3


@pytest.mark.parametrize("name", ["scst", "dico"])
def test_a_resumed_run_equals_an_uninterrupted_one(world: Path, name) -> None:
    def make() -> ScstTask:
        return with_config(make_task(world), loss=RewardLossConfig(name=name))

    task = make()
    model = task.build()
    optimizer = build_optimizer(model)
    uninterrupted = train_steps(task, model, optimizer, 0, 6)
    weights = copy.deepcopy(model.state_dict())

    task = make()
    model = task.build()
    optimizer = build_optimizer(model)
    rewards = train_steps(task, model, optimizer, 0, 3)
    data = steps.pack_state(model, optimizer, Progress(step=3))
    task = make()  # simulates a new process
    model = task.build()
    optimizer = build_optimizer(model)
    steps.unpack_state(data, model, optimizer)
    rewards += train_steps(task, model, optimizer, 3, 6)
    assert rewards == uninterrupted
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_every_reward_is_reported_with_its_parts(world: Path) -> None:
    weights = {"cider": 1.0, "bleu": 0.5, "clip_s": 2.0, "ref_clip_s": 1.0, "distinct": 0.5}
    task = make_task(world, **weights)
    task.check()
    assert "loader" not in task._made, "objects loaded by the check are not pickled with the task"
    model = task.build()
    _, scalars = task.loss(model, make_batch(task, rows=slice(0, 6)))
    total = sum(weight * float(scalars[f"reward_{name}"]) for name, weight in weights.items())
    assert float(scalars["reward"]) == pytest.approx(total, rel=1e-4)
    figures = {"greedy", "baseline", "length", "repeated_bigrams", "truncated", "entropy"}
    seconds = {f"seconds_{name}" for name in (*weights, "draw", "score", "reward")}
    assert figures | seconds <= set(scalars)
    assert float(scalars["baseline"]) == pytest.approx(float(scalars["greedy"]), abs=1e-4)
    metrics = task.validate(model.eval(), [make_batch(task)])
    assert {f"reward_{name}" for name in weights} | {"cider", "length"} <= set(metrics)


def test_clip_rewards_equal_the_metrics_one_by_one(world: Path) -> None:
    from glied.clip.scorer import load_clip
    from glied.clip.scores import clip_score, ref_clip_score_reward

    task = make_task(world, clip_s=1.0, ref_clip_s=1.0)
    texts = [["a dog", "the boat on a hill"], ["a a a", ""]]
    captions = Captions(["train-1.jpg", "train-6.jpg"], [[(EOS,)] * 2] * 2, texts)
    found = task.rewards("train")(captions).parts
    scorer = load_clip(ClipConfig(checkpoint=str(world / "clip")))
    rows = {row["id"]: row for row in pq.read_table(world / "clip_features" / "part.parquet").to_pylist()}
    for image, number in enumerate((1, 6)):
        stored = np.frombuffer(rows[f"images/train-{number}.jpg"]["features"], "<f2").astype(np.float32)
        vector = torch.from_numpy(stored)[None]
        references = scorer.encode_texts(CAPTIONS[number])[None]
        for sample in range(2):
            text = scorer.encode_texts([texts[image][sample]])
            assert found["clip_s"][image, sample] == pytest.approx(clip_score(vector, text).item(), abs=1e-5)
            expected = ref_clip_score_reward(vector, text, references, torch.ones(1, 3, dtype=torch.bool))
            assert found["ref_clip_s"][image, sample] == pytest.approx(expected.item(), abs=1e-3)
    again = task.rewards("train")(captions).parts
    assert torch.equal(again["ref_clip_s"], found["ref_clip_s"])


def test_images_without_captions_can_be_rewarded_by_clip(world: Path) -> None:
    bare = dataclasses.replace(write_split(world), captions="")
    task = with_config(make_task(world, clip_s=2.0), train=bare, validation=bare)
    task.check()
    metrics, shown = task.validate_and_show(task.build().eval(), [batch := make_batch(task)])
    assert "reward" in metrics
    assert "cider" not in metrics
    assert [one.reference for one in shown] == batch.names[: len(shown)], "the images' names"


def test_missing_inputs_are_found_at_the_start(world: Path, tmp_path: Path) -> None:
    task, split = make_task(world), write_split(world)

    def refused(message: str, task: ScstTask) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            task.check()
        assert "\n" not in str(caught.value)

    def rewarded(**settings) -> ScstTask:
        return with_config(task, reward=dataclasses.replace(task.config.reward, **settings))

    refused(r"prepare_cider\.py makes it", rewarded(frequencies=str(tmp_path / "nothing")))
    other = Vocabulary([*VOCABULARY.to_json(), "zebra"])
    save_frequencies(str(tmp_path / "other"), split.references, other)
    refused("counted with vocabulary", rewarded(frequencies=str(tmp_path / "other")))
    fewer = {name: split.references[name] for name in list(split.references)[1:]}
    save_frequencies(str(tmp_path / "fewer"), fewer, VOCABULARY)
    refused("counted with references", rewarded(frequencies=str(tmp_path / "fewer")))
    refused("no checkpoint", with_config(task, start=str(tmp_path)))
    refused("not the checkpoint", dataclasses.replace(task, start_digest="abc"))
    refused("give captions", with_config(task, train=dataclasses.replace(split, captions="")))

    content = json.loads((world / "captions.json").read_text())
    content["images"] = content["images"][:-2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < IMAGES - 2]
    (tmp_path / "some.json").write_text(json.dumps(content))
    some = dataclasses.replace(split, captions=str(tmp_path / "some.json"))
    refused("no captions for 2 images", with_config(task, validation=some))

    clip = make_task(world, clip_s=1.0)
    bare = dataclasses.replace(split, clip_features="")
    refused("give clip_features", with_config(clip, train=bare))
    wrong = dataclasses.replace(split, clip_features=split.features)
    refused("not extracted with this CLIP", with_config(clip, train=wrong))
    blind = build_clip(TINY)
    save_clip(str(tmp_path / "blind"), blind, TINY, used_tokens=token_ids(["a dog"], TINY))
    reward = dataclasses.replace(clip.config.reward, clip=ClipConfig(checkpoint=str(tmp_path / "blind")))
    scorer = ClipScorer(build_clip(TINY), TINY)
    assert scorer.size == 16
    refused("not extracted with this CLIP", with_config(clip, reward=reward))


def test_a_clip_that_lacks_words_is_refused(world: Path) -> None:
    task = make_task(world, clip_s=1.0)
    longer = Vocabulary([*VOCABULARY.to_json(), "xylophone"])
    loader = dataclasses.replace(task._loader(torch.device("cpu")), vocabulary=longer)
    with pytest.raises(UsageError, match="never seen 1 words of the vocabulary: xylophone"):
        loader.check(task.config.train)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "at least one of cider, bleu"),
        ({"likelihood": 1.0}, "at least one of cider, .*distinct a weight"),
        ({"cider": -1.0, "frequencies": "df"}, r"reward\.cider: -1\.0 is negative"),
        ({"cider": 1.0}, r"reward\.cider needs reward\.frequencies"),
        ({"clip_s": 1.0}, r"reward\.clip_s needs reward\.clip"),
        ({"grammar": 1.0}, r"reward\.grammar needs reward\.clip"),
    ],
)
def test_bad_rewards_are_named(settings, message) -> None:
    with pytest.raises(UsageError, match=message):
        RewardConfig(**settings)


def test_bad_sampling_is_named() -> None:
    with pytest.raises(UsageError, match=r"sampling\.samples: 0"):
        SamplingConfig(samples=0)
    for baseline in ("leave_one_out", "normalized"):
        with pytest.raises(UsageError, match=f"{baseline} needs at least 2"):
            SamplingConfig(samples=1, baseline=baseline)


def test_bad_losses_are_named(world: Path) -> None:
    for name in ("beta", "temperature"):
        with pytest.raises(UsageError, match=rf"loss\.{name}: 0 is not above 0"):
            RewardLossConfig(**{name: 0})
    with pytest.raises(UsageError, match=r"sampling\.samples: loss\.name dico needs at least 2"):
        with_config(make_task(world), loss=RewardLossConfig(name="dico"), sampling=SamplingConfig(samples=1))
    normalized = SamplingConfig(baseline="normalized")
    with pytest.raises(UsageError, match=r"trainer\.optimizer\.accumulate: 2, but sampling\.baseline"):
        with_config(make_task(world), sampling=normalized, trainer=trainer(batch_size=8, accumulate=2))


def test_familiarity_is_copied_from_the_start_or_computed(world: Path, tmp_path: Path) -> None:
    task = make_task(world)
    known = Captioner.load(str(world / "start")).familiarity
    assert known is not None
    task.export(task.build(), str(tmp_path / "best"))
    assert Captioner.load(str(tmp_path / "best")).familiarity.digest == known.digest

    old = shutil.copytree(world / "start", tmp_path / "old")
    (old / FILE).unlink()
    again = with_config(task, start=str(old))
    assert again.captioner.familiarity is None
    again.export(again.build(), str(tmp_path / "new"))
    assert Captioner.load(str(tmp_path / "new")).familiarity.digest == known.digest
