"""The steps from the archive to stored regions: sample, captions, schedule, features, varied copies."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from glied import storage
from glied.bulk.extraction import ExtractRegionsConfig
from glied.data import coco
from glied.storage import absolute
from glied.teach.images import TaughtImage, read_images, table_of, write_images
from glied.teach.sampling import take_sample
from glied.teach.splitting import check_varied, commonest_caption, size_of, split
from glied.teach.step_records import Done, Facts, Step, StepRecords
from glied.teach.teaching import KNOWN, SPLITS, Teaching

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSteps:
    """The steps that make the data; their order is that of `steps`."""

    teaching: Teaching

    def steps(self) -> list[Step]:
        """All of them."""
        captions_of = "chosen" if self.teaching.config.teacher else "sample"
        return [
            Step(name="sample", needs=(), settings=self._sample_settings, run=self._sample,
                 folders=("sample", "images")),
            *self._teacher_steps(),
            Step(name="captions", needs=(captions_of,), settings=self._split_settings, run=self._split,
                 folders=("captions",)),
            Step(name="schedule", needs=("captions",), settings=lambda done: {}, run=self._schedule,
                 check=self._show_schedule),
            Step(name="features", needs=("captions",), settings=self._features_settings, run=self._features,
                 folders=tuple(f"features/{name}" for name in SPLITS)),
            Step(name="copies", needs=("features",), settings=self._copies_settings, run=self._copies,
                 folders=tuple(f"features/train_{number}" for number in range(1, 10))),
        ]  # fmt: skip

    def _teacher_steps(self) -> list[Step]:
        if self.teaching.config.teacher is None:
            return []
        from glied.teach.teacher_steps import TeacherSteps

        return TeacherSteps(self.teaching).steps()

    # ---- sample

    def _sample_settings(self, done: Done) -> Facts:
        config = self.teaching.config
        sample = asdict(config.sample)
        beside = {name: sample.pop(name) for name in ("caption_column", "caption_sidecars")}
        digest = _digest_of(config.captions)
        return {
            "input": asdict(config.input) | {"uri": absolute(config.input.uri)},
            "captions": self._captions_name(digest),
            "captions_sha256": digest,
            **beside,  # not in `sample`: version 0.2 recorded them here
            "sample": sample,
            "with_teacher": config.teacher is not None,
        }

    def _captions_name(self, digest: str) -> str:
        """The name by which captions with this content were first given, such as a relative path."""
        record = StepRecords(self.teaching.output).read("sample")
        recorded = record.settings if record is not None else {}
        is_same = digest == recorded.get("captions_sha256")
        return str(recorded["captions"]) if is_same else self.teaching.config.captions

    def _sample(self, done: Done) -> Facts:
        images, facts = take_sample(self.teaching.config, self.teaching.output)
        write_images(self.teaching.path("sample", "images.jsonl"), images)
        return facts

    # ---- captions

    def _split_settings(self, done: Done) -> Facts:
        config = self.teaching.config
        held_out = {name: getattr(config.schedule, name) for name in ("validation", "test")}
        return {"seed": config.sample.seed, **held_out}

    def _split(self, done: Done) -> Facts:
        teaching, config = self.teaching, self.teaching.config
        folder = "chosen" if config.teacher else "sample"
        images = read_images(teaching.path(folder, "images.jsonl"))
        splits = split(images, config.schedule, config.sample.seed)
        check_varied(splits)
        by_id = {one.id: one for one in images}
        for name, captioned in splits.items():
            storage.write_bytes(teaching.captions(name), coco.write_captions(captioned))
            found: list[TaughtImage] = [by_id[one.file_name] for one in captioned]
            storage.write_bytes(teaching.table(name), table_of(found))
        known = [replace(one, captions=by_id[one.file_name].captions) for one in splits["test"]]
        known = [one for one in known if one.captions]
        storage.write_bytes(teaching.captions(KNOWN), coco.write_captions(known))
        return {
            "known": len(known),
            "images": {name: len(captioned) for name, captioned in splits.items()},
            "size": asdict(size_of(splits)),
            "commonest": commonest_caption(splits["train"]),
        }

    # ---- schedule

    def _schedule(self, done: Done) -> Facts:
        return {"gpus": self.teaching.jobs.gpus}

    def _show_schedule(self, done: Done) -> None:
        images, size = done["captions"]["images"], done["captions"]["size"]
        counts = ", ".join(f"{count} {name}" for name, count in images.items())
        log.info("images: %s; training captions: %d", counts, size["captions"])
        for line in self.teaching.schedule(done).lines():
            log.info("%s", line)

    # ---- features

    def _features_settings(self, done: Done) -> Facts:
        return self.teaching.overridden("features", ExtractRegionsConfig, {"regions": self.teaching.regions})

    def _features(self, done: Done) -> Facts:
        return self._extracted({name: {} for name in SPLITS}, self._features_settings(done))

    def _copies_settings(self, done: Done) -> Facts:
        return {"copies": self.teaching.schedule(done)["copies"]}

    def _copies(self, done: Done) -> Facts:
        seeds = range(1, 1 + self.teaching.schedule(done)["copies"])
        copies = {f"train_{seed}": {"copy": {"seed": seed}} for seed in seeds}
        return self._extracted(copies, self._features_settings(done))

    def _extracted(self, stores: Mapping[str, Mapping[str, Any]], settings: Facts) -> Facts:
        """Extract into one store after the other."""
        teaching, found = self.teaching, {}
        for name, more in stores.items():
            values: dict[str, Any] = {
                "input": teaching.table_input(teaching.table(name.partition("_")[0])),
                "output": {"uri": teaching.features(name), "unit_size": teaching.config.output.unit_size},
                "error_budget": 0.01,
                **settings,
                **more,
            }
            values["regions"] = values["regions"] | {"device": teaching.jobs.device}
            found[name] = teaching.jobs.extract(values)
        return {"runs": found}


def _digest_of(uri: str) -> str:
    """SHA-256 of a captions file; of a run folder, of what its run.json says."""
    if not uri:
        return ""
    for name in (uri, storage.join(uri, "run.json")):
        try:
            return hashlib.sha256(storage.read_bytes(name)).hexdigest()
        except FileNotFoundError:
            continue
    return hashlib.sha256(json.dumps(uri).encode()).hexdigest()
