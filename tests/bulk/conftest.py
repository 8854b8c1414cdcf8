from pathlib import Path

import pytest

from tests.bulk.models import save_images, save_models


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """Checkpoints of tiny random models."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """60 images, good and bad, and a sidecar."""
    return save_images(tmp_path_factory.mktemp("photos") / "in", 60)
