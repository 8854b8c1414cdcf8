"""Names of modules that version 0.1 documented still work, with a warning that names the new module."""

import importlib

import pytest

NAMES = {
    "glied.bulk.results": ("glied.bulk.run.committed_rows", ["files", "read_rows"]),
    "glied.datasets": ("glied.data", ["features"]),
}


@pytest.mark.parametrize("old", NAMES)
def test_an_old_name_imports_the_new_module(old: str) -> None:
    new, names = NAMES[old]
    with pytest.warns(DeprecationWarning, match=rf"{old} is now {new}$"):
        module = importlib.reload(importlib.import_module(old))
    there = importlib.import_module(new)
    for name in names:
        assert getattr(module, name) is getattr(there, name)


def test_a_module_of_an_old_package() -> None:
    from glied.data import features
    from glied.datasets.features import paths

    assert paths is features.paths
