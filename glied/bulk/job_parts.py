"""What the configs of several bulk jobs have in common: the pool that decodes, and checks."""

from glied.bulk.chunks import Pool, StageFactory
from glied.bulk.config import ResourcesConfig
from glied.errors import UsageError


def check_budget(budget: float) -> None:
    """Refuse an error budget that is no share."""
    if not 0 <= budget <= 1:
        raise UsageError(f"error_budget: {budget} is not between 0 and 1")


def image_pool(factory: StageFactory, resources: ResourcesConfig) -> Pool:
    """The pool that decodes images."""
    return Pool(
        factory=factory,
        workers=resources.workers,
        cpus=resources.worker_cpus,
        gpus=resources.worker_gpus,
        threads=resources.worker_threads,
        memory=resources.worker_memory,
        accelerator=resources.worker_accelerator,
    )
