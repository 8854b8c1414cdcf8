"""Captions that are there already: in a file, a run, a column of the input, or text files beside images."""

import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from glied import run_folder, storage
from glied.bulk.run.committed_rows import read_rows
from glied.data import caption_files, coco
from glied.data.caption_files import without_surrogates
from glied.data.image_names import ImageNames
from glied.errors import UsageError

log = logging.getLogger(__name__)

_THREADS = 16


def load(uri: str) -> dict[str, list[str]]:
    """Captions by image of a captions file or of the run folder of jobs/caption_dataset.py.

    Raises:
        UsageError: there is neither, or no image has a caption.
    """
    if uri.lower().endswith(caption_files.SUFFIXES) or storage.exists(uri):
        return coco.load_captions(uri)
    _check_run(uri)
    found = {row["id"]: texts_of(row["captions"] or []) for row in read_rows(uri)}
    found = {name: texts for name, texts in found.items() if texts}
    if not found:
        raise UsageError(f"captions {uri}: no image of this run has a caption")
    return found


def _check_run(uri: str) -> None:
    """Refuse what is no run of captions, and say what may be there instead."""
    run = run_folder.committed(uri)
    if run is not None and run.results == "captions":
        return
    if run is not None:
        found = f"the rows of this run are {run.results}"
    elif storage.is_local(uri) and storage.local_path(uri).is_dir():
        found = "this folder holds no run"
    else:
        found = "there is neither a file nor a run"
    raise UsageError(
        f"captions {uri}: {found}. Name a file: {caption_files.FORMS}; or the run folder of "
        "jobs/caption_dataset.py"
    )


def texts_of(ranked: Iterable[dict[str, Any]]) -> list[str]:
    """The captions of a row of a run, the best first, each once."""
    return list(dict.fromkeys(one["text"].strip() for one in ranked if one["text"] and one["text"].strip()))


class KnownCaptions:
    """Captions of a file by the ids of the archive's images."""

    def __init__(self, captions: dict[str, list[str]], source: str) -> None:
        """`source` says in messages where the captions are from."""
        self._captions, self._source = captions, source
        self._names = ImageNames(captions, source)
        self._owners: dict[str, str] = {}
        self._example: str | None = None

    def of(self, image_id: str) -> list[str]:
        """The captions of an image, none where there are none.

        Raises:
            UsageError: several images of the file fit, or two images of the archive fit the same.
        """
        self._example = self._example or image_id
        name = self._names.find(image_id)
        if name is None:
            return []
        if (owner := self._owners.setdefault(name, image_id)) != image_id:
            raise UsageError(
                f"{owner} and {image_id} may both be {name} of {self._source}: give both the "
                "same names, with their folders"
            )
        return self._captions[name]

    def check(self) -> None:
        """Say how many images of the file were not found; called after all images of the archive.

        Raises:
            UsageError: the archive has images, and the file names none of them.
        """
        if self._example is None:
            return
        missing = [name for name in self._captions if name not in self._owners]
        if not self._owners:
            raise UsageError(
                f"{self._source} names no image of the input: it has {missing[0]!r}, for example, the input "
                f"{self._example!r}. Both must have the same file names; folders may be left out"
            )
        if missing:
            log.warning(
                "%s: %d of %d images are not in the input, %s for one",
                self._source, len(missing), len(self._captions), missing[0],
            )  # fmt: skip


def sidecar_uri(uri: str) -> str:
    """Where the captions beside an image are: NAME.txt for NAME.jpg."""
    folder, slash, name = uri.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.txt"


def sidecars(uris: Sequence[str]) -> list[list[str]]:
    """Captions of images from the text files beside them, NAME.txt for NAME.jpg, one a line."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_sidecar, uris))


def _sidecar(uri: str) -> list[str]:
    text_uri = sidecar_uri(uri)
    try:
        text = caption_files.decoded(storage.read_bytes(text_uri), text_uri)
    except FileNotFoundError:
        return []
    return cleaned(text.splitlines())


def of_cell(value: Any) -> list[str]:
    """Captions in a cell of a table: a text, a list of texts, or such a list as JSON."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return cleaned([value])
    return cleaned(value if isinstance(value, list | tuple) else [value])


def cleaned(texts: Iterable[Any]) -> list[str]:
    """Those that are texts and not empty, without blanks around them."""
    return [without_surrogates(one).strip() for one in texts if isinstance(one, str) and one.strip()]
