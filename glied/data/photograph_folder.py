"""The folder in which the photographs of a dataset are and stay."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from functools import cached_property

from glied import storage
from glied.data.coco import CaptionedImage
from glied.data.image_names import ImageNames, parts
from glied.errors import UsageError


class PhotographFolder:
    """Finds the photographs of captioned images below a folder, by their names with or without folders."""

    def __init__(self, uri: str) -> None:
        """`uri` is a path or URI; empty for none, which is never looked into."""
        self.uri = uri
        self._full_names: dict[str, str] = {}

    def without_folders(self, images: Sequence[CaptionedImage]) -> list[CaptionedImage]:
        """Remove folders from the names of images, unless names would collide; remembers the full names."""
        short = ["".join(parts(image.file_name)[:1]) or image.file_name for image in images]
        if len(set(short)) < len(short):
            return list(images)
        self._full_names = {name: image.file_name for name, image in zip(short, images, strict=True)}
        return [dataclasses.replace(image, file_name=name) for name, image in zip(short, images, strict=True)]

    def present(self, images: Sequence[CaptionedImage]) -> list[CaptionedImage]:
        """The images whose photographs exist."""
        paths = self._paths([image.file_name for image in images])
        return [image for image in images if image.file_name in paths]

    def check(self, splits: Mapping[str, Sequence[CaptionedImage]]) -> None:
        """Check that all photographs exist.

        Raises:
            UsageError: some do not; counts them.
        """
        names = [image.file_name for images in splits.values() for image in images]
        found = self._paths(names)
        missing = [name for name in names if name not in found]
        if missing:
            raise UsageError(
                f"images: {len(found)} of {len(names)} photographs are below {self.uri}, "
                f"{len(missing)} are missing, first {missing[0]}. It must be one folder with all of them; "
                "--skip_missing true skips the missing ones"
            )

    def locations(self, images: Sequence[CaptionedImage]) -> bytes:
        """A CSV with the columns id and uri, as input.form table reads it."""
        paths = self._paths([image.file_name for image in images])
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "uri"])
        writer.writerows(
            [image.file_name, storage.join(self._root, paths[image.file_name])] for image in images
        )
        return text.getvalue().encode()

    @property
    def _root(self) -> str:
        return str(storage.local_path(self.uri).absolute()) if storage.is_local(self.uri) else self.uri

    @cached_property
    def _photographs(self) -> ImageNames | None:
        """Paths of all files below the folder; None on web servers, which cannot be listed."""
        if self._root.startswith(("http://", "https://")):
            return None
        if storage.is_local(self._root) and storage.local_path(self._root).is_file():
            raise UsageError(f"images {self.uri} is a file; name the folder of the photographs")
        return ImageNames((file.name for file in storage.list_files(self._root)), f"images {self.uri}")

    def _paths(self, names: Sequence[str]) -> dict[str, str]:
        """Return the paths of photographs below the folder by file name; raises as `ImageNames.join`."""
        full = {name: self._full_names.get(name, name) for name in names}
        if self._photographs is None:
            return full
        matches = self._photographs.join(full.values(), "the captions")
        return {name: matches[path] for name, path in full.items() if path in matches}
