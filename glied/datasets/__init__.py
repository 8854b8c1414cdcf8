"""Deprecated name of `glied.data`; goes with version 0.3."""

import sys
import warnings

from glied.data import features

__all__ = ["features"]

sys.modules[f"{__name__}.features"] = features  # for `from glied.datasets.features import ...`
warnings.warn("glied.datasets is now glied.data", DeprecationWarning, stacklevel=2)
