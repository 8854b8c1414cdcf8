"""Devices of torch by the names that configs give them."""

import torch

from glied.errors import UsageError


def check_device(name: str, *, key: str) -> torch.device:
    """Return the torch device, if this machine has it.

    Args:
        name: such as "cpu" or "cuda:0".
        key: the config key that named it, for the error.

    Raises:
        UsageError: there is no such device, or no GPU here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{key}: {name} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"{key}: {name}, but there is no GPU here (resources.worker.gpus is what asks for one)"
        )
    return device
