"""Caption all images under a prefix, on Ray; the same command resumes after any kill.

.venv/bin/python jobs/caption_dataset.py --config configs/caption/demo.yaml --input.uri photos \\
    --output.uri runs/photos
.venv/bin/ray job submit -- python jobs/caption_dataset.py --config configs/caption/demo.yaml \
    --input.uri s3://bucket/images --output.uri s3://bucket/captions

Exit code 0: every image has its row. 1: units are missing, or more images failed than error_budget allows.
2: bad usage, input, output or config.
"""

from glied.bulk.captioning import CaptionDatasetConfig, caption_job, caption_pools, fetch_stage
from glied.bulk.run.bulk_run import execute, exit_code
from glied.config import parse


def main() -> int:
    """Run the job and print its summary."""
    config = parse(CaptionDatasetConfig, description=__doc__)
    job = caption_job(config)

    from glied.bulk.ray.stream import RayStream  # Ray takes seconds to import; mistakes are found before

    stream = RayStream(fetch_stage(config.input, config.resources), caption_pools(config), config.resources)
    summary = execute(job, stream, stream.in_order)
    print("\n".join(summary.lines()))
    return exit_code(summary)
