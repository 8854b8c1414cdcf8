"""Estimate the size, requests, memory, hours and cost of a bulk run of a million to ten billion images.

python benchmarks/cost.py
python benchmarks/cost.py --write docs/scaling.md
python benchmarks/cost.py --gpus 64 --images_per_s 250 --gpu_dollars 3.2

The estimates multiply the inputs below. Measured inputs are read from the results beside this file; rates and
prices that this project cannot measure are options. `--write` puts the tables into a page; a test checks that
docs/scaling.md has those of the defaults.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for glied, if it is not installed

from glied.bulk.plan.manifest import PART_ROWS
from glied.bulk.run.driver import IN_FLIGHT_IMAGES, IN_FLIGHT_UNITS
from glied.config import parse, run
from glied.errors import UsageError

RESULTS = Path(__file__).parent / "results"
SIZES = (10**6, 10**8, 10**10)
GB = 1e9
BEGIN, END = "<!-- benchmarks/cost.py -->\n", "<!-- end -->"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rates of other machines, and prices."""

    images_per_s: float = 100.0
    """Images that one GPU captions per second. Assumed, because no GPU was available; `summary.json` of a run
    has the measured rate."""
    gpus: int = 16
    """GPUs of the cluster; the default is the maximum of the spot group in cluster/kuberay."""
    gpu_dollars: float = 0.98
    """Dollars per hour of a node with one GPU (g6.2xlarge, on demand, us-east-1; price not verified)."""
    spot_share: float = 0.45
    """Spot price of the same node relative to on demand. Assumed."""
    image_bytes: int = 180_000
    """Mean size of an encoded image."""
    get_dollars: float = 0.0004
    """Dollars per 1,000 GETs from object storage in the same region (S3 Standard)."""
    put_dollars: float = 0.005
    """Dollars per 1,000 PUTs or LISTs (S3 Standard)."""
    month_dollars: float = 0.023
    """Dollars per GB and month of object storage (S3 Standard)."""
    request_s: float = 0.03
    """Latency of a PUT in seconds. Assumed."""
    page_s: float = 0.15
    """Latency of a page of 1,000 names of a listing in seconds. Assumed."""
    unit_size: int = 1024
    """Images per unit."""
    head_gb: float = 16.0
    """Memory of the head (cluster/kuberay/raycluster.yaml)."""
    write: str | None = None
    """Page whose tables to replace."""


@dataclass(frozen=True)
class Measured:
    """Measured inputs, from results/footprint.json and results/planning.json."""

    manifest_bytes: float
    planned_bytes: float
    images_per_chunk: float
    row_bytes: float
    record_bytes: float
    summed_bytes: float
    puts: float
    driver_image_s: float
    driver_unit_s: float
    listing_image_s: float

    @classmethod
    def load(cls) -> "Measured":
        """Read the committed results."""
        footprint = json.loads((RESULTS / "footprint.json").read_text())
        planning = json.loads((RESULTS / "planning.json").read_text())
        return cls(
            manifest_bytes=footprint["manifest_bytes_per_image"],
            planned_bytes=footprint["planned_bytes_per_image"],
            images_per_chunk=footprint["images_per_chunk"],
            row_bytes=footprint["row_bytes_per_image"],
            record_bytes=footprint["record_bytes_per_unit"],
            summed_bytes=footprint["summed_bytes_per_unit"],
            puts=footprint["puts_per_unit"],
            driver_image_s=footprint["driver_ms_per_image"] / 1000,
            driver_unit_s=footprint["driver_ms_per_unit"] / 1000,
            listing_image_s=planning["listing"]["seconds"] / planning["images"],
        )


@dataclass(frozen=True)
class Run:
    """Estimates for a run with one file per image."""

    images: int
    config: Config
    measured: Measured

    @property
    def units(self) -> int:
        """Number of units, each with an output and a commit record."""
        return math.ceil(self.images / self.config.unit_size)

    @property
    def gets(self) -> int:
        """Number of read requests: Arrow asks for the size of an image, then for its bytes."""
        return 2 * self.images

    @property
    def puts(self) -> float:
        """Number of write requests: two per unit, one per part of the manifest."""
        return self.measured.puts * self.units + self.images / PART_ROWS

    @property
    def lists(self) -> float:
        """Number of listing pages of 1,000 names: the input once; outputs and records at each start."""
        return self.images / 1000 + 2 * self.units / 1000

    @property
    def gpu_hours(self) -> float:
        """GPU hours without start-up."""
        return self.images / self.config.images_per_s / 3600

    @property
    def gpu_dollars(self) -> float:
        """Price of the GPU hours on demand, in dollars."""
        return self.gpu_hours * self.config.gpu_dollars

    @property
    def planning_s(self) -> float:
        """Seconds until the plan is written: the driver's work and the listing of the input."""
        return self.images * self.measured.listing_image_s + self.images / 1000 * self.config.page_s

    @property
    def resume_s(self) -> float:
        """Seconds for listing outputs and commit records."""
        return 2 * self.units / 1000 * self.config.page_s

    @property
    def window_bytes(self) -> float:
        """Memory of the planned chunks that are in the driver at the same time."""
        images = min(IN_FLIGHT_UNITS * self.config.unit_size, max(IN_FLIGHT_IMAGES, self.config.unit_size))
        return min(images, self.images) * self.measured.planned_bytes

    @property
    def summing_bytes(self) -> float:
        """Memory of all units in the driver when it computes the summary at the end."""
        return self.units * self.measured.summed_bytes

    @property
    def request_dollars(self) -> float:
        """Price of all requests in dollars."""
        return (
            self.gets * self.config.get_dollars + (self.puts + self.lists) * self.config.put_dollars
        ) / 1000

    @property
    def stored_bytes(self) -> float:
        """Bytes of rows, manifest and commit records."""
        measured = self.measured
        return (
            self.images * (measured.row_bytes + measured.manifest_bytes) + self.units * measured.record_bytes
        )


def driver_images_per_s(config: Config, measured: Measured) -> float:
    """Return the images/s that one driver collects, writes and commits if it does nothing else."""
    unit = measured.driver_unit_s + measured.puts * config.request_s
    return config.unit_size / (unit + config.unit_size * measured.driver_image_s)


def tables(config: Config) -> str:
    """Return the tables of the page."""
    measured = Measured.load()
    runs = [Run(images, config, measured) for images in SIZES]
    parts = [inputs_table(config, measured), runs_table(runs), limits_table(config, measured)]
    return "\n\n".join(parts)


def inputs_table(config: Config, measured: Measured) -> str:
    """Return the table of inputs with their sources."""
    footprint, planning, assumed = "`footprint.py`", "`planning.py`", "assumed: `--{}`"
    rows = [
        ("manifest, bytes per image", f"{measured.manifest_bytes:.1f}", footprint),
        ("caption row, bytes per image", f"{measured.row_bytes:.0f}", footprint),
        ("planned chunks in the driver, bytes per image", f"{measured.planned_bytes:.0f}", footprint),
        ("commit record, bytes per unit", f"{measured.record_bytes:.0f}", footprint),
        ("summary in the driver, bytes per finished unit", f"{measured.summed_bytes:.0f}", footprint),
        ("PUTs per unit", f"{measured.puts:g}", footprint),
        ("driver, CPU ms per image", f"{1000 * measured.driver_image_s:.3f}", footprint),
        ("driver, CPU ms per unit", f"{1000 * measured.driver_unit_s:.1f}", footprint),
        ("listing and planning, s per million images", f"{1e6 * measured.listing_image_s:.1f}", planning),
        ("images/s per GPU", f"{config.images_per_s:g}", assumed.format("images_per_s")),
        ("GPUs", f"{config.gpus}", assumed.format("gpus")),
        ("bytes per encoded image", f"{config.image_bytes:,}", assumed.format("image_bytes")),
        ("node with a GPU, $/h", f"{config.gpu_dollars:g}", assumed.format("gpu_dollars")),
        ("price on spot, as a share of that", f"{config.spot_share:g}", assumed.format("spot_share")),
        ("1,000 HEADs or GETs, $", f"{config.get_dollars:g}", assumed.format("get_dollars")),
        ("1,000 PUTs or LISTs, $", f"{config.put_dollars:g}", assumed.format("put_dollars")),
        ("storage per GB and month, $", f"{config.month_dollars:g}", assumed.format("month_dollars")),
        ("latency of a PUT, s", f"{config.request_s:g}", assumed.format("request_s")),
        ("latency of a page of a listing, s", f"{config.page_s:g}", assumed.format("page_s")),
        ("images per unit", f"{config.unit_size:,}", "`--unit_size`"),
    ]  # fmt: skip
    return table(("input", "value", "source"), rows)


def runs_table(runs: list[Run]) -> str:
    """Return the table of estimates for runs of several sizes."""
    lines: list[tuple[str, Callable[[Run], str]]] = [
        ("units", lambda run: f"{run.units:,}"),
        ("read from storage", lambda run: size(run.images * run.config.image_bytes)),
        ("HEADs and GETs", lambda run: f"{run.gets:,}"),
        ("PUTs", lambda run: f"{run.puts:,.0f}"),
        ("LISTs", lambda run: f"{run.lists:,.0f}"),
        ("manifest", lambda run: size(run.images * run.measured.manifest_bytes)),
        ("caption rows", lambda run: size(run.images * run.measured.row_bytes)),
        ("commit records", lambda run: size(run.units * run.measured.record_bytes)),
        ("driver memory: planned chunks", lambda run: size(run.window_bytes)),
        ("driver memory: summary", lambda run: size(run.summing_bytes)),
        ("planning, before the first image", lambda run: hours(run.planning_s)),
        ("resume, before the first image", lambda run: hours(run.resume_s)),
        ("GPU hours", lambda run: f"{run.gpu_hours:,.1f}"),
        ("wall clock", lambda run: hours(3600 * run.gpu_hours / run.config.gpus)),
        ("GPU nodes on demand", lambda run: f"${run.gpu_dollars:,.0f}"),
        ("GPU nodes on spot", lambda run: f"${run.gpu_dollars * run.config.spot_share:,.0f}"),
        ("requests", lambda run: f"${run.request_dollars:,.2f}"),
        ("results kept, per month", lambda run: f"${run.stored_bytes / GB * run.config.month_dollars:,.2f}"),
    ]  # fmt: skip
    rows = [(name, *(value(one) for one in runs)) for name, value in lines]
    return table(("", *(f"{one.images:,} images" for one in runs)), rows)


def limits_table(config: Config, measured: Measured) -> str:
    """Return the table of the limits of one run, the lowest first."""
    one = Run(config.unit_size, config, measured)  # one unit: everything grows with the number of units
    memory = config.head_gb / 2 * GB
    pace = driver_images_per_s(config, measured)
    limits = [
        (
            memory / one.summing_bytes,
            f"the driver's summary fills half of the head's {config.head_gb:g} GB",
        ),
        (8 * 3600 / one.planning_s, "planning takes 8 hours"),
        (3600 / one.resume_s, "listing at a resume takes an hour"),
        (30 * 24 * config.gpus / one.gpu_hours, f"{config.gpus} GPUs need 30 days"),
    ]
    rows = [(f"{units * config.unit_size / 1e6:,.0f} million", why) for units, why in sorted(limits)]
    gpus = pace / config.images_per_s
    rows.append(("any", f"one driver commits at most {pace:,.0f} images/s, as from {gpus:,.0f} such GPUs"))
    return table(("images in one run", "limit"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Format a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size(count: float) -> str:
    """Format a number of bytes."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def hours(seconds: float) -> str:
    """Format a duration."""
    for unit, factor in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.2g} s"


def replaced(page: str, new: str) -> str:
    """Replace the tables between the markers of a page.

    Raises:
        UsageError: the page has no markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"write: the page has no {BEGIN.strip()} and {END}")
    return before + begin + new + "\n" + end + after


def main() -> int:
    """Print the tables and, with --write, put them into a page."""
    config = parse(Config, description=__doc__)
    text = tables(config)
    print(text)
    if config.write:
        page = Path(config.write)
        page.write_text(replaced(page.read_text(), text))
    return 0


if __name__ == "__main__":
    run(main)
