"""Deprecated name of `glied.data`, to be removed in version 0.3.

Config files that `--print_config` of version 0.1 wrote name classes of these modules, too.
"""

import sys
import warnings

from glied.data import captioned_regions, features, pairs

_MODULES = {"captioned": captioned_regions, "features": features, "pairs": pairs}
__all__ = ["features"]

for _name, _module in _MODULES.items():  # for `from glied.datasets.features import ...`
    sys.modules[f"{__name__}.{_name}"] = _module
    setattr(sys.modules[__name__], _name, _module)
warnings.warn("glied.datasets is now glied.data", DeprecationWarning, stacklevel=2)
