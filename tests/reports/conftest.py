from pathlib import Path

import pytest

from tests.reports.gallery_runs import caption_photographs, make_run


@pytest.fixture(scope="session")
def captioned(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with in/, run/ and captions.json; not to be changed."""
    return make_run(tmp_path_factory.mktemp("gallery"), models)


@pytest.fixture(scope="session")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the demo's photographs, captioned with the weights that ship; not to be changed."""
    return caption_photographs(tmp_path_factory.mktemp("photographed"))
