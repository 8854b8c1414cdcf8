"""The packages of the wheel: glied, and configs/ as glied.configs. All else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["glied", "glied.*"]), "glied.configs"],
    package_dir={"glied.configs": "configs"},
)
