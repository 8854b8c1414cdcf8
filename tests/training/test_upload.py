import logging
import threading

import pytest

from glied.errors import JobError
from glied.training import upload
from glied.training.upload import ATTEMPTS, Uploads


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(upload, "FIRST_WAIT_S", 0.0)


def test_a_failed_upload_is_logged_and_retried(caplog):
    failures = iter([OSError("no route\nto host"), OSError("slow down")])

    def put() -> str:
        for error in failures:
            raise error
        return "kept"

    uploads = Uploads(timeout_s=60)
    uploads.begin()
    with caplog.at_level(logging.WARNING):
        assert uploads.carry_out("the checkpoint of step 7", put) == "kept"
    assert caplog.messages == [
        f"the checkpoint of step 7 could not be uploaded (no route to host), attempt 1 of {ATTEMPTS}",
        f"the checkpoint of step 7 could not be uploaded (slow down), attempt 2 of {ATTEMPTS}",
    ]
    uploads.settle()


def test_an_upload_that_never_succeeds_is_raised_and_does_not_block_the_next():
    tries = []

    def put() -> None:
        tries.append(1)
        raise OSError("gone")

    uploads = Uploads(timeout_s=60)
    uploads.begin()
    with pytest.raises(OSError, match="gone"):
        uploads.carry_out("the checkpoint", put)
    assert len(tries) == ATTEMPTS
    uploads.begin()


def test_one_at_a_time():
    uploads, go_on = Uploads(timeout_s=0.01), threading.Event()
    uploads.begin()
    thread = threading.Thread(target=uploads.carry_out, args=("the checkpoint", go_on.wait))
    thread.start()
    with pytest.raises(JobError, match="has not ended"):
        uploads.begin()
    go_on.set()
    thread.join()
    uploads.begin()
