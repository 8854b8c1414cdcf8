"""Devices that configs name."""

import pytest
import torch

from glied.captioner.devices import check_device
from glied.errors import UsageError


@pytest.mark.parametrize("key", ["regions.device", "captioner.device"])
def test_devices_are_checked_and_the_key_is_named(key: str) -> None:
    assert check_device("cpu", key=key) == torch.device("cpu")
    with pytest.raises(UsageError, match=f"^{key}: tpu9 is not a torch device$"):
        check_device("tpu9", key=key)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=rf"^{key}: cuda, but .* \(resources\.worker\.gpus is"):
            check_device("cuda", key=key)
