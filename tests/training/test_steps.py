import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from glied.errors import UsageError
from glied.training import steps
from glied.training.plan import Progress


def factors(count: int, **values: object) -> list[float]:
    settings = {"schedule": "cosine", "warmup_steps": 4, "total_steps": 12, **values}
    return [steps.learning_rate_factor(step, **settings) for step in range(count)]  # type: ignore[arg-type]


def test_schedules_rise_to_one_and_fall_as_named() -> None:
    assert factors(5) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(13)[8] == pytest.approx(0.5)
    assert factors(13)[12] == pytest.approx(0.0)
    assert factors(20, final_factor=0.1)[-1] == pytest.approx(0.1)
    assert factors(30, schedule="constant")[4:] == [1.0] * 26
    noam = factors(20, schedule="noam")
    assert max(noam) == noam[3] == 1.0
    assert noam[15] == pytest.approx(math.sqrt(4 / 16))
    assert factors(1, schedule="noam", warmup_steps=0) == [1.0]


def make_model() -> nn.Module:
    steps.seed_everything(3)
    return nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 1))


def run(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        steps.seed_everything("step", step)
        loss = model(torch.randn(8, 5)).square().mean()
        steps.optimizer_step(loss, model, optimizer, learning_rate=0.01 * (step + 1), clip_norm=1.0)
        losses.append(loss.detach().item())
    return losses


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_restored_state_continues_exactly(name: steps.OptimizerName) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = make_model()
        return model, steps.build_optimizer(model, name=name, learning_rate=0.01, weight_decay=0.1)

    model, optimizer = build()
    uninterrupted = run(model, optimizer, 0, 6)
    model, optimizer = build()
    run(model, optimizer, 0, 3)
    data = steps.pack_state(model, optimizer, Progress(step=3, best=0.5, best_step=2))

    model, optimizer = build()
    progress = steps.unpack_state(data, model, optimizer)
    assert progress == Progress(step=3, best=0.5, best_step=2)
    assert run(model, optimizer, 3, 6) == uninterrupted[3:]


def test_a_state_of_another_model_is_refused() -> None:
    model = make_model()
    optimizer = steps.build_optimizer(model, name="sgd", learning_rate=1.0, weight_decay=0.0)
    data = steps.pack_state(model, optimizer, Progress())
    with pytest.raises(UsageError, match="does not fit"):
        steps.unpack_state(data, nn.Linear(2, 2), optimizer)


def test_only_matrices_are_decayed() -> None:
    optimizer = steps.build_optimizer(make_model(), name="adamw", learning_rate=0.1, weight_decay=0.2)
    matrices, vectors = optimizer.param_groups
    assert [p.ndim for p in matrices["params"]] == [2, 2]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.2, 0.0)
    assert {p.ndim for p in vectors["params"]} == {1}


def test_gradients_are_clipped() -> None:
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = 100 * model(torch.ones(1, 1)).sum()
    steps.optimizer_step(loss, model, optimizer, learning_rate=0.5, clip_norm=2.0)
    assert float((before - model.weight).detach()) == pytest.approx(1.0, rel=1e-4)


def test_seeds_depend_on_every_value() -> None:
    assert steps.fold_seed(1, 23) != steps.fold_seed(12, 3)
    steps.seed_everything(1, "a")
    first = torch.rand(3)
    steps.seed_everything(1, "a")
    assert torch.equal(first, torch.rand(3))
    assert torch.equal(
        torch.rand(3, generator=steps.generator(7)), torch.rand(3, generator=steps.generator(7))
    )


def test_averages_weight_each_scalar_separately() -> None:
    averages = steps.Averages()
    averages.add({"a": 1.0, "b": torch.tensor(4.0)})
    averages.add({"a": 3.0})
    assert averages.take() == {"a": 2.0, "b": 4.0}
    assert averages.take() == {}
    averages.add({"a": 1.0}, weight=3.0)
    averages.add({"a": torch.tensor(5.0)}, weight=torch.tensor(1))
    assert averages.weight("a") == 4.0
    assert averages.take() == {"a": 2.0}
    assert steps.merge_means([({"a": 1.0}, 3.0), ({"a": 2.0, "b": 5.0}, 1.0)]) == {"a": 1.25, "b": 5.0}


@dataclass(frozen=True)
class Batch:
    x: Tensor
    names: list[str]


def test_nested_batches_are_moved() -> None:
    batch = ({"a": torch.ones(2)}, [Batch(torch.zeros(1), ["n"])], "text")
    moved = steps.move(batch, torch.device("meta"))
    assert moved[0]["a"].is_meta
    assert moved[1][0].x.is_meta
    assert moved[1][0].names == ["n"]
    assert moved[2] == "text"
