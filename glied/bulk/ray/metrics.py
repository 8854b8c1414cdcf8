"""Prometheus metrics of a run, exported through Ray."""

from collections import Counter

import pyarrow as pa
import ray
import ray.util.metrics

from glied.bulk.arrow_tables import seconds_of

SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Bounds of the histogram's buckets."""


class Metrics:
    """Prometheus metrics: images by status, and the seconds of a chunk in each stage."""

    def __init__(self) -> None:
        """They are registered with the first chunk, once Ray runs."""
        self.images: ray.util.metrics.Counter | None = None
        self.seconds: ray.util.metrics.Histogram | None = None

    def count(self, table: pa.Table) -> None:
        """Count a described chunk."""
        if self.images is None or self.seconds is None:
            self.images = ray.util.metrics.Counter("glied_images", "Images described.", ("status",))
            self.seconds = ray.util.metrics.Histogram(
                "glied_chunk_seconds", "Seconds of a chunk in a stage.", SECONDS, ("stage",)
            )
        for status, count in Counter(table["status"].to_pylist()).items():
            self.images.inc(count, {"status": str(status)})
        for stage, seconds in seconds_of(table).items():
            self.seconds.observe(seconds, {"stage": stage})
