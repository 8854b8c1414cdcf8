"""What all steps share: the config, the runner of jobs, and where things are."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from glied import storage
from glied.config import with_new_keys
from glied.config_groups import check_groups
from glied.storage import absolute
from glied.teach.config import TeachConfig
from glied.teach.job_runner import JobRunner
from glied.teach.nested import merged
from glied.teach.schedule import DataSize, Schedule, decide
from glied.teach.step_records import Done

SPLITS = ("train", "val", "test")
KNOWN = "test_known"
"""Captions file of the test images that had captions before any teacher."""


@dataclass(frozen=True)
class Teaching:
    """A run of jobs/teach.py."""

    config: TeachConfig
    jobs: JobRunner

    @cached_property
    def output(self) -> str:
        """The output folder; absolute, for workers with another working directory."""
        return absolute(self.config.output.uri)

    def path(self, *parts: str) -> str:
        """A place below the output."""
        return storage.join(self.output, *parts)

    def captions(self, split: str) -> str:
        """The captions file of a split."""
        return self.path("captions", f"{split}.json")

    def table(self, name: str) -> str:
        """The table of images (id, uri) of a split."""
        return self.path("captions", f"{name}.csv")

    def features(self, name: str) -> str:
        """The run folder of the regions of a split, or of a copy of the training images."""
        return self.path("features", name)

    def copies(self, count: int) -> list[str]:
        """The stores of the varied copies."""
        return [self.features(f"train_{number}") for number in range(1, count + 1)]

    def table_input(self, table: str) -> dict[str, Any]:
        """`input` of a bulk job for a table of the archive's images."""
        given = self.config.input
        kept = {name: getattr(given, name) for name in ("max_bytes", "max_missing_rows", "allow_private")}
        places = [*(given.allow or []), _place(given.uri, file=given.form != "files"), self.path("images")]
        if given.form == "files" and storage.is_local(given.uri):
            places.append("/")  # the folder was listed here, and its links may lead anywhere
        allow = [place if storage.is_local(place) else f"{place.rstrip('/')}/" for place in places]
        return {"uri": table, "form": "table", "id_column": "id", "allow": allow, **kept}

    @property
    def regions(self) -> dict[str, Any]:
        """`regions` of a bulk job, without the device, which decides nothing."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self.config.regions)))
        del values["device"]
        return values

    def schedule(self, done: Done) -> Schedule:
        """The schedule for the captions that there are; raises as `decide`."""
        size = DataSize(**done["captions"]["size"])
        return decide(
            size,
            self.config.schedule,
            extractor=self.config.regions.kind,
            gpus=done["schedule"]["gpus"],
            tuned=self.config.start is not None,
        )

    def caption_stored(
        self,
        split: str,
        folder: str,
        models: Mapping[str, str],
        decoding: Mapping[str, Any],
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Caption the stored regions of a split into a folder, with the checkpoints of both models."""
        return self.jobs.caption(
            {
                "input": {"uri": self.features(split), "form": "features"},
                "output": {"uri": self.path(folder), "unit_size": self.config.output.unit_size},
                "regions": {"kind": "precomputed", "device": self.jobs.device},
                **{name: {"checkpoint": uri} for name, uri in models.items()},
                "decoding": {"n_best": 1, **decoding},
                **(more or {}),
            }
        )

    def overridden(self, job: str, config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a job's config with those that `overrides` sets, maybe by keys of version 0.1."""
        overrides = with_new_keys(config_class, self.config.run.overrides.get(job) or {}, warn=False)
        check_groups(config_class, overrides, f"run.overrides.{job}.")
        return merged(values, overrides)


def _place(uri: str, *, file: bool) -> str:
    """The folder or prefix that the archive's images lie below."""
    place = absolute(uri)
    return place.rpartition("/")[0] if file and storage.exists(place) else place
