"""Writing a split of the demo world: images, COCO captions, region annotations, FineCapEval phrases.

Each scene depends only on (split, seed, index), so the files do not depend on the number of processes, and
the first 200 scenes of a split of 500 equal a split of 200.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

from PIL import Image
from tqdm import tqdm

from glied.demo_world.catalog import CLASSES, COLORS, PATTERNS, SIZES, STUFF
from glied.demo_world.hard_negatives import hard_negatives
from glied.demo_world.language import Language, describe
from glied.demo_world.plan import stream
from glied.demo_world.world import Scene, draw, sample_scene
from glied.errors import UsageError

JPEG_QUALITY = 92
PHRASE_SEPARATOR = "\\;"
CRITERIA = ("background", "object", "relation")

Written: TypeAlias = tuple[dict, str]
"""A scene's line of annotations.jsonl, and the text of its lines of hard_negatives.jsonl."""


def write_split(out: Path, split: str, count: int, seed: int, workers: int) -> None:
    """Render `count` scenes of a split, and write their captions and annotations.

    Raises:
        UsageError: the folder cannot be written.
    """
    images = out / "images"
    try:
        images.mkdir(parents=True, exist_ok=True)
        probe = images / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from error
    task = partial(write_scene, split=split, seed=seed, images=images)
    scenes = tqdm(_map(task, count, workers), total=count, unit="scene", disable=not sys.stderr.isatty())
    rows, negatives = map(list, zip(*scenes, strict=True))
    _write(out / "annotations.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write(out / "captions.json", json.dumps(coco(rows)))
    _write(out / "descriptions.jsonl", "".join(json.dumps(described(row)) + "\n" for row in rows))
    _write(out / "hard_negatives.jsonl", "".join(negatives))
    _write(out / "finecapeval.csv", finecapeval(rows))
    _write(out / "classes.json", json.dumps(classes(), indent=1) + "\n")


def _map(task: partial[Written], count: int, workers: int) -> Iterator[Written]:
    """Yield what was written in index order; a single worker runs in this process."""
    if workers == 1:
        yield from map(task, range(count))
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(task, range(count), chunksize=16)


def write_scene(index: int, *, split: str, seed: int, images: Path) -> Written:
    """Render one scene to `images`; return its annotation and its lines of hard_negatives.jsonl."""
    scene = sample_scene(split, index, seed)
    buffer = io.BytesIO()
    Image.fromarray(draw(scene)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    (images / f"{scene.name}.jpg").write_bytes(buffer.getvalue())
    row = annotation(scene, describe(scene))
    negatives = hard_negatives(row, stream(split, seed, "negatives", index))
    return row, "".join(json.dumps(line) + "\n" for line in negative_lines(row, negatives))


def annotation(scene: Scene, language: Language) -> dict:
    """Describe a scene as a JSON object; boxes are visible extents, xyxy in pixels; stuff follows objects."""
    objects = [
        _object(o.kind, o.box, o.attributes, salient=o.salient, stuff=False) for o in scene.objects
    ] + [_object(name, box, [], salient=False, stuff=True) for name, box in scene.stuff]
    return {
        "id": scene.index,
        "file_name": f"{scene.name}.jpg",
        "width": scene.plan.width,
        "height": scene.plan.height,
        "place": scene.plan.place,
        "light": scene.plan.light,
        "family": scene.plan.family,
        "seed": scene.seed,
        "objects": objects,
        "relations": [list(relation) for relation in scene.relations],
        "captions": list(language.references),
        "description": language.description,
        "clauses": language.clauses,
        "phrases": language.phrases,
    }


def _object(
    name: str, box: tuple[float, float, float, float], attributes: list[str], *, salient: bool, stuff: bool
) -> dict:
    rounded = [round(float(v), 1) for v in box]
    return {"class": name, "box": rounded, "attributes": attributes, "salient": salient, "stuff": stuff}


def coco(rows: list[dict]) -> dict:
    """Return the references in the format of COCO's captions files."""
    images = [{key: row[key] for key in ("id", "file_name", "width", "height")} for row in rows]
    texts = [(row["id"], caption) for row in rows for caption in row["captions"]]
    annotations = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(texts)]
    return {"info": {"description": "GLIED demo scenes"}, "images": images, "annotations": annotations}


def described(row: dict) -> dict:
    """Return a scene as training data for CLIP: image, full description, references, and clauses."""
    texts = [row["description"], *row["captions"]]
    return {"image": f"images/{row['file_name']}", "text": texts, "clauses": row["clauses"]}


def negative_lines(row: dict, negatives: dict[str, dict[str, list[str]]]) -> Iterator[dict]:
    """Yield a scene's hard negatives as lines of hard_negatives.jsonl, one for each kind."""
    for kind, captions in negatives.items():
        yield {"image": f"images/{row['file_name']}", "kind": kind, "negatives": captions}


def finecapeval(rows: list[dict]) -> str:
    """Return the full descriptions and their phrases as a FineCapEval CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "caption", *CRITERIA))
    for row in rows:
        phrases = (PHRASE_SEPARATOR.join(row["phrases"][criterion]) for criterion in CRITERIA)
        writer.writerow((row["file_name"], row["description"], *phrases))
    return text.getvalue()


def classes() -> dict:
    """Return the names of classes, attributes by group, and stuff."""
    attributes = {"color": list(COLORS), "size": list(SIZES), "pattern": list(PATTERNS)}
    return {"classes": list(CLASSES), "attributes": attributes, "stuff": list(STUFF)}


def _write(path: Path, text: str) -> None:
    """Write the file atomically, so that an interrupted run leaves no partial file."""
    partial_path = path.with_name(path.name + ".part")
    partial_path.write_text(text, encoding="utf-8")
    os.replace(partial_path, path)
