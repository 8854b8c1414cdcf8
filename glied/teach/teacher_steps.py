"""The steps with a teacher: it captions the sample, and the captions that fit their images best are kept."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from glied import storage
from glied.bulk.run.committed_rows import read_rows
from glied.config import with_new_keys
from glied.config_groups import check_groups
from glied.errors import JobError, UsageError
from glied.shipped import config_file
from glied.teach import choosing
from glied.teach.choosing import Scored
from glied.teach.config import FilterConfig, TeacherConfig
from glied.teach.images import TaughtImage, read_images, table_of, write_images
from glied.teach.job_runner import caption_class
from glied.teach.known_captions import texts_of
from glied.teach.nested import merged
from glied.teach.step_records import Done, Facts, Step, StepRecords
from glied.teach.teaching import Teaching

log = logging.getLogger(__name__)

_REPLACED = ("input", "output", "resources", "error_budget")
"""Of the teacher's config file: what the sample is read from, and where to."""


@dataclass(frozen=True)
class TeacherSteps:
    """Captions by the teacher; their order is that of `steps`."""

    teaching: Teaching

    @property
    def _teacher(self) -> TeacherConfig:
        teacher = self.teaching.config.teacher
        assert teacher is not None
        return teacher

    def steps(self) -> list[Step]:
        """The caption run, CLIP's vectors of the sample where they are needed, and the choice."""
        vectors = [
            Step(name="sample_vectors", needs=("sample",), settings=self._vector_settings,
                 run=self._extract_vectors, folders=("sample_vectors",))
        ]  # fmt: skip
        filtered = self.teaching.config.filter is not None
        return [
            Step(name="teacher", needs=("sample",), settings=self._teacher_settings, run=self._caption,
                 folders=("teacher",)),
            *(vectors if filtered else []),
            Step(name="chosen", needs=("teacher", *(["sample_vectors"] if filtered else [])),
                 settings=self._choice_settings, run=self._choose, folders=("chosen",)),
        ]  # fmt: skip

    def check(self) -> None:
        """Look at the teacher's config and models while it is needed; raises UsageError."""
        record = StepRecords(self.teaching.output).read("teacher")
        if record is not None and record.complete:
            return
        places = {"input": {"uri": "."}, "output": {"uri": self.teaching.output}}
        self.teaching.jobs.check_captioner(merged(self._teacher_settings({}), places))

    # ---- captions

    def _teacher_settings(self, done: Done) -> Facts:
        """The teacher's config file, with candidates for a choice."""
        read = _read_yaml(self._teacher.config)
        config_class = caption_class(merged(read, self._teacher.options))
        content = with_new_keys(config_class, read, warn=False)
        check_groups(config_class, content, f"teacher.config {self._teacher.config}: ")
        options = with_new_keys(config_class, self._teacher.options, warn=False)
        check_groups(config_class, options, "teacher.options.")
        values = {key: value for key, value in content.items() if key not in _REPLACED}
        values = merged(values, self._candidates(values))
        if "regions" in values:
            values["regions"] = {name: value for name, value in values["regions"].items() if name != "device"}
        return merged(values, options)

    def _candidates(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings for several captions of each image, by the kind of captioner."""
        count, sampled = self._teacher.candidates, self._teacher.method == "sample"
        kind = values.get("captioner", {}).get("kind")
        temperature = {"temperature": self._teacher.temperature}
        if kind == "endpoint":  # servers draw their answers
            return {"captioner": {"generation": {"n_best": count, **temperature}}}
        if kind == "transformers":
            beams = {"generation": {"n_best": count, "beam_size": 1 if sampled else max(count, 5)}}
            return {"captioner": beams | ({"sampling": temperature} if sampled else {})}
        search = {"sampling": temperature} if sampled else {"beam_size": max(count, 5)}
        return {"decoding": {"method": self._teacher.method, "n_best": count, **search}}

    def _caption(self, done: Done) -> Facts:
        images = read_images(self.teaching.path("sample", "images.jsonl"))
        values = self._teacher_settings(done)
        if "regions" in values:
            values = merged({"regions": {"device": self.teaching.jobs.device}}, values)
        return self.teaching.jobs.caption(
            {
                **values,
                "input": self._sample_input(images),
                "output": {
                    "uri": self.teaching.path("teacher"),
                    "unit_size": self.teaching.config.output.unit_size,
                },
                "error_budget": 0.05,
            }
        )

    def _sample_input(self, images: Sequence[TaughtImage]) -> dict[str, Any]:
        """`input` of a bulk job for the sample."""
        table = self.teaching.path("sample", "images.csv")
        storage.write_bytes(table, table_of(images))
        return self.teaching.table_input(table)

    # ---- the choice

    @property
    def _filter(self) -> FilterConfig:
        found = self.teaching.config.filter
        assert found is not None
        return found

    def _vector_settings(self, done: Done) -> Facts:
        clip = asdict(self._filter.clip)
        del clip["device"]
        return {"clip": clip}

    def _extract_vectors(self, done: Done) -> Facts:
        images = read_images(self.teaching.path("sample", "images.jsonl"))
        regions = {"kind": "clip", "device": self.teaching.jobs.device, **self._vector_settings(done)}
        return self.teaching.jobs.extract(
            {
                "input": self._sample_input(images),
                "output": {"uri": self.teaching.path("sample_vectors")},
                "regions": regions,
                "error_budget": 0.05,
            }
        )

    def _choice_settings(self, done: Done) -> Facts:
        found = self.teaching.config.filter
        return {"keep": self._teacher.captions, "drop": found.drop if found else None}

    def _choose(self, done: Done) -> Facts:
        said = {
            row["id"]: texts_of(row["captions"] or []) for row in read_rows(self.teaching.path("teacher"))
        }
        keep = self._teacher.captions
        if self.teaching.config.filter is None:
            chosen = {image: texts[:keep] for image, texts in said.items() if texts}
            facts: Facts = {}
        else:
            chosen, facts = self._fitting(said, keep)
        images = [
            replace(one, taught=chosen.get(one.id, []))
            for one in read_images(self.teaching.path("sample", "images.jsonl"))
        ]
        images = [one for one in images if one.all_captions]
        if not images:
            raise JobError("the teacher has captioned none of the images: see teacher/summary.json")
        write_images(self.teaching.path("chosen", "images.jsonl"), images)
        return {"images": len(images), "by_teacher": len(chosen), **facts}

    def _fitting(self, said: Mapping[str, Sequence[str]], keep: int) -> tuple[dict[str, list[str]], Facts]:
        """The captions that fit best by CLIP-S, and the mean CLIP-S before and after."""
        scored = self._scores(said)
        chosen = choosing.best(scored, keep=keep, drop=self._filter.drop)
        by_text = {image: dict(found) for image, found in scored.items()}
        after = [by_text[image][text] for image, texts in chosen.items() for text in texts]
        before = [score for found in scored.values() for _, score in found]
        facts = {"clip_s_of_all": _mean(before), "clip_s_of_chosen": _mean(after)}
        log.info("CLIP-S of all captions %.3f, of the chosen ones %.3f", *facts.values())
        return chosen, facts

    def _scores(self, said: Mapping[str, Sequence[str]]) -> Scored:
        """CLIP-S of each caption."""
        from glied.teach.clip_scoring import CaptionScorer

        store = self.teaching.path("sample_vectors")
        return CaptionScorer(self._filter.clip, store, self.teaching.jobs.device).clip_s(said)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _read_yaml(path: str) -> dict[str, Any]:
    """A config file, of a path or one that ships.

    Raises:
        UsageError: there is none, or it is no YAML object.
    """
    try:
        values = yaml.safe_load(config_file(path).read_bytes())
    except yaml.YAMLError as error:
        raise UsageError(f"teacher.config {path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"teacher.config {path}: expected the keys of jobs/caption_dataset.py")
    return values
