"""Deprecated name of `glied.data`, to be removed in version 0.3.

Config files that `--print_config` of version 0.1 wrote name classes of these modules, too.
"""

import sys
import warnings

from glied.data import captioned, features, pairs

__all__ = ["captioned", "features", "pairs"]

for _name in __all__:  # for `from glied.datasets.features import ...`
    sys.modules[f"{__name__}.{_name}"] = globals()[_name]
warnings.warn("glied.datasets is now glied.data", DeprecationWarning, stacklevel=2)
