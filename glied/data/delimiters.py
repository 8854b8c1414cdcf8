"""Finding the delimiter of a CSV file by its header."""

from collections.abc import Callable

_DELIMITERS = ",;\t|"


def find_delimiter(usual: str, fits: Callable[[str], bool]) -> str:
    """The usual delimiter, unless only another one gives the header the columns that are needed.

    `fits` says whether the header, split at a delimiter, has these columns.
    """
    return next((delimiter for delimiter in (usual, *_DELIMITERS) if fits(delimiter)), usual)
