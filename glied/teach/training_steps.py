"""The steps from stored regions to a trained captioner: attributes, cross-entropy, frequencies, reward."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glied import storage
from glied.captioner.captioner import Captioner
from glied.captioner.extended_vocabulary import extended_vocabulary
from glied.data import coco
from glied.errors import JobError
from glied.metrics.text_metrics import text_metrics
from glied.reports.caption_inputs import read_captions
from glied.teach.job_runner import TRAININGS
from glied.teach.nested import located, merged
from glied.teach.schedule import Schedule, rounds, validate_every
from glied.teach.splitting import cider_on_all
from glied.teach.step_records import Done, Facts, Step
from glied.teach.teaching import Teaching
from glied.teach.verdict import check_learned
from glied.text.references import save_frequencies
from glied.text.tokenizer import tokenize
from glied.text.vocabulary import SPECIAL, by_count
from glied.training.history import VALIDATION, read_history

log = logging.getLogger(__name__)

CAPTIONER, REWARDED, ATTRIBUTES, FREQUENCIES = "captioner", "rewarded", "attributes", "frequencies"
"""Folders of the trainings, and of the table of document frequencies."""
START_VAL = "start_val"
"""Folder of the validation captions of a captioner to go on from."""
_UNKNOWN = 0.02
"""Share of unknown words in the captions above which a captioner learns them before the reward."""


@dataclass(frozen=True)
class TrainingSteps:
    """The trainings; their order is that of `steps`."""

    teaching: Teaching

    def steps(self) -> list[Step]:
        """Those that the config asks for."""
        return [*self._from_scratch(), *self._rewarded()]

    def _from_scratch(self) -> list[Step]:
        """Attributes and cross-entropy; a captioner to go on from has its attributes."""
        if self.teaching.config.start:
            return [
                Step(name="vocabulary", needs=("captions",), settings=self._vocabulary_settings,
                     run=self._extend_vocabulary, folders=("vocabulary",)),
                Step(name="captioner", needs=("copies", "vocabulary"), settings=self._tuned_settings,
                     run=self._tune, folders=(CAPTIONER, START_VAL), check=self._check_captioner),
            ]  # fmt: skip
        return [
            Step(name="attributes", needs=("copies",), settings=self._attribute_settings,
                 run=self._train_attributes, folders=(ATTRIBUTES,)),
            Step(name="captioner", needs=("attributes",), settings=self._captioner_settings,
                 run=self._train_captioner, folders=(CAPTIONER,), check=self._check_captioner),
        ]  # fmt: skip

    def _rewarded(self) -> list[Step]:
        if self.teaching.config.reward.kind == "none":
            return []
        counted = Step(name="frequencies", needs=("captioner",), settings=self._frequency_settings,
                       run=self._count, folders=(FREQUENCIES,))  # fmt: skip
        reward = Step(
            name="reward",
            needs=("captioner", *self._clip_needs),
            settings=self._reward_settings,
            run=self._train_reward,
            folders=(REWARDED,),
            check=self._check_rewarded,
        )
        return [*([counted] if self._with_cider else self._clip_steps()), reward]

    # ---- attributes

    def _attribute_settings(self, done: Done) -> Facts:
        schedule = self.teaching.schedule(done)
        validation = done["captions"]["size"]["validation"]
        settings = {
            "words": schedule["words.attribute_words"],
            "minimum_positives": max(1, min(20, validation // 25)),
            "typical_regions": 65 if schedule["model.region_dropout"] else 16,
            "trainer": merged(
                self._trainer(done, schedule["attribute_steps"], schedule["learning_rate"]),
                {"optimizer": {"clip_norm": 5.0, "ema_decay": 0.0}},
            ),
        }
        return self.teaching.overridden("attributes", TRAININGS["attributes"][0], settings)

    def _train_attributes(self, done: Done) -> Facts:
        values = self._with_data(self._attribute_settings(done), done, ATTRIBUTES)
        return self._train("attributes", values)

    # ---- cross-entropy

    def _captioner_settings(self, done: Done) -> Facts:
        return self._cross_entropy(done, self._model(self.teaching.schedule(done)))

    def _cross_entropy(self, done: Done, model: Mapping[str, Any]) -> dict[str, Any]:
        schedule = self.teaching.schedule(done)
        words = ("attribute_count", "minimum_count", "max_length")
        settings = {
            "words": {name: schedule[f"words.{name}"] for name in words},
            "model": model,
            "region_dropout": schedule["model.region_dropout"],
            "decoding": {"beam_size": 1, "max_length": schedule["words.max_length"]},
            "trainer": merged(
                self._trainer(done, schedule["steps"], schedule["learning_rate"]),
                {"schedule": {"warmup_steps": schedule["warmup_steps"]}},
            ),
        }
        return self.teaching.overridden("captioner", TRAININGS["captioner"][0], settings)

    def _model(self, schedule: Schedule) -> dict[str, Any]:
        architecture = self.teaching.config.schedule.model.architecture
        model = {"architecture": architecture, "geometry": True}
        model |= {"width": schedule["model.width"], "dropout": schedule["model.dropout"]}
        return model | ({"tied": True, "heads": 8} if architecture in ("base", "glied", "ct") else {})

    def _train_captioner(self, done: Done) -> Facts:
        values = self._with_data(self._captioner_settings(done), done, CAPTIONER)
        values["words"] = values["words"] | {"attributes": self.teaching.path(ATTRIBUTES, "best")}
        return self._trained_captioner("captioner", values, done)

    def _trained_captioner(self, name: str, values: Mapping[str, Any], done: Done) -> dict[str, Any]:
        """Train with cross-entropy; its figures beside those of the commonest caption."""
        return self._train(name, values) | {"commonest_cider": self._commonest_cider(done)}

    def _commonest_cider(self, done: Done) -> float:
        """CIDEr on validation of a captioner that looks at no image."""
        references = coco.load_captions(self.teaching.captions("val"))
        return cider_on_all(done["captions"]["commonest"], references)

    # ---- cross-entropy of a captioner to go on from

    @cached_property
    def _started_from(self) -> Captioner:
        """The captioner to go on from."""
        start = self.teaching.config.start
        assert start is not None
        return Captioner.load(located(start.captioner))

    def _vocabulary_settings(self, done: Done) -> Facts:
        minimum = self.teaching.schedule(done)["words.minimum_count"]
        return {"start_digest": self._started_from.digest, "minimum_count": minimum}

    def _extend_vocabulary(self, done: Done) -> Facts:
        """Write the words of the captioner and of the captions, and count those that it does not know."""
        captions = coco.load_captions(self.teaching.captions("train"))
        known = self._started_from.vocabulary
        words = Counter(word for texts in captions.values() for text in texts for word in tokenize(text))
        minimum = self.teaching.schedule(done)["words.minimum_count"]
        frequent = by_count({word: count for word, count in words.items() if count >= minimum})
        extended = extended_vocabulary(known, [word for word in frequent if word not in SPECIAL])
        content = {"words": extended.to_json()}
        storage.write_bytes(self.teaching.path("vocabulary", "vocabulary.json"), json.dumps(content).encode())
        new = extended.to_json()[len(known.to_json()) :]
        share = sum(words[word] for word in new) / max(1, words.total())
        log.info("new to the captioner: %d words, %.1f %% of those of the captions", len(new), 100 * share)
        return {"unknown_share": share, "new_words": len(new)}

    def _tuned(self, done: Done) -> bool:
        """Whether the captioner to go on from is trained with cross-entropy first."""
        start = self.teaching.config.start
        assert start is not None
        if start.cross_entropy is not None:
            return start.cross_entropy
        has_reward = self.teaching.config.reward.kind != "none"
        return not has_reward or bool(done["vocabulary"]["unknown_share"] > _UNKNOWN)

    def _tuned_settings(self, done: Done) -> Facts:
        """As from scratch, but for the architecture and the words, which are the captioner's."""
        if not self._tuned(done):
            return {"cross_entropy": False}
        model = dataclasses.asdict(self._started_from.model.config)
        model["dropout"] = self.teaching.schedule(done)["model.dropout"]
        settings = self._cross_entropy(done, model)
        settings["words"] = settings["words"] | {"attribute_count": self._started_from.attribute_count}
        return settings

    def _tune(self, done: Done) -> Facts:
        settings = dict(self._tuned_settings(done))
        if not self._tuned(done):
            log.info("no cross-entropy: the captioner to go on from knows the captions' words")
            known = {"folder": "", "notes": [], "cider": self._cider_of_start(done)}
            return known | {"commonest_cider": self._commonest_cider(done)}
        values = self._with_data(settings, done, CAPTIONER)
        words = {
            "attributes": self.predictor,
            "vocabulary": self.teaching.path("vocabulary", "vocabulary.json"),
        }
        values["words"] = values["words"] | words
        values |= {"start": self.trained_from}
        return self._trained_captioner("tuned", values, done)

    def _cider_of_start(self, done: Done) -> float:
        """CIDEr on validation of the captioner to go on from, greedily as trainings validate."""
        longest = self.teaching.schedule(done)["words.max_length"]
        models = {"attributes": self.predictor, "captioner": self.trained_from}
        run = self.teaching.caption_stored("val", START_VAL, models, {"beam_size": 1, "max_length": longest})
        references = coco.load_captions(self.teaching.captions("val"))
        return text_metrics(read_captions(run["run"]), references)["CIDEr"]

    @property
    def trained_from(self) -> str:
        """The captioner to go on from."""
        start = self.teaching.config.start
        assert start is not None
        return located(start.captioner)

    def _check_captioner(self, done: Done) -> None:
        """Refuse a captioner that has learned nothing.

        Raises:
            JobError: its loss did not fall, or a captioner that looks at no image is as good.
        """
        found = done["captioner"]
        folder = self.teaching.path(CAPTIONER)
        if not found["folder"]:  # nothing was trained
            return
        if found["notes"] and not self.teaching.config.start:
            raise JobError(f"{folder}: nothing was learned: {found['notes'][0]}")
        self._check_against_commonest(folder, found["cider"], done)

    def _check_rewarded(self, done: Done) -> None:
        """Refuse a captioner that was only rewarded and learned nothing; raises as `_check_captioner`.

        After cross-entropy the captioner before is used instead.
        """
        if self._with_cider and not done["captioner"]["folder"]:
            self._check_against_commonest(self.teaching.path(REWARDED), done["reward"]["cider"], done)

    def _check_against_commonest(self, folder: str, cider: float, done: Done) -> None:
        commonest = done["captioner"].get("commonest_cider", 0.0)
        check_learned(folder, cider, commonest=commonest, caption=done["captions"]["commonest"])

    # ---- reward

    @property
    def _with_cider(self) -> bool:
        return self.teaching.config.reward.is_cider

    @property
    def _clip_needs(self) -> tuple[str, ...]:
        return ("frequencies",) if self._with_cider else ("clip_features",)

    def _frequency_settings(self, done: Done) -> Facts:
        return {"start_digest": self._started_from.digest if self.teaching.config.start else ""}

    def _count(self, done: Done) -> Facts:
        """What jobs/prepare_cider.py does."""
        vocabulary = Captioner.load(self.start_of_reward(done)).vocabulary
        captions = coco.load_captions(self.teaching.captions("train"))
        table = save_frequencies(self.teaching.path(FREQUENCIES), captions, vocabulary)
        return {"ngrams": len(table), "documents": table.documents}

    def _clip_steps(self) -> list[Step]:
        return [
            Step(name="clip_features", needs=("copies",), settings=self._clip_settings,
                 run=self._extract_clip, folders=tuple(f"clip_features/{name}" for name in ("train", "val")))
        ]  # fmt: skip

    def _clip_settings(self, done: Done) -> Facts:
        return {"clip": self._clip}

    @property
    def _clip(self) -> dict[str, Any]:
        clip = self.teaching.config.reward.clip
        assert clip is not None, "the config has refused it"
        values = dataclasses.asdict(clip)
        del values["device"]
        return values

    def _extract_clip(self, done: Done) -> Facts:
        found = {}
        for name in ("train", "val"):
            found[name] = self.teaching.jobs.extract(
                {
                    "input": self.teaching.table_input(self.teaching.table(name)),
                    "output": {"uri": self.teaching.path("clip_features", name)},
                    "regions": {"kind": "clip", "clip": self._clip, "device": self.teaching.jobs.device},
                    "error_budget": 0.01,
                }
            )
        return {"runs": found}

    def start_of_reward(self, done: Done) -> str:
        """The captioner that the training with a reward goes on from."""
        trained = done["captioner"]["folder"]
        return self.teaching.path(CAPTIONER, "best") if trained else self.trained_from

    @property
    def predictor(self) -> str:
        """The attribute predictor."""
        start = self.teaching.config.start
        return located(start.attributes) if start else self.teaching.path(ATTRIBUTES, "best")

    def _reward_settings(self, done: Done) -> Facts:
        schedule = self.teaching.schedule(done)
        start_digest = self._started_from.digest if self.teaching.config.start else ""
        steps, rate = schedule["reward.steps"], schedule["reward.learning_rate"]
        longest = schedule["words.max_length"]
        settings = {
            "start_digest": start_digest,
            "reward": {"cider": 1.0}
            if self._with_cider
            else {"clip_s": 2.0, "grammar": 1.0, "clip": self._clip},
            "sampling": {"samples": 5, "max_length": longest, "baseline": "leave_one_out"},
            "decoding": {"beam_size": 1, "max_length": longest},
            "trainer": merged(
                self._trainer(done, steps, rate),
                {"optimizer": {"weight_decay": 0.0, "ema_decay": 0.0}, "schedule": {"warmup_steps": 0}},
            ),
        }
        return self.teaching.overridden("reward", TRAININGS["reward"][0], settings)

    def _train_reward(self, done: Done) -> Facts:
        values = self._with_data(self._reward_settings(done), done, REWARDED)
        del values["start_digest"]
        values |= {"start": self.start_of_reward(done), "attributes": self.predictor}
        if self._with_cider:
            values["reward"] = values["reward"] | {"frequencies": self.teaching.path(FREQUENCIES)}
        else:
            clip = values["reward"]["clip"] | {"device": self.teaching.jobs.device}
            values["reward"] = values["reward"] | {"clip": clip}
            del values["train"]["copies"]  # a crop has no CLIP vector of its own
            for split, name in (("train", "train"), ("validation", "val")):
                values[split]["clip_features"] = self.teaching.path("clip_features", name)
        return self._train("reward", values)

    # ---- all

    def _trainer(self, done: Done, steps: int, rate: float) -> dict[str, Any]:
        """What of `trainer` decides the result of a training with so many steps."""
        schedule = self.teaching.schedule(done)
        batch = schedule["batch_size"]
        rows = done["captions"]["size"]["images"] * (1 + schedule["copies"])
        lengths = rounds(steps, batch, rows)
        return {
            **lengths,
            "batch_size": batch,
            "seed": self.teaching.config.sample.seed,
            "optimizer": {
                "learning_rate": rate,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "ema_decay": min(0.99, max(0.0, 1 - 10 / steps)),
                "precision": schedule["precision"],
            },
            "schedule": {"name": "cosine", "warmup_steps": steps // 10},
            "monitoring": {
                "validate_every_steps": validate_every(steps),
                "validate_every_epochs": lengths["epochs"],
            },
        }

    def _with_data(self, settings: Facts, done: Done, folder: str) -> dict[str, Any]:
        """A training's config: settings, the stores and captions, and where it goes."""
        teaching = self.teaching
        copies = teaching.copies(teaching.schedule(done)["copies"])
        data = {
            name: {"features": teaching.features(split), "captions": teaching.captions(split)}
            for name, split in (("train", "train"), ("validation", "val"))
        }
        steps = settings["trainer"]["max_steps"]
        trainer = {
            "output": teaching.path(folder),
            "monitoring": {"log_every_steps": max(1, min(25, steps // 10))},
            "recovery": {"checkpoint_every_steps": max(25, steps // 10)},
        }
        values: dict[str, Any] = {**settings, **data, "trainer": merged(trainer, settings["trainer"])}
        values["train"] = values["train"] | {"copies": copies}
        return values

    def _train(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Train, and what the report and the choice among captioners need of the result."""
        folder = values["trainer"]["output"]
        result = self.teaching.jobs.train(name, values)
        best_step = result["best_step"]
        validations = [line for line in read_history(folder).lines if line["kind"] == VALIDATION]
        best = next((line for line in validations if line["step"] == best_step), {})
        log.info("%s: best at step %d of %d", storage.join(folder, "best"), best_step, result["steps"])
        return {"folder": folder, "steps": result["steps"], "notes": result["notes"], **_figures(best)}


def _figures(validation: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a validation: CIDEr or mean average precision, and the rest."""
    return {name: value for name, value in validation.items() if name not in ("kind",)}
