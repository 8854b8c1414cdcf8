"""Captions from the files people have them in, and the references that go with them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from glied import storage
from glied.bulk.run.committed_rows import read_rows
from glied.data import caption_files
from glied.data.coco import load_images
from glied.data.image_names import ImageNames
from glied.errors import UsageError

NAMED = 5
"""So many ids stand in a message; their number always does."""


def read_captions(uri: str) -> dict[str, str]:
    """Caption by image, from a run folder or a file: COCO results JSON, JSON lines, a table.

    Images are named by id (of a run) or as in the file. Those without a caption (rejected or failed, null in
    JSON) get an empty one, so that a run cannot gain by leaving out what is hard.

    Raises:
        UsageError: the file is of no such form, or names an image twice.
    """
    pairs = _of_file(uri) if is_file(uri) else [(row["id"], row["caption"] or "") for row in read_rows(uri)]
    counts = Counter(name for name, _ in pairs)
    twice = [name for name, _ in pairs if counts[name] > 1]
    if twice:
        raise UsageError(
            f"{uri}: {sum(n > 1 for n in counts.values())} images are named twice: {some(twice)}"
        )
    return dict(pairs)


def is_file(uri: str) -> bool:
    """Whether captions are in a file, and not in a run folder."""
    return uri.lower().endswith(caption_files.SUFFIXES) or storage.exists(uri)


def match_captions(
    captions: Mapping[str, str],
    aliases: Mapping[str, Iterable[str]],
    *,
    uri: str,
    source: str,
    partial: bool = False,
) -> dict[str, str]:
    """The caption of every image of a set, in the order of the set.

    Args:
        captions: caption by any name of its image.
        aliases: by image, the names it goes by.
        uri: where the captions are from, for messages.
        source: where the set is from, for messages.
        partial: leave out images without a caption instead of refusing.

    Raises:
        UsageError: an image has no caption, or two under different names, or a captioned image is unknown.
    """
    names = _resolved(captions, aliases, source)
    unknown = [name for name in captions if name not in names]
    if unknown:
        raise UsageError(f"{uri}: {source} does not know {len(unknown)} captioned images: {some(unknown)}")
    counts = Counter(names.values())
    twice = [name for name in captions if counts[names[name]] > 1]
    if twice:
        raise UsageError(
            f"{uri}: {sum(n > 1 for n in counts.values())} images are named twice: {some(twice)}"
        )
    missing = [name for name in aliases if name not in counts]
    if missing and (not partial or not counts):
        raise UsageError(
            f"{uri}: {len(missing)} of the {len(aliases)} images of {source} have no caption: {some(missing)}"
            + (". --partial true scores the others" if counts else "")
        )
    found = {names[name]: caption for name, caption in captions.items()}
    return {name: found[name] for name in aliases if name in found}


def coco_aliases(uri: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The images of a captions file by file name: their references, and the names they go by.

    Raises:
        UsageError: as `load_images`.
    """
    images = load_images(uri)
    references = {image.file_name: image.captions for image in images}
    return references, {image.file_name: [image.file_name, str(image.id)] for image in images}


def find_references(uri: str, names: Sequence[str]) -> dict[str, list[str]]:
    """References of those of the named images that a captions file knows.

    Args:
        uri: of the captions file.
        names: ids of a run, file names or COCO ids as text.

    Raises:
        UsageError: the file is missing or of another form.
    """
    references, aliases = coco_aliases(uri)
    known = _resolved(names, aliases, uri)
    return {name: references[known[name]] for name in names if name in known}


def read_references(uri: str, names: Sequence[str]) -> dict[str, list[str]]:
    """References of all the named images, as `find_references`.

    Raises:
        UsageError: also where the file does not know one of the images.
    """
    found = find_references(uri, names)
    check_found(uri, names, found)
    return found


def check_found(uri: str, names: Sequence[str], found: Mapping[str, Sequence[str]]) -> None:
    """Refuse a captions file that does not know all of the named images.

    Raises:
        UsageError: it lacks some.
    """
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UsageError(f"{uri} has no references for {len(unknown)} captioned images: {some(unknown)}")


def base_name(image_id: str) -> str:
    """The file name in a run's id, which is the path below the run's input."""
    return image_id.rsplit("/", 1)[-1]


def some(names: Sequence[str]) -> str:
    """The first few names of a list that may be long."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _resolved(names: Iterable[str], aliases: Mapping[str, Iterable[str]], source: str) -> dict[str, str]:
    """The image that each name means, by one of its aliases or by a path that ends in one.

    Raises:
        UsageError: a name may mean several images.
    """
    known = _by_alias(aliases)
    joined = ImageNames(known, source)
    found = ((name, name if name in known else joined.find(name)) for name in names)
    return {name: known[alias] for name, alias in found if alias is not None}


def _by_alias(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Image by each of its names; its own is always its own, what two images share otherwise is nobody's."""
    names: dict[str, str | None] = {}
    for image, others in aliases.items():
        for other in set(others):
            names[other] = image if other not in names else None
    return {other: image for other, image in names.items() if image} | {image: image for image in aliases}


def _of_file(uri: str) -> list[tuple[str, str]]:
    """Images and captions of a file.

    Raises:
        UsageError: it is of no known form, or has several captions of an image.
    """
    content = caption_files.read(uri)
    if isinstance(content, dict):
        found = [(image.file_name, image.captions, uri) for image in load_images(uri)]
    else:
        found = [(one.image, [text or "" for text in one.captions], one.where) for one in content]
    for name, captions, where in found:
        if len(captions) != 1:
            raise UsageError(f"{where}: {name} has {len(captions)} captions, one is scored")
    return [(name, captions[0]) for name, captions, _ in found]
