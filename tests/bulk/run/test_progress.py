import logging

from glied.bulk.run import progress
from glied.bulk.run.progress import Progress


def test_retried_images_count_in_the_total(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_SECONDS", 1.0)
    monkeypatch.setattr(progress.time, "monotonic", iter(range(1, 10)).__next__)
    with caplog.at_level(logging.INFO, logger=progress.__name__), Progress(10, 10) as counted:
        counted.extend(6)
        for _ in range(3):
            counted.update(2)
    counts = [record.args[:2] for record in caplog.records]
    assert counts == [(14, 16), (16, 16)]
    assert [record.args[3] for record in caplog.records] == [1.0, 0.0]  # seconds left
