"""Extract the regions of all images under a prefix into a feature store, on Ray; the same command resumes.

    .venv/bin/python jobs/extract_regions.py --config configs/extract/demo.yaml
    .venv/bin/python jobs/extract_regions.py --config configs/extract/demo.yaml --input.uri photos \\
        --output.uri features

The store is the folder features/ of the run folder. Exit code 0: every image has its row. 1: units are
missing, or more images failed than error_budget allows. 2: bad usage, input, output or config.
"""

from glied.bulk.captioning import fetch_stage
from glied.bulk.extraction import ExtractRegionsConfig, extract_job, extract_pools
from glied.bulk.run.bulk_run import execute, exit_code
from glied.config import parse
from glied.data import features


def main() -> int:
    """Run the job and print its summary."""
    config = parse(ExtractRegionsConfig, description=__doc__)
    job = extract_job(config)

    from glied.bulk.ray.stream import RayStream  # Ray takes seconds to import; mistakes are found before

    stream = RayStream(fetch_stage(config.input, config.resources), extract_pools(config), config.resources)
    summary = execute(job, stream, stream.in_order)
    print("\n".join(summary.lines()))
    if summary.units_done == summary.units:
        print(f"store: {features.stored_size(config.output.uri, summary.images)}")
    return exit_code(summary)
