"""The steps after the trainings: the weights that are used, captions of held-out images, evaluation."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from glied import checkpoint, storage
from glied.bulk.captioning import CaptionDatasetConfig
from glied.bulk.run.committed_rows import read_rows
from glied.data import coco
from glied.metrics.text_metrics import WITHOUT_JAVA
from glied.reports import evaluation_report
from glied.reports.evaluate import EvaluateConfig, EvaluationClipConfig, evaluate
from glied.storage import absolute
from glied.teach.splitting import cider_on_all
from glied.teach.step_records import Done, Facts, Step
from glied.teach.teaching import Teaching, located
from glied.teach.training_steps import CAPTIONER, REWARDED, TrainingSteps

log = logging.getLogger(__name__)

MODEL = "model"
"""Folder of the weights that are used."""


@dataclass(frozen=True)
class FinalSteps:
    """The last steps; their order is that of `steps`."""

    teaching: Teaching
    trainings: TrainingSteps

    def steps(self) -> list[Step]:
        """Those that the config asks for."""
        trained = tuple(step.name for step in self.trainings.steps() if step.name in ("captioner", "reward"))
        before = [] if self.teaching.config.start is None else [
            Step(name="before", needs=("features",), settings=self._before_settings, run=self._before,
                 folders=("before",))
        ]  # fmt: skip
        return [
            Step(name="model", needs=trained, settings=lambda done: {}, run=self._choose, folders=(MODEL,)),
            *before,
            Step(name="test", needs=("model", "features"), settings=self._test_settings, run=self._test,
                 folders=("test",)),
            Step(name="evaluation", needs=("test", *(step.name for step in before)),
                 settings=self._evaluation_settings, run=self._evaluate),
        ]  # fmt: skip

    # ---- model

    def _choose(self, done: Done) -> Facts:
        """Copy the weights of the best training: after a reward, unless CIDEr on validation fell by it."""
        folder = CAPTIONER if self._reward_failed(done) or "reward" not in done else REWARDED
        source = self.teaching.path(folder, "best")
        _copy(source, self.teaching.path(MODEL, "captioner"))
        _copy(self.trainings.predictor, self.teaching.path(MODEL, "attributes"))
        digest = checkpoint.load(self.teaching.path(MODEL, "captioner")).digest
        log.info("model: %s, digest %s", source, digest[:12])
        return {"from": folder, "digest": digest}

    def _reward_failed(self, done: Done) -> bool:
        trained = "reward" in done and done["captioner"]["folder"]
        if not trained or self.teaching.config.reward == "clip_s_grammar":
            return False
        failed = done["reward"]["cider"] < done["captioner"]["cider"]
        if failed:
            log.warning("the reward did not help on validation: the captioner before it is used")
        return bool(failed)

    # ---- captions of held-out images

    def _test_settings(self, done: Done) -> Facts:
        decoding = {"beam_size": 5, "n_best": 1, "max_length": self.teaching.schedule(done)["max_length"]}
        return self.teaching.overridden("test", CaptionDatasetConfig, {"decoding": decoding})

    def _test(self, done: Done) -> Facts:
        model = {name: self.teaching.path(MODEL, name) for name in ("attributes", "captioner")}
        return self._captioned("test", model, self._test_settings(done))

    def _before_settings(self, done: Done) -> Facts:
        start = self.teaching.config.start
        assert start is not None
        models = {"attributes": located(start.attributes), "captioner": located(start.captioner)}
        return {**self._test_settings(done), "models": models}

    def _before(self, done: Done) -> Facts:
        settings = dict(self._before_settings(done))
        models = settings.pop("models")
        return self._captioned("before", models, settings)

    def _captioned(self, folder: str, models: Mapping[str, str], settings: Facts) -> Facts:
        return self.teaching.jobs.caption(
            {
                "input": {"uri": self.teaching.features("test"), "form": "features"},
                "output": {
                    "uri": self.teaching.path(folder),
                    "unit_size": self.teaching.config.output.unit_size,
                },
                "regions": {"kind": "precomputed", "device": self.teaching.jobs.device},
                **{name: {"checkpoint": uri} for name, uri in models.items()},
                **settings,
            }
        )

    # ---- evaluation

    def _evaluation_settings(self, done: Done) -> Facts:
        judge = self.teaching.config.judge
        return {"judge": asdict(judge) | {"device": ""} if judge else None}

    def _evaluate(self, done: Done) -> Facts:
        """Figures of the new captioner, the one before and the teacher; CIDEr of the commonest caption."""
        teaching = self.teaching
        found = self._figures(teaching.path("test"))
        storage.write_bytes(teaching.path("evaluation.json"), json.dumps(found, indent=1).encode() + b"\n")
        references = coco.load_captions(teaching.captions("test"))
        commonest = cider_on_all(done["captions"]["commonest"], references)
        facts: dict[str, Any] = {"student": _flat(found), "commonest_cider": commonest}
        if "before" in done:
            facts["before"] = _flat(self._figures(teaching.path("before")))
        if "teacher" in done:
            facts["teacher"] = _flat(self._figures(self._teacher_captions(references)))
        return facts

    def _teacher_captions(self, references: Mapping[str, Any]) -> str:
        """The first captions by the teacher of the held-out images, as a file."""
        rows = read_rows(self.teaching.path("teacher"))
        lines = [{"image": row["id"], "caption": row["caption"]} for row in rows if row["id"] in references]
        uri = self.teaching.path("teacher_test.jsonl")
        storage.write_bytes(uri, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return uri

    def _figures(self, captions: str) -> dict[str, Any]:
        """What jobs/evaluate.py writes of captions of the held-out images."""
        teaching, judge = self.teaching, self.teaching.config.judge
        evaluation = evaluate(
            EvaluateConfig(
                captions=captions,
                references=teaching.captions("test"),
                training_captions=teaching.captions("train"),
                metrics=[*WITHOUT_JAVA],
                clip=EvaluationClipConfig(**vars(judge), images=teaching.config.input.uri) if judge else None,
                split="test",
            )
        )
        for line in evaluation_report.lines(evaluation):
            log.info("%s", line)
        return evaluation.to_json()


def write_caption_config(teaching: Teaching, done: Done) -> str:
    """Write caption.yaml, which captions the whole archive with the new captioner; its URI."""
    source = asdict(teaching.config.input)
    regions = teaching.regions | {"device": teaching.jobs.device}
    decoding = {"beam_size": 5, "max_length": teaching.schedule(done)["max_length"], "n_best": 1}
    content = {
        "input": source | {"uri": absolute(source["uri"])},
        "output": {"uri": teaching.path("archive")},
        "regions": regions,
        "attributes": {"checkpoint": teaching.path(MODEL, "attributes")},
        "captioner": {"checkpoint": teaching.path(MODEL, "captioner")},
        "decoding": decoding,
        "resources": teaching.jobs.resources(),
    }
    uri = teaching.path("caption.yaml")
    text = yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)
    header = (
        "# Captions of an archive with the captioner that jobs/teach.py has made.\n#\n"
        f"#   python jobs/caption_dataset.py --config {uri}\n"
    )
    storage.write_bytes(uri, (header + text).encode())
    return uri


def _copy(source: str, target: str) -> None:
    """Copy a checkpoint; its tensors last."""
    files = sorted(storage.list_files(source), key=lambda file: file.name == checkpoint.TENSORS)
    for file in files:
        storage.write_bytes(storage.join(target, file.name), storage.read_bytes(file.uri))


def _flat(results: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a results file by their names."""
    parts = ("metrics", "diversity", "clip")
    return {name: value for part in parts for name, value in results.get(part, {}).items()}
