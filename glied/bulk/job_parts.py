"""What the configs of several bulk jobs have in common: their pools of actors, and checks."""

from glied.bulk.config import ActorsConfig
from glied.bulk.items import ActorPoolSpec, StageFactory
from glied.errors import UsageError


def check_budget(budget: float) -> None:
    """Refuse an error budget outside 0 to 1."""
    if not 0 <= budget <= 1:
        raise UsageError(f"error_budget: {budget} is not between 0 and 1")


def actor_pool(factory: StageFactory, actors: ActorsConfig, *, threads: int) -> ActorPoolSpec:
    """A pool of actors that build a factory's stage, each with so many threads of torch."""
    return ActorPoolSpec(
        factory=factory,
        workers=actors.count,
        cpus=actors.cpus,
        gpus=actors.gpus,
        threads=threads,
        memory=actors.memory,
        accelerator=actors.accelerator,
    )
