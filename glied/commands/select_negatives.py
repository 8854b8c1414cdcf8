"""Select a captioner's bad captions, as negatives of the grammar head.

.venv/bin/python jobs/select_negatives.py --captions runs/captions/clip_s --out runs/bad_captions.jsonl
.venv/bin/python jobs/select_negatives.py --captions runs/captions/clip_s --out runs/bad_captions.jsonl \\
    --scenes data/scenes/train/annotations.jsonl

A caption is bad if a sequence of words occurs in it twice; for scenes of the demo world also if it invents a
relation, one that is false and that no true caption of the scenes states of such objects ("riding a vase").
All captions of an image are read: let a captioner that was trained with a CLIP reward sample several.
bad_captions.captions of jobs/finetune_grammar.py takes the file. The last line is one JSON object with the
numbers of captions.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from glied import storage
from glied.bulk.run.committed_rows import read_rows
from glied.config import parse
from glied.config_checks import check_least
from glied.data import caption_files
from glied.data.coco import load_images
from glied.demo_world.invented_relations import InventedRelations
from glied.errors import JobError, UsageError
from glied.reports.caption_inputs import base_name, is_file
from glied.text.repetition import repeated_share
from glied.text.tokenizer import tokenize


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which captions are selected."""

    captions: str
    """Run folder of jobs/caption_dataset.py, or a captions file (docs/inputs.md)."""
    out: str
    """File (path or URI) for the selected captions: JSON lines with image, caption and reasons."""
    ngram: int = 3
    """Words of a sequence that must not occur twice; 0 does not look for repetitions. Correct captions, too,
    repeat two words ("a red dog and a red ball")."""
    scenes: str = ""
    """annotations.jsonl of jobs/make_scenes.py with the captioned scenes: selects invented relations, too."""

    def __post_init__(self) -> None:
        """Reject what selects nothing."""
        check_least(self, 0, "ngram")
        if not self.ngram and not self.scenes:
            raise UsageError("ngram 0 without scenes selects nothing")


def main() -> int:
    """Select, write, report."""
    config = parse(Config, description=__doc__)
    selected, counts = select(config)
    if not selected:
        raise JobError(f"none of the {counts['captions']} captions of {config.captions} is bad")
    lines = "".join(json.dumps(line) + "\n" for line in selected)
    storage.write_bytes(config.out, lines.encode())
    print(json.dumps(counts))
    return 0


def select(config: Config) -> tuple[list[dict], dict[str, int]]:
    """Return the lines of the bad captions, and how many captions were read and selected, by reason."""
    invents = InventedRelations(_scenes(config.scenes)) if config.scenes else None
    selected, captions = [], dict.fromkeys(_captions(config.captions))
    counts = {"captions": len(captions), "selected": 0, "repeated": 0, "invented": 0}
    for image, caption in captions:
        repeated = bool(config.ngram) and repeated_share(tokenize(caption), config.ngram) > 0
        invented = invents is not None and invents(base_name(image), caption)
        reasons = [name for name, found in (("repeated", repeated), ("invented", invented)) if found]
        if reasons:
            selected.append({"image": image, "caption": caption, "reasons": reasons})
        for name in (*reasons, *["selected"] * bool(reasons)):
            counts[name] += 1
    return selected, counts


def _captions(uri: str) -> Iterator[tuple[str, str]]:
    """Image and caption of all captions of a run or file that are not empty."""
    for image, texts in _of_file(uri) if is_file(uri) else _of_run(uri):
        yield from ((image, text) for text in texts if text)


def _of_run(uri: str) -> Iterator[tuple[str, list[str]]]:
    for row in read_rows(uri):
        yield row["id"], [one["text"] for one in row["captions"] or ()]


def _of_file(uri: str) -> Iterator[tuple[str, list[str]]]:
    content = caption_files.read(uri)
    if isinstance(content, dict):
        yield from ((image.file_name, image.captions) for image in load_images(uri))
    else:
        yield from ((entry.image, [text or "" for text in entry.captions]) for entry in content)


def _scenes(uri: str) -> Iterator[dict]:
    try:
        lines = caption_files.decoded(storage.read_bytes(uri), uri).splitlines()
    except FileNotFoundError as error:
        raise UsageError(f"scenes: there is no {uri}") from error
    for number, line in enumerate(lines, 1):
        scene = caption_files.load_json(line, f"{uri}, line {number}")
        if (
            not isinstance(scene, dict)
            or not {"file_name", "objects", "relations", "captions"} <= scene.keys()
        ):
            raise UsageError(f"scenes: {uri}, line {number} is not one of annotations.jsonl")
        yield scene
