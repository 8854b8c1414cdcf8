"""Caption all images under a prefix, on Ray; the same command resumes after any kill.

.venv/bin/python jobs/caption_dataset.py --config configs/caption/demo.yaml --input.uri photos \\
    --output.uri runs/photos
.venv/bin/ray job submit -- python jobs/caption_dataset.py --config configs/caption/demo.yaml \\
    --input.uri s3://bucket/images --output.uri s3://bucket/captions
.venv/bin/python jobs/caption_dataset.py --config configs/caption/endpoint.yaml --input.uri photos \\
    --output.uri runs/photos --captioner.url http://localhost:8000/v1 --captioner.model NAME

captioner.kind in the config says who captions: glied (ours), coca, transformers or endpoint; --help after it
lists the settings of that kind.

Exit code 0: every image has its row. 1: units are missing, or more images failed than error_budget allows.
2: bad usage, input, output or config.
"""

from glied.bulk.captioning import caption_fetch, caption_job, caption_pools, parse_captioning
from glied.bulk.run.bulk_run import execute, exit_code


def main() -> int:
    """Run the job and print its summary."""
    config = parse_captioning(description=__doc__)
    job = caption_job(config)

    from glied.bulk.ray.stream import RayStream  # Ray takes seconds to import; mistakes are found before

    pools = caption_pools(config, job)
    stream = RayStream(caption_fetch(config), pools, config.resources)
    summary = execute(job, stream, stream.in_order)
    print("\n".join(summary.lines()))
    return exit_code(summary)
