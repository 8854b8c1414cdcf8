"""What type checkers see of the package: the Python API as if it were imported."""

from glied.api import Caption as Caption
from glied.api import Captioner as Captioner

__version__: str
