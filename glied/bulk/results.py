"""Deprecated name of `glied.bulk.run.committed_rows`; goes with version 0.3."""

import warnings

from glied.bulk.run.committed_rows import files, read_rows

__all__ = ["files", "read_rows"]

warnings.warn("glied.bulk.results is now glied.bulk.run.committed_rows", DeprecationWarning, stacklevel=2)
