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
from glied.captioner.familiarity import LEAST_VALIDATION, UNFAMILIAR
from glied.data import coco
from glied.metrics.bootstrap import Difference
from glied.metrics.text_metrics import WITHOUT_JAVA, text_metrics
from glied.reports import evaluation_report
from glied.reports.caption_inputs import read_captions
from glied.reports.evaluate import EvaluateConfig, evaluate
from glied.storage import absolute
from glied.teach.nested import with_located_checkpoints
from glied.teach.splitting import cider_on_all
from glied.teach.step_records import Done, Facts, Step
from glied.teach.teaching import KNOWN, Teaching
from glied.teach.training_steps import CAPTIONER, REWARDED, TrainingSteps
from glied.teach.verdict import BY_PEOPLE

log = logging.getLogger(__name__)

TEACHER_TEST = "teacher_test.jsonl"
"""The teacher's first captions of the held-out images."""
MODEL, JUDGE = "model", "judge"
"""Folders of the weights that are used, and of the judge's vectors of the held-out images."""


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
        judged = [] if self.teaching.config.judge is None else [
            Step(name="judge", needs=("captions",), settings=self._judge_settings, run=self._judge_images,
                 folders=(JUDGE,))
        ]  # fmt: skip
        return [
            Step(name="model", needs=trained, settings=lambda done: {}, run=self._choose, folders=(MODEL,)),
            *before,
            *judged,
            Step(name="test", needs=("model", "features"), settings=self._test_settings, run=self._test,
                 folders=("test",)),
            Step(name="evaluation", needs=("test", *(step.name for step in (*before, *judged))),
                 settings=lambda done: {}, run=self._evaluate),
        ]  # fmt: skip

    # ---- model

    def _choose(self, done: Done) -> Facts:
        """Copy the weights that are used: after the reward, unless CIDEr on validation fell by it."""
        folder = REWARDED if "reward" in done and not self._reward_failed(done) else CAPTIONER
        from_start = folder == CAPTIONER and not done["captioner"]["folder"]
        source = self.trainings.trained_from if from_start else self.teaching.path(folder, "best")
        _copy(source, self.teaching.path(MODEL, "captioner"))
        _copy(self.trainings.predictor, self.teaching.path(MODEL, "attributes"))
        digest = checkpoint.load(self.teaching.path(MODEL, "captioner")).digest
        log.info("model: %s, digest %s", source, digest[:12])
        return {"from": "start" if from_start else folder, "digest": digest}

    def _reward_failed(self, done: Done) -> bool:
        if not self.teaching.config.reward.is_cider:
            return False
        failed = done["reward"]["cider"] < done["captioner"]["cider"]
        if failed:
            log.warning(
                "the reward did not help on validation (CIDEr %.1f, before it %.1f): the captioner before it "
                "is used", done["reward"]["cider"], done["captioner"]["cider"],
            )  # fmt: skip
        return bool(failed)

    # ---- captions of held-out images

    def _test_settings(self, done: Done) -> Facts:
        longest = self.teaching.schedule(done)["words.max_length"]
        decoding = {"beam_size": 5, "n_best": 1, "max_length": longest}
        return self.teaching.overridden("test", CaptionDatasetConfig, {"decoding": decoding})

    def _test(self, done: Done) -> Facts:
        models = {name: self.teaching.path(MODEL, name) for name in ("attributes", "captioner")}
        return self._captioned("test", models, self._test_settings(done))

    def _before_settings(self, done: Done) -> Facts:
        start = self.teaching.config.start
        assert start is not None
        models = {"attributes": start.attributes, "captioner": start.captioner}
        return {**self._test_settings(done), "models": models}

    def _before(self, done: Done) -> Facts:
        settings = dict(self._before_settings(done))
        models = settings.pop("models")
        return self._captioned("before", models, settings)

    def _captioned(self, folder: str, models: Mapping[str, str], settings: Facts) -> Facts:
        more = {name: value for name, value in settings.items() if name != "decoding"}
        return self.teaching.caption_stored("test", folder, models, settings["decoding"], more)

    # ---- evaluation

    def _judge_settings(self, done: Done) -> Facts:
        judge = self.teaching.config.judge
        assert judge is not None
        return {"clip": {name: value for name, value in asdict(judge).items() if name != "device"}}

    def _judge_images(self, done: Done) -> Facts:
        """The judge's vectors of the held-out images, as jobs/extract_regions.py stores them."""
        teaching = self.teaching
        regions = {"kind": "clip", "device": teaching.jobs.device, **self._judge_settings(done)}
        return teaching.jobs.extract(
            {
                "input": teaching.table_input(teaching.table("test")),
                "output": {"uri": teaching.path(JUDGE), "unit_size": teaching.config.output.unit_size},
                "regions": regions,
                "error_budget": 0.01,
            }
        )

    def _evaluate(self, done: Done) -> Facts:
        """Figures of the new captioner, the one before and the teacher; CIDEr of the commonest caption."""
        teaching = self.teaching
        references = coco.load_captions(teaching.captions("test"))
        facts: dict[str, Any] = {
            "student": self._figures(teaching.path("test"), done, out=teaching.path("evaluation.json")),
            "commonest_cider": cider_on_all(done["captions"]["commonest"], references),
        }
        if "before" in done:
            facts["before"] = self._figures(teaching.path("before"), done)
            facts["gain"] = asdict(self._gain())
        if "teacher" in done:
            captions = self._teacher_captions(references)
            facts["teacher"] = self._figures(captions, done, own_references=True)
        return facts

    def _gain(self) -> Difference:
        """CIDEr of the new captioner less that before, with the interval over the images."""
        teaching = self.teaching
        config = EvaluateConfig(
            captions=teaching.path("before"),
            compare=[teaching.path("test")],
            references=teaching.captions("test"),
            metrics=["CIDEr"],
        )
        return evaluate(config).differences["CIDEr"]

    def _teacher_captions(self, references: Mapping[str, Any]) -> str:
        """The first captions by the teacher of the held-out images, as a file."""
        rows = read_rows(self.teaching.path("teacher"))
        lines = [
            {"image": row["id"], "caption": row["caption"] or ""} for row in rows if row["id"] in references
        ]
        uri = self.teaching.path(TEACHER_TEST)
        storage.write_bytes(uri, "".join(json.dumps(line) + "\n" for line in lines).encode())
        return uri

    def _figures(
        self, captions: str, done: Done, *, out: str = "", own_references: bool = False
    ) -> dict[str, Any]:
        """What jobs/evaluate.py finds of captions of the held-out images, and what the judge says of them.

        Args:
            captions: file or run folder.
            done: the steps before.
            out: file for what was found.
            own_references: whether the references are captions by the same captioner; text metrics then
                compare with what people wrote only.
        """
        found = self._evaluated(captions)
        figures, by_image = _flat(found), read_captions(captions)
        if own_references:
            figures = {name: value for name, value in figures.items() if name not in found["metrics"]}
        if "teacher" in done and done["captions"].get("known"):
            people = coco.load_captions(self.teaching.captions(KNOWN))
            known = text_metrics({name: by_image[name] for name in people}, people)
            figures |= {f"{name}{BY_PEOPLE}": value for name, value in known.items()}
        if self.teaching.config.judge is not None:
            figures |= self._judged(by_image)
        if out:
            storage.write_bytes(out, json.dumps(found | {"figures": figures}, indent=1).encode() + b"\n")
        enough = done["captions"]["images"]["val"] >= LEAST_VALIDATION
        return figures | (_familiarity(captions) if enough else {})

    def _evaluated(self, captions: str) -> dict[str, Any]:
        teaching = self.teaching
        evaluation = evaluate(
            EvaluateConfig(
                captions=captions,
                references=teaching.captions("test"),
                training_captions=teaching.captions("train"),
                metrics=[*WITHOUT_JAVA],
                split="test",
            )
        )
        for line in evaluation_report.lines(evaluation):
            log.info("%s", line)
        return evaluation.to_json()

    def _judged(self, captions: Mapping[str, str]) -> dict[str, float]:
        from glied.teach.clip_scoring import CaptionScorer

        judge = self.teaching.config.judge
        assert judge is not None
        scorer = CaptionScorer(judge, self.teaching.path(JUDGE), self.teaching.jobs.device)
        return scorer.figures(captions)


def _familiarity(captions: str) -> dict[str, float]:
    """Of a run folder: how many images look unlike what the captioner was trained on, in percent."""
    if captions.endswith(".jsonl"):
        return {}
    known = [row["familiarity"] for row in read_rows(captions) if row.get("familiarity") is not None]
    return {"unfamiliar": 100 * sum(one < UNFAMILIAR for one in known) / len(known)} if known else {}


def write_caption_config(teaching: Teaching, done: Done) -> str:
    """Write caption.yaml, which captions the whole archive with the new captioner; its URI."""
    source = asdict(teaching.config.input)
    regions = with_located_checkpoints(teaching.regions | {"device": teaching.jobs.device})
    decoding = {"beam_size": 5, "max_length": teaching.schedule(done)["words.max_length"], "n_best": 1}
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
