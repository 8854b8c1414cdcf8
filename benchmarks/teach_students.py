"""The teacher and the students of benchmarks/teach.py: captions to learn from, trainings, figures."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.captioners import captions_of, configured, test_images
from benchmarks.claims_figures import MAX_LENGTH, digest
from benchmarks.measurement import torch_machine
from benchmarks.teach_worlds import STUDENTS, TEACHER
from glied import storage
from glied.bulk.run.committed_rows import read_rows
from glied.captioner.captioner import Captioner
from glied.captioner.config import DecodingConfig
from glied.clip.config import ClipConfig
from glied.data import coco, features
from glied.data.captioned_regions import CaptionedRegions
from glied.data.coco import CaptionedImage
from glied.metrics.clip_metrics import ClipMetrics
from glied.metrics.diversity import diversity
from glied.metrics.text_metrics import text_metrics
from glied.teach import choosing
from glied.teach.clip_scoring import CaptionScorer
from glied.teach.job_runner import JobRunner
from glied.teach.known_captions import texts_of
from glied.text.references import save_frequencies
from glied.training import history
from glied.training.local_trainer import train_here
from glied.training.tasks.attributes import AttributesTask, TrainAttributesConfig
from glied.training.tasks.captioner import CaptionerTask, TrainCaptionerConfig
from glied.training.tasks.scst import ScstTask, TrainScstConfig

if TYPE_CHECKING:
    from benchmarks.teach_config import Config

CANDIDATES, KEPT, TEMPERATURE, DROPPED = 5, 3, 0.7, 0.2
"""As configs/teach/demo.yaml: captions of an image drawn and kept, and the share of images left out."""
SHORT_STEPS, SHORT_IMAGES = 2, 24


@dataclass(frozen=True)
class Stores:
    """Images of a split as stored regions with captions to learn from."""

    features: str
    captions: str


class Lesson:
    """Everything for the students of one seed."""

    def __init__(self, config: "Config", seed: int) -> None:
        """Take the world from the config."""
        self.config, self.seed, self.world = config, seed, config.spec
        self.jobs = JobRunner.of("local")

    def _path(self, *parts: str) -> str:
        return str(self.config.folder.absolute().joinpath(*parts))

    # ---- images

    def _references(self, split: str) -> dict[str, list[str]]:
        return coco.load_captions(storage.join(self.config.data, split, "captions.json"))

    @cached_property
    def _train_ids(self) -> list[str]:
        """Training images in an order that depends on their names only."""
        ids = features.image_ids(storage.join(self.config.features, "train"))
        return sorted(ids, key=lambda one: hashlib.sha256(one.encode()).hexdigest())

    def _images(self, part: str) -> list[str]:
        """Images of "taught" (the students'), "teaching" (the teacher's) or a split."""
        if part in ("val", "test"):
            found = features.image_ids(storage.join(self.config.features, part))
        else:
            count = self.world.teacher_images
            found = self._train_ids[:count] if part == "teaching" else self._train_ids[count:]
        return found[:SHORT_IMAGES] if self.config.short else found

    def _store(self, part: str, images: Sequence[str] | None = None, name: str = "") -> str:
        """A feature store with some images of another one."""
        split = part if part in ("val", "test") else "train"
        target = Path(self._path("stores", name or part))
        if not (target / "done").exists():
            wanted = pa.array(self._images(part) if images is None else images)
            target.mkdir(parents=True, exist_ok=True)
            for number, path in enumerate(features.paths(storage.join(self.config.features, split))):
                table = pq.read_table(path)
                kept = table.filter(pc.is_in(table["id"], wanted))
                if len(kept):
                    (target / f"{number:04}.parquet").write_bytes(features.parquet_bytes(kept))
            (target / "done").touch()
        return str(target)

    # ---- captions to learn from

    def stores(self, learns_from: str, part: str = "taught") -> Stores:
        """Regions and captions of the students' training images, or of "val"."""
        if learns_from == "references":
            texts: Mapping[str, Sequence[str]] = self._references_of(part)
        else:
            texts = self._by_teacher(part, filtered=learns_from == "filtered")
        name = f"{part}-{learns_from}-{self._teacher_seed}"
        uri = self._path("captions", f"{name}.json")
        images = [CaptionedImage(one, one, [*found]) for one, found in texts.items()]
        storage.write_bytes(uri, coco.write_captions(images))
        some = learns_from == "filtered" and part == "taught"
        return Stores(self._store(part, [*texts], name) if some else self._store(part), uri)

    def _references_of(self, part: str) -> dict[str, list[str]]:
        every = self._references(part if part == "val" else "train")
        return {image: every[image] for image in self._images(part)}

    def _by_teacher(self, part: str, *, filtered: bool) -> dict[str, list[str]]:
        said = {row["id"]: texts_of(row["captions"]) for row in read_rows(self._taught_by(part))}
        if not filtered:
            return {image: texts[:KEPT] for image, texts in said.items()}
        split = "val" if part == "val" else "train"
        scorer = CaptionScorer(ClipConfig(checkpoint=self.config.filter_clip), self._vectors(split), "cpu")
        return choosing.best(scorer.clip_s(said), keep=KEPT, drop=0.0 if part == "val" else DROPPED)

    def _taught_by(self, part: str) -> str:
        """The run folder with the teacher's captions of the images of a part."""
        uri = self._path("said", f"{part}-{self._teacher_seed}")
        decoding = {"method": "sample", "n_best": CANDIDATES, "sampling": {"temperature": TEMPERATURE}}
        attributes, captioner = self._teacher
        self.jobs.caption(
            {
                "input": {"uri": self._store(part), "form": "features"},
                "output": {"uri": uri, "unit_size": 256},
                "regions": {"kind": "precomputed", "device": "cpu"},
                "attributes": {"checkpoint": attributes},
                "captioner": {"checkpoint": captioner},
                "decoding": {**decoding, "max_length": MAX_LENGTH},
                "error_budget": 0.0,
            }
        )
        return uri

    def _vectors(self, split: str) -> str:
        """The filter's vectors of the images."""
        uri = self._path("vectors", split)
        images = storage.join(self.config.data, split, "images")
        limit = {"limit": SHORT_IMAGES} if self.config.short else {}
        self.jobs.extract(
            {
                "input": {"uri": images, **limit},
                "output": {"uri": uri, "unit_size": 256},
                "regions": {
                    "kind": "clip",
                    "clip": {"checkpoint": self.config.filter_clip},
                    "device": "cpu",
                },
            }
        )
        return uri

    # ---- trainings

    @property
    def _teacher_seed(self) -> int:
        """A teacher that is given is the same for all seeds."""
        return 0 if self.config.teacher else self.seed

    @cached_property
    def _teacher(self) -> tuple[str, str]:
        """Attribute predictor and captioner of the teacher, which is trained where none is given."""
        if self.config.teacher:
            return self.world.teacher_attributes, self.config.teacher
        references, images = self._references("train"), self._images("teaching")
        uri = self._path("captions", "teaching.json")
        captioned = [CaptionedImage(one, one, references[one]) for one in images]
        storage.write_bytes(uri, coco.write_captions(captioned))
        train = Stores(self._store("teaching"), uri)
        return self._cross_entropy(f"{TEACHER}-{self.seed}", train, self.stores("references", "val"))

    def trained(self, name: str) -> tuple[str, str]:
        """Attribute predictor and captioner of a student."""
        student = STUDENTS[name]
        train, val = self.stores(student.learns_from), self.stores(student.learns_from, "val")
        before = f"{name.removesuffix('_cider')}-{self.seed}"
        attributes, captioner = self._cross_entropy(before, train, val)
        if not student.reward:
            return attributes, captioner
        return attributes, self._rewarded(f"{name}-{self.seed}", attributes, captioner, train, val)

    def _cross_entropy(self, name: str, train: Stores, val: Stores) -> tuple[str, str]:
        predictor = self._settings("attributes", TrainAttributesConfig, f"{name}/attributes", train, val)
        train_here(AttributesTask(predictor), predictor.trainer)
        attributes = self._path(name, "attributes", "best")
        more = {"words.attributes": attributes}
        settings = self._settings("captioner", TrainCaptionerConfig, f"{name}/glied", train, val, more)
        train_here(CaptionerTask(config=settings), settings.trainer)
        return attributes, self._path(name, "glied", "best")

    def _rewarded(self, name: str, attributes: str, captioner: str, train: Stores, val: Stores) -> str:
        table = self._path(name, "cider")
        save_frequencies(table, coco.load_captions(train.captions), Captioner.load(captioner).vocabulary)
        more = {"start": captioner, "attributes": attributes, "reward.frequencies": table}
        settings = self._settings("reward", TrainScstConfig, f"{name}/glied", train, val, more)
        task = ScstTask.of(settings)
        task.check()
        train_here(task, settings.trainer)
        return self._path(name, "glied", "best")

    def _settings(
        self,
        job: str,
        kind: type,
        name: str,
        train: Stores,
        val: Stores,
        more: Mapping[str, str] | None = None,
    ) -> Any:
        lengths = dict(self.world.lengths[job])
        if self.config.short:
            lengths = {"max_steps": SHORT_STEPS, "batch_size": 8, "schedule.warmup_steps": 0}
        options: dict[str, Any] = {f"trainer.{key}": value for key, value in lengths.items()}
        options |= {"train.features": train.features, "train.captions": train.captions}
        options |= {"validation.features": val.features, "validation.captions": val.captions}
        options |= {"trainer.output": self._path(name), "trainer.seed": self.seed}
        options |= {"trainer.resources.threads_per_worker": self.config.threads}
        if self.config.short and job == "attributes":
            options["minimum_positives"] = 1
        return configured(
            kind, self.world.configs[job], options | dict(self.world.settings[job]) | dict(more or {})
        )

    # ---- figures

    def measure(self, name: str) -> dict[str, Any]:
        """Train a student, or the teacher, and caption the test images greedily."""
        attributes, captioner = self._teacher if name == TEACHER else self.trained(name)
        texts = self._captions(attributes, captioner)
        folders = [] if self.config.teacher and name == TEACHER else [f"{name}-{self.seed}"]
        return {
            "student": name,
            "seed": self.seed,
            "figures": figures(self.config, texts) | self._minutes(folders),
            "judge": digest(self.config.judge),
            "captions": texts,
            "machine": torch_machine(),
            "date": time.strftime("%Y-%m-%d"),
        }

    def _captions(self, attributes: str, captioner: str) -> dict[str, str]:
        model = Captioner.load(captioner, DecodingConfig(beam_size=1, max_length=MAX_LENGTH))
        test = CaptionedRegions(
            features=storage.join(self.config.features, "test"),
            captions=storage.join(self.config.data, "test", "captions.json"),
        )
        predictor = _predictor(attributes)
        images = test_images(
            test, predictor, model.attribute_count, SHORT_IMAGES if self.config.short else None
        )
        return dict(zip(self._images("test"), captions_of(model, images), strict=True))

    def _minutes(self, folders: Sequence[str]) -> dict[str, float]:
        runs = [history.read_history(self._path(folder, "glied")) for folder in folders]
        return {"CPU minutes": sum(run.cpu_minutes(run.steps) for run in runs)} if runs else {}


@cache
def _predictor(uri: str) -> Any:
    from glied.vision.attributes import load_attributes

    return load_attributes(uri)


def figures(config: "Config", texts: Mapping[str, str]) -> dict[str, float]:
    """Compute the figures of captions of the test images, from the captions alone."""
    references = coco.load_captions(storage.join(config.data, "test", "captions.json"))
    found = text_metrics(texts, {image: references[image] for image in texts})
    found = {name: found[name] for name in ("CIDEr", "BLEU-4")}
    statistics = diversity(texts.values())
    found |= {
        "repeated bigrams": statistics["repeats-2"],
        "length": statistics["length"],
        "vocabulary": statistics["vocabulary"],
    }
    for name, uri in (("judge", config.judge), ("filter", config.filter_clip)):
        if digest(uri) is not None:
            values = _clip(uri, storage.join(config.data, "test", config.spec.images))(texts).values
            found |= {f"{name} {figure}": values[figure] for figure in ("R@1", "R@5", "CLIP-S")}
    return found


@cache
def _clip(uri: str, images: str) -> ClipMetrics:
    """Return the metrics of a CLIP; cached, so that the images are encoded once."""
    return ClipMetrics(ClipConfig(checkpoint=uri), images)


def prepare(config: "Config") -> None:
    """Set the number of torch threads."""
    torch.set_num_threads(config.threads)
    config.result_folder.mkdir(parents=True, exist_ok=True)


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result of a student."""
    storage.write_bytes(str(path), json.dumps(result, indent=1).encode() + b"\n")
