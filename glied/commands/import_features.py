"""Import published region features (bottom-up attention's TSV, .npz per image, HDF5) into a feature store.

.venv/bin/python jobs/import_features.py --config configs/import/bottom_up.yaml
.venv/bin/python jobs/import_features.py --input.uri trainval \\
    --input.captions data/coco/train/captions.json --extractor "bottom-up 10-100" \\
    --output.uri runs/coco/features/train

The store is the folder features/ of the run folder; trainings read it like one of jobs/extract_regions.py.
The same command resumes. Exit code 0: every image has its row. 1: units are missing, images failed, or the
captions file has images that the features lack. 2: bad usage, input, output or config.
"""

import logging

from glied.bulk.chunks import run_here
from glied.bulk.importing import ImportFeaturesConfig, import_job, missing_images
from glied.bulk.run.bulk_run import execute, exit_code
from glied.config import parse
from glied.data import features

log = logging.getLogger(__name__)


def main() -> int:
    """Import what is missing and print a summary."""
    config = parse(ImportFeaturesConfig, description=__doc__)
    summary = execute(import_job(config), run_here(config.stage))
    print("\n".join(summary.lines()))
    code = exit_code(summary)
    if summary.units_done < summary.units:  # another shard is still running, or units are missing
        return code
    print(f"store: {features.stored_size(config.output.uri, summary.images)}")
    missing = [] if config.input.limit else missing_images(config)
    if missing:
        captions = config.input.captions
        log.error("%d images of %s have no regions, first %s", len(missing), captions, missing[0])
    return 1 if missing else code
