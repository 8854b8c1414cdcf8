"""Reading of captions to be scored, and matching them with references."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from glied import storage
from glied.bulk.run.committed_rows import read_rows
from glied.data import caption_files
from glied.data.coco import load_images
from glied.data.image_names import ImageNames
from glied.errors import UsageError

NAMED = 5
"""Maximum number of ids that a message lists; it always states their total."""


def read_captions(uri: str) -> dict[str, str]:
    """Read the caption of each image from a run folder or a file: COCO results JSON, JSON lines, a table.

    Keys are the ids of the run or the names in the file. Images without a caption (rejected or failed, null
    in JSON) get an empty one, so that a run cannot improve its score by skipping difficult images.

    Raises:
        UsageError: the file has another format, or contains an image twice.
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
    """Whether captions are in a file rather than a run folder."""
    return uri.lower().endswith(caption_files.SUFFIXES) or storage.exists(uri)


def match_captions(
    captions: Mapping[str, str],
    aliases: Mapping[str, Iterable[str]],
    *,
    uri: str,
    source: str,
    partial: bool = False,
) -> dict[str, str]:
    """Match captions to a set of images; return them in the order of the set.

    Args:
        captions: caption by any name of its image.
        aliases: the names of each image.
        uri: source of the captions, for messages.
        source: source of the set, for messages.
        partial: skip images without a caption instead of raising.

    Raises:
        UsageError: an image has no caption or several under different names, or a captioned image is unknown.
    """
    names = _resolved(captions, aliases, source)
    unknown = [name for name in captions if name not in names]
    if unknown:
        raise UsageError(f"{uri}: {source} lacks {len(unknown)} captioned images: {some(unknown)}")
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
    by_image = {names[name]: caption for name, caption in captions.items()}
    return {name: by_image[name] for name in aliases if name in by_image}


def coco_aliases(uri: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Load a captions file; return the references and the aliases of each image by file name.

    Raises:
        UsageError: as `load_images`.
    """
    images = load_images(uri)
    references = {image.file_name: image.captions for image in images}
    return references, {image.file_name: [image.file_name, str(image.id)] for image in images}


def find_references(uri: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Load the references of those named images that a captions file contains.

    Args:
        uri: URI of the captions file.
        names: ids of a run, file names, or COCO ids as text.

    Raises:
        UsageError: the file is missing or has another format.
    """
    references, aliases = coco_aliases(uri)
    known = _resolved(names, aliases, uri)
    return {name: references[known[name]] for name in names if name in known}


def check_found(uri: str, names: Sequence[str], found: Mapping[str, Sequence[str]]) -> None:
    """Check that references were found for all named images.

    Raises:
        UsageError: some are missing.
    """
    unknown = [name for name in names if name not in found]
    if unknown:
        raise UsageError(f"{uri} has no references for {len(unknown)} captioned images: {some(unknown)}")


def base_name(image_id: str) -> str:
    """Return the file name in a run's id, which is the path below the run's input."""
    return image_id.rsplit("/", 1)[-1]


def some(names: Sequence[str]) -> str:
    """Join the first few names of a list for a message."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _resolved(names: Iterable[str], aliases: Mapping[str, Iterable[str]], source: str) -> dict[str, str]:
    """Map each name to its image, by an alias or by a path that ends in one.

    Raises:
        UsageError: a name matches several images.
    """
    known = _by_alias(aliases)
    joined = ImageNames(known, source)
    matches = ((name, name if name in known else joined.find(name)) for name in names)
    return {name: known[alias] for name, alias in matches if alias is not None}


def _by_alias(aliases: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Index images by alias.

    An image's own name takes precedence, other aliases of two images are dropped.
    """
    names: dict[str, str | None] = {}
    for image, others in aliases.items():
        for other in set(others):
            names[other] = image if other not in names else None
    return {other: image for other, image in names.items() if image} | {image: image for image in aliases}


def _of_file(uri: str) -> list[tuple[str, str]]:
    """Read images and captions of a file.

    Raises:
        UsageError: the format is unknown, or an image has several captions.
    """
    content = caption_files.read(uri)
    if isinstance(content, dict):
        found = [(image.file_name, image.captions, uri) for image in load_images(uri)]
    else:
        found = [(one.image, [text or "" for text in one.captions], one.where) for one in content]
    for name, captions, where in found:
        if len(captions) != 1:
            raise UsageError(f"{where}: {name} has {len(captions)} captions, but only one can be scored")
    return [(name, captions[0]) for name, captions, _ in found]
