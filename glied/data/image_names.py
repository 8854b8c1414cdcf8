"""Which image a name means: ids of stores and runs, file names of captions, names in lists.

A name is a path, of which each side may leave out folders: "photos/a/1.jpg", "a/1.jpg" and "1.jpg" can be the
same image, "a/1.jpg" and "b/1.jpg" cannot.
"""

import re
from collections.abc import Iterable, Sequence

from glied.errors import UsageError

_CURE = "give both the same names, with their folders"
_SEPARATORS = re.compile(r"/|\\(?!ud[89a-f])")
"""Both slashes, but for the one with which `caption_files.escaped` spells out half a character."""


def parts(name: str) -> tuple[str, ...]:
    """The parts of a path or URI, the file name first; both slashes separate, "." and ".." do not count."""
    return tuple(part for part in reversed(_SEPARATORS.split(name)) if part not in ("", ".", ".."))


class ImageNames:
    """A set of names, in which other names are looked up."""

    def __init__(self, names: Iterable[str], source: str) -> None:
        """`source` says in messages where the names are from."""
        self.source = source
        self._exact: set[str] = set()
        self._by_file: dict[str, list[str]] = {}
        for name in names:
            self._exact.add(name)
            for file in parts(name)[:1]:
                self._by_file.setdefault(file, []).append(name)

    def find(self, name: str) -> str | None:
        """What `name` is called here: the same, or what shares most of its path; None if it is not here.

        Raises:
            UsageError: several fit equally well.
        """
        if name in self._exact:
            return name
        wanted = parts(name)
        fitting = [
            one for one in self._by_file.get("".join(wanted[:1]), []) if _one_image(parts(one), wanted)
        ]
        if not fitting:
            return None
        longest = min(max(len(parts(one)) for one in fitting), len(wanted))
        best = [one for one in fitting if min(len(parts(one)), len(wanted)) == longest]
        if len(best) > 1:
            raise UsageError(f"{name} may be {best[0]} or {best[1]} of {self.source}: {_CURE}")
        return best[0]

    def join(self, names: Iterable[str], source: str) -> dict[str, str]:
        """What each of `names` of `source` is called here; those that are not here are left out.

        Raises:
            UsageError: as `find`, or two of them are called the same here.
        """
        found: dict[str, str] = {}
        owners: dict[str, str] = {}
        for name in names:
            own = self.find(name)
            if own is None:
                continue
            if owners.setdefault(own, name) != name:
                both = f"{owners[own]} and {name} of {source}"
                raise UsageError(f"{both} may both be {own} of {self.source}: {_CURE}")
            found[name] = own
        return found


def _one_image(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two paths, given from their ends, differ in nothing but folders that one leaves out."""
    return all(a == b for a, b in zip(one, other, strict=False))
