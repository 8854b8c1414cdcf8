"""Kill a bulk run at random moments, restart it, and check that no row is lost or duplicated.

python benchmarks/chaos.py --out chaos.json
python benchmarks/chaos.py --full --out chaos.json

The short form makes 3 kills over 1,000 scenes, --full 50 kills over 5,000 scenes in 79 units, with the
shipped weights. A kill hits the whole job (driver, Ray and workers at once), a worker that is processing a
chunk, or the raylet. The same command is started again after each kill, except that of a worker, which the
job must survive. Meanwhile the files of finished units are replaced by zeros of the same size, so that any
attempt to read them fails.

The exit code is 1 if a row is lost or duplicated, a finished unit was changed, or a job misbehaved.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for the other files of benchmarks/

from benchmarks.bulk_jobs import caption_config
from benchmarks.measurement import print_result
from glied.bulk.items import Chunk, DescribedChunk, Stream
from glied.bulk.run import status
from glied.config import parse, run
from glied.errors import JobError

VICTIMS = ("job", "worker", "raylet")
WAIT_S = 240.0
"""Maximum time for a job to deliver a result, or to end after its raylet died."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Number and moments of the kills."""

    full: bool = False
    """50 kills over 5,000 scenes instead of 3 over 1,000."""
    folder: str = "runs/chaos"
    """Folder of the scenes and the run; the run in it is deleted first."""
    seed: int = 0
    """Seed of the victims and moments."""
    unit_size: int = 64
    """Images per unit."""
    pause_s: float = 4.0
    """Maximum time between the first result of an attempt and the kill."""
    out: str | None = None
    """File for the result as JSON."""
    child: str | None = None
    """Used by the script itself: run the job in this process, and log its results to this file."""


@dataclass
class Report:
    """What happened to the run."""

    kills: int = 0
    images: int = 0
    rows: int = 0
    lost: int = 0
    """Images without a row."""
    doubled: int = 0
    """Rows beyond one per image."""
    redone: int = 0
    """Images processed more than once."""
    victims: Counter[str] = field(default_factory=Counter)
    """Kills by victim."""
    units: int = 0
    attempts: int = 0
    """Starts of the job."""
    most_lost_images: int = 0
    """Maximum number of images that a kill cost."""
    most_open_units: int = 0
    """Maximum number of unfinished units at a kill."""
    seconds: float = 0.0


class Chaos:
    """A run that is killed repeatedly."""

    def __init__(self, config: Config, victims: Sequence[str], images: int) -> None:
        """Render the scenes unless they exist, and delete an old run."""
        self.config = config
        self.victims = list(victims)
        self.images = images
        self.folder = Path(config.folder).absolute()
        self.scenes = self.folder / f"scenes-{images}"
        self.run = self.folder / "run"
        self.aside = self.folder / "aside"
        self.arrived = self.folder / "arrived.txt"
        self.random = random.Random(config.seed)
        self.report = Report()
        self.lost: set[tuple[int, int]] = set()
        for old in (self.run, self.aside):
            shutil.rmtree(old, ignore_errors=True)
        self.aside.mkdir(parents=True)
        self.arrived.write_text("")
        if not self.scenes.exists():
            command = ["--out", str(self.scenes), "--split", "test", "--count", str(images)]
            subprocess.run([sys.executable, "jobs/make_scenes.py", *command], check=True)

    def execute(self) -> Report:
        """Kill and restart the job for each victim, let it finish, and count its rows."""
        start = time.monotonic()
        job = self._start()
        for victim in self.victims:
            if not self._is_working(job):
                break  # it is done: there are fewer kills than requested, which the report shows
            time.sleep(self.random.uniform(0.0, self.config.pause_s))
            job = self._kill(job, victim)
        if job.wait(timeout=1800) != 0:
            raise JobError(f"the last job ended with {job.returncode}; see {self.folder}/job.log")
        self._restore()
        self._count()
        self.report.seconds = round(time.monotonic() - start, 1)
        return self.report

    def _start(self) -> subprocess.Popen:
        self._set_aside()
        self.report.attempts += 1
        command = [sys.executable, __file__, "--child", str(self.arrived), "--folder", str(self.folder)]
        command += ["--unit_size", str(self.config.unit_size)]
        environment = os.environ | {"CHAOS_SCENES": str(self.scenes / "images"), "CHAOS_RUN": str(self.run)}
        with (self.folder / "job.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _is_working(self, job: subprocess.Popen) -> bool:
        """Wait for a result of the job; return False if the job completes first."""
        before = self.arrived.stat().st_size
        deadline = time.monotonic() + WAIT_S
        while self.arrived.stat().st_size == before:
            if job.poll() is not None:
                if job.returncode == 0:
                    return False
                raise JobError(f"a job exited with {job.returncode}; see {self.folder}/job.log")
            if time.monotonic() > deadline:
                raise JobError(f"no result for {WAIT_S:.0f} s; see {self.folder}/job.log")
            time.sleep(0.01)
        return True

    def _kill(self, job: subprocess.Popen, victim: str) -> subprocess.Popen:
        """Kill the victim and return the job that runs afterward."""
        if victim == "job":
            os.killpg(job.pid, signal.SIGKILL)  # the group at once; then the rest of the session
        elif not self._kill_process(job, victim):
            raise JobError(f"no {victim} was working for {WAIT_S:.0f} s")
        self.report.kills += 1
        self.report.victims[victim] += 1
        print(f"kill {self.report.kills}: {victim}, {self._finished()} units done", flush=True)
        if victim == "worker":
            return job
        if victim == "raylet":
            try:
                job.wait(timeout=WAIT_S)
            except subprocess.TimeoutExpired:
                raise JobError("the job hangs after its raylet died") from None
            if job.returncode != 1 and self._finished() < self._units():
                raise JobError(f"the job exited with {job.returncode} instead of 1: it was not done")
        _kill_session(job.pid)
        job.wait()
        self._note_losses()
        return self._start()

    def _kill_process(self, job: subprocess.Popen, victim: str) -> bool:
        """Kill a worker in the middle of a chunk, or the raylet; return False if the job ends first."""
        deadline = time.monotonic() + WAIT_S
        while job.poll() is None and time.monotonic() < deadline:
            for process in _processes(job.pid):
                with suppress(psutil.NoSuchProcess):
                    title = " ".join(process.cmdline())
                    works = title.startswith("ray::MapWorker") and "submit" in title
                    if works if victim == "worker" else process.name() == "raylet":
                        process.kill()
                        return True
        return False

    def _note_losses(self) -> None:
        """Count the images of units that were not committed; they will be processed again."""
        done = {int(path.name.split("-")[1]) for path in self.run.glob("commits/*.json")}
        seen: dict[tuple[int, int], int] = {}
        for line in self.arrived.read_text().splitlines():
            unit, start, count = map(int, line.split()[:3])
            seen[unit, start] = count
        lost = {key: count for key, count in seen.items() if key[0] not in done}
        fresh = sum(count for key, count in lost.items() if key not in self.lost)
        self.lost = set(lost)
        self.report.most_lost_images = max(self.report.most_lost_images, fresh)
        self.report.most_open_units = max(self.report.most_open_units, len({unit for unit, _ in lost}))

    def _finished(self) -> int:
        return len(list(self.run.glob("commits/*.json")))

    def _units(self) -> int:
        return -(-self.images // self.config.unit_size)

    def _set_aside(self) -> None:
        """Replace the files of finished units by zeros: their size may be checked, but not their content."""
        for record in self.run.glob("commits/*.json"):
            if not (self.aside / record.name).exists():
                output = self.run / json.loads(record.read_text())["output"]
                shutil.copy2(output, self.aside / output.name)
                shutil.copy2(record, self.aside / record.name)
                output.write_bytes(bytes(output.stat().st_size))

    def _restore(self) -> None:
        for kept in self.aside.iterdir():
            path = self.run / ("commits" if kept.suffix == ".json" else "captions") / kept.name
            left = kept.read_bytes() if kept.suffix == ".json" else bytes(kept.stat().st_size)
            if path.read_bytes() != left:
                raise JobError(f"a finished unit was overwritten: {path}")
            shutil.copy2(kept, path)

    def _count(self) -> None:
        ids = Counter(one for path in self.run.glob("captions/*.parquet") for one in _ids(path))
        wanted = {path.name for path in (self.scenes / "images").iterdir()}
        report = self.report
        report.images, report.rows = len(wanted), ids.total()
        report.lost, report.doubled = len(wanted - ids.keys()), ids.total() - len(ids)
        report.units = self._finished()
        lines = self.arrived.read_text().splitlines()
        report.redone = sum(int(line.split()[2]) for line in lines) - report.images
        violations = list(status.verify(status.open_run(str(self.run))))
        if violations:
            raise JobError("; ".join(violations[:5]))


def _ids(path: Path) -> list[str]:
    return [str(one) for one in pq.read_table(path, columns=["id"])["id"].to_pylist()]


def _processes(session: int) -> Iterator[psutil.Process]:
    """Yield a job's processes: Ray's processes have their own groups, but share the session."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session:
                yield process


def _kill_session(session: int) -> None:
    """Kill the remaining processes of a job."""
    for process in _processes(session):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def logged(stream: Stream, file: Path) -> Stream:
    """Wrap a stream: append each result to a file before the driver gets it."""

    def logging_stream(chunks: Sequence[Chunk], *, isolated: bool = False) -> Iterator[DescribedChunk]:
        with file.open("a") as lines:
            for result in stream(chunks, isolated=isolated):
                lines.write(f"{result.unit} {result.start} {result.table.num_rows}\n")
                lines.flush()
                yield result

    return logging_stream


def run_job(config: Config) -> int:
    """Run the job of jobs/caption_dataset.py and log its results."""
    from glied.bulk.captioning import caption_job, caption_pools, fetch_stage
    from glied.bulk.ray.stream import RayStream
    from glied.bulk.run.bulk_run import execute, exit_code

    job = caption_config(
        f"--input.uri={os.environ['CHAOS_SCENES']}",
        f"--output.uri={os.environ['CHAOS_RUN']}",
        f"--output.unit_size={config.unit_size}",
    )
    stream = RayStream(fetch_stage(job.input, job.resources), caption_pools(job), job.resources)
    summary = execute(caption_job(job), logged(stream, Path(config.child or "")))
    return exit_code(summary)


def main() -> int:
    """Kill and restart a job and print the report; or, as the child process, run the job."""
    config = parse(Config, description=__doc__)
    if config.child is not None:
        return run_job(config)
    kills, images = (50, 5000) if config.full else (3, 1000)
    victims = random.Random(config.seed).choices(VICTIMS, k=kills)
    report = Chaos(config, victims, images).execute()
    print_result(report.__dict__, config.out)
    return 0 if report.rows == report.images and not report.lost else 1


if __name__ == "__main__":
    run(main)
