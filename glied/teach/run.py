"""A run of jobs/teach.py from its config to a captioner that can be used."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from glied import storage
from glied.storage import absolute
from glied.teach import output_lock
from glied.teach.checks import SETTINGS, Checks, check_output
from glied.teach.config import TeachConfig
from glied.teach.data_steps import DataSteps
from glied.teach.final_steps import FinalSteps, write_caption_config
from glied.teach.job_runner import JobRunner
from glied.teach.report import TeachReport
from glied.teach.step_records import Record, Step, StepRecords, run_steps
from glied.teach.teaching import Teaching
from glied.teach.training_steps import TrainingSteps
from glied.teach.verdict import verdict

log = logging.getLogger(__name__)


def teach(config: TeachConfig, *, started: float | None = None) -> dict[str, Any]:
    """Do all steps that are missing; what came of it, as the command prints it.

    Args:
        config: of the command.
        started: when the command began, by `time.perf_counter`; by default now.

    Raises:
        UsageError: something is missing or does not fit together, or settings of a finished step have
            changed.
        JobError: a step failed, nothing was learned, or another command works on the same output; the same
            call goes on from there.
    """
    started = time.perf_counter() if started is None else started
    # What the steps write does not depend on the cluster, which takes seconds to start.
    check_output(absolute(config.output.uri), steps_of(Teaching(config, JobRunner.of("local"))))
    with output_lock.held(absolute(config.output.uri)):
        return _taught(Teaching(config, JobRunner.of(config.run.runtime)), started)


def _taught(teaching: Teaching, started: float) -> dict[str, Any]:
    config = teaching.config
    Checks(teaching).run()
    settings = json.dumps(asdict(config), indent=1, default=list).encode() + b"\n"
    storage.write_bytes(teaching.path(SETTINGS), settings)
    stored = StepRecords(teaching.output)
    startup = stored.start(time.perf_counter() - started)
    records = run_steps(steps_of(teaching), stored, redo=config.run.redo)
    done = {name: record.facts for name, record in records.items()}
    figures = done["evaluation"]
    said = verdict(
        figures["student"],
        commonest=figures["commonest_cider"],
        before=figures.get("before"),
        gain=figures.get("gain"),
        teacher=figures.get("teacher"),
    )
    report = TeachReport(teaching, records, startup, said).write()
    log.info("%s", said)
    return {
        "verdict": said,
        "output": teaching.output,
        "caption_config": write_caption_config(teaching, done),
        "digest": done["model"]["digest"],
        "report": report,
        "test": figures,
        "seconds": _seconds(records) | {"this_time": round(time.perf_counter() - started, 1)},
    }


def steps_of(teaching: Teaching) -> list[Step]:
    """All steps of a config, in order."""
    trainings = TrainingSteps(teaching)
    return [
        *DataSteps(teaching).steps(),
        *trainings.steps(),
        *FinalSteps(teaching, trainings).steps(),
    ]


def _seconds(records: Mapping[str, Record]) -> dict[str, float]:
    return {name: round(record.seconds, 1) for name, record in records.items()}
