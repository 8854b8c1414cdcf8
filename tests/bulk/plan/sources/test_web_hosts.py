"""The state kept about web hosts, and the number of requests to them."""

import time
from contextlib import nullcontext

import pytest

from glied.bulk.plan.sources import web_hosts
from glied.bulk.plan.sources.web_hosts import GivenUp, HostError, Memory, PatientReader
from glied.errors import ImageError

SLOT = nullcontext()


class Script:
    """A reader that gives scripted answers and records the times of the requests."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    def read(self, url: str, max_bytes: int | None = None) -> bytes:
        self.asked.append(time.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def failure(kind: str, host: str = "h", **more) -> HostError:
    return HostError(kind, "no", host=host, **more)


def read(script: Script, **options) -> bytes:
    return PatientReader(reader=script, pause_s=0.01, **options).read("http://h/a", max_bytes=9, slot=SLOT)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("unreachable", 3),
        ("http_500", 3),
        ("http_503", 3),
        ("connection_lost", 3),
        ("timeout", 2),
    ],
)
def test_failures_are_retried_a_bounded_number_of_times(kind, asked):
    script = Script(failure(kind))
    with pytest.raises(HostError) as caught:
        read(script)
    assert (caught.value.kind, len(script.asked)) == (kind, asked)
    assert read(Script(failure(kind), b"data")) == b"data"


def test_final_failures_are_not_retried():
    script = Script(ImageError("not_found", "no"))
    with pytest.raises(ImageError):
        read(script)
    assert len(script.asked) == 1


@pytest.mark.parametrize(("longest_s", "waited"), [(9.0, 0.4), (0.1, 0.1)])
def test_retry_after_is_honored_up_to_a_bound(longest_s, waited):
    script = Script(failure("http_429", retry_after_s=0.4), b"data")
    assert read(script, retry_after_s=longest_s) == b"data"
    assert waited <= script.asked[1] - script.asked[0] < waited + 0.3


def test_all_rows_of_a_busy_host_wait():
    memory = Memory()
    memory.failed(failure("http_429", retry_after_s=5.0), began=time.monotonic(), longest_s=3.0)
    waits = [memory.wait_s("h", 60.0) for _ in range(3)]
    assert waits[0] == pytest.approx(3.0, abs=0.1)
    assert waits == sorted(waits)
    assert waits[2] > waits[0], "one after the other"
    assert memory.wait_s("other", 60.0) == 0.0
    assert memory.wait_s("h", 1.0) == pytest.approx(1.0, abs=0.01)


def test_an_unreachable_host_is_skipped_for_a_while(monkeypatch):
    reader = PatientReader(reader=Script(failure("unreachable", reached=False)), pause_s=0.001)
    for _ in range(5):
        with pytest.raises(HostError) as caught:
            reader.read("http://h/a", max_bytes=9, slot=SLOT)
        assert caught.value.kind == "unreachable"
    assert len(reader.reader.asked) == web_hosts.UNREACHED
    assert isinstance(caught.value, GivenUp)
    assert str(caught.value).count("not contacted again") == 1
    later = time.monotonic() + web_hosts.GIVEN_UP_S + 1
    monkeypatch.setattr(web_hosts.time, "monotonic", lambda: later)
    reader.reader.answers = [b"data"]
    assert reader.read("http://h/a", max_bytes=9, slot=SLOT) == b"data"


def test_a_host_with_broken_images_is_not_skipped():
    memory = Memory()
    for _ in range(20):
        memory.failed(failure("http_500"), began=time.monotonic())
        memory.failed(failure("connection_lost"), began=time.monotonic())
    assert memory.check("h") is None
    for _ in range(20):
        memory.failed(failure("timeout"), began=time.monotonic())
        memory.succeeded("h")
    assert memory.check("h") is None


def test_simultaneous_failures_count_once():
    memory = Memory()
    began = time.monotonic()
    for _ in range(16):
        memory.failed(failure("unreachable", reached=False), began=began)
    assert memory.check("h") is None


def test_a_redirect_to_a_dead_host_does_not_count_against_the_first_host():
    reader = PatientReader(reader=Script(failure("unreachable", host="dead", reached=False)), pause_s=0.001)
    for _ in range(3):
        with pytest.raises(HostError):
            reader.read("http://h/a", max_bytes=9, slot=SLOT)
    reader.memory.check("h")
    with pytest.raises(GivenUp):
        reader.memory.check("dead")


def test_runs_do_not_share_state():
    failed = failure("unreachable", reached=False)
    one, other = (PatientReader(reader=Script(failed), pause_s=0.001) for _ in range(2))
    for reader in (one, other):
        with pytest.raises(HostError):
            reader.read("http://h/a", max_bytes=9, slot=SLOT)
    assert len(other.reader.asked) == 3


def test_kinds_of_hosts():
    kinds = ["unreachable", "timeout", "tls_failed", "connection_lost", "bad_answer", "http_429", "http_503"]
    assert all(map(web_hosts.is_host_failure, kinds))
    assert not web_hosts.is_host_failure("storage")
    assert not web_hosts.is_host_failure("not_found")
