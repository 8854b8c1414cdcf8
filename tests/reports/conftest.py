from pathlib import Path

import pytest

from tests.reports.gallery_runs import caption_photographs, make_run


@pytest.fixture(scope="session")
def captioned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with in/, run/ and captions.json; tests must not change it."""
    return make_run(tmp_path_factory.mktemp("gallery"), models)


@pytest.fixture(scope="session")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the demo's photographs with the shipped weights; tests must not change it."""
    return caption_photographs(tmp_path_factory.mktemp("photographed"))
