"""Matching of image names between stores, runs, captions files and lists.

A name is a path, and either side may omit leading folders: "photos/a/1.jpg", "a/1.jpg" and "1.jpg" can name
the same image, "a/1.jpg" and "b/1.jpg" cannot.
"""

import re
from collections.abc import Iterable, Sequence

from glied.errors import UsageError

_CURE = "use the same names, with folders, in both"
_SEPARATORS = re.compile(r"/|\\(?!ud[89a-f])")
"""Both slashes, except the backslash of surrogates that `caption_files.escaped` wrote."""


def parts(name: str) -> tuple[str, ...]:
    """Split a path or URI at both kinds of slashes, file name first, without "." and ".."."""
    return tuple(part for part in reversed(_SEPARATORS.split(name)) if part not in ("", ".", ".."))


class ImageNames:
    """A set of image names in which other names can be looked up."""

    def __init__(self, names: Iterable[str], source: str) -> None:
        """Index `names`; `source` says in messages where they come from."""
        self.source = source
        self._exact: set[str] = set()
        self._by_file: dict[str, list[str]] = {}
        for name in names:
            self._exact.add(name)
            for file in parts(name)[:1]:
                self._by_file.setdefault(file, []).append(name)

    def find(self, name: str) -> str | None:
        """Return the name of this set that matches `name`, or None.

        An identical name matches best, otherwise the one that shares most of the path.

        Raises:
            UsageError: several names match equally well.
        """
        if name in self._exact:
            return name
        wanted = parts(name)
        matches = [
            one for one in self._by_file.get("".join(wanted[:1]), []) if _same_image(parts(one), wanted)
        ]
        if not matches:
            return None
        longest = min(max(len(parts(one)) for one in matches), len(wanted))
        best = [one for one in matches if min(len(parts(one)), len(wanted)) == longest]
        if len(best) > 1:
            raise UsageError(f"{name} matches both {best[0]} and {best[1]} of {self.source}: {_CURE}")
        return best[0]

    def join(self, names: Iterable[str], source: str) -> dict[str, str]:
        """Map each of `names`, which come from `source`, to its match in this set; omits names without one.

        Raises:
            UsageError: as `find`, or two names have the same match.
        """
        matches: dict[str, str] = {}
        owners: dict[str, str] = {}
        for name in names:
            own = self.find(name)
            if own is None:
                continue
            if owners.setdefault(own, name) != name:
                both = f"{owners[own]} and {name} of {source}"
                raise UsageError(f"{both} both match {own} of {self.source}: {_CURE}")
            matches[name] = own
        return matches


def _same_image(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two reversed paths differ only in leading folders that one of them omits."""
    return all(a == b for a, b in zip(one, other, strict=False))
