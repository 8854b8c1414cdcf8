"""Decoder processes give the pixels of `images.read`, and a fault affects only its image."""

import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glied.errors import ImageError, JobError, UsageError
from glied.vision import images
from glied.vision.decoder_pool import MINIMUM_MEMORY, DecoderError, DecoderPool
from tests.vision.decoder_faults import fault

FUNCTION = "tests.vision.decoder_faults:read"
ROOT = Path(__file__).parents[2]


def encode(kind: str, width: int = 60, height: int = 40, seed: int = 0, **options) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


PNGS = [encode("PNG", seed=seed) for seed in range(6)]


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(2, timeout_s=10.0, memory_bytes=256 * 2**20, function=FUNCTION) as pool:
        yield pool


def assert_decoded(outcomes, batch) -> None:
    for outcome, data in zip(outcomes, batch, strict=True):
        np.testing.assert_array_equal(outcome.pixels, images.decode(data))


def assert_only_that_fails(pool, data: bytes) -> DecoderError:
    """Decode a bad image among good ones, check that these arrive in order, and return its error."""
    outcomes = pool.decode([*PNGS[:3], data, *PNGS[3:]])
    assert_decoded(outcomes[:3] + outcomes[4:], PNGS)
    assert isinstance(outcomes[3], DecoderError)
    return outcomes[3]


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert pids
    assert not [pid for pid in pids if is_running(pid)]


def wait_for_pids(pool, count: int) -> list[int]:
    pool.decode(PNGS)
    deadline = time.monotonic() + 20
    while len(pool.pids) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return pool.pids


def reference(data: bytes):
    try:
        return images.decode(data)
    except ImageError as error:
        return error


def test_pixels_and_image_errors_equal_those_of_decode():
    batch = [encode(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]
    batch += [encode("JPEG", 1200, 900), encode("PNG", 1, 1), encode("PNG", 300, 2)]
    bad = [
        b"",
        b"<html>404</html>",
        b"\0" * 500,
        batch[0][:300],
        batch[1][:-500],
        b"RIFF\xff\xff\xff\xffWEBP",
    ]
    with DecoderPool(2) as pool:
        outcomes = pool.decode(batch + bad)
    assert_decoded(outcomes[: len(batch)], batch)
    for pixels in (picture.pixels for picture in outcomes[: len(batch)]):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
    for outcome, data in zip(outcomes[len(batch) :], bad, strict=True):
        assert isinstance(outcome, ImageError)
        assert (outcome.kind, outcome.message) == (reference(data).kind, reference(data).message)


def test_limits_are_passed_on():
    with DecoderPool(1, max_pixels=60 * 40, max_side=60) as pool:
        fits, too_many, too_long = pool.decode([PNGS[0], encode("PNG", 50, 49), encode("PNG", 61, 1)])
    assert fits.pixels.shape == (40, 60, 3)
    assert (fits.width, fits.height) == (60, 40)
    assert [too_many.kind, too_long.kind] == ["too_large", "too_large"]


def test_large_images_are_shrunk_on_request():
    large = encode("JPEG", 2400, 1800)
    with DecoderPool(1, resolution=(600, 1000)) as pool:
        picture, small = pool.decode([large, PNGS[0]])
    np.testing.assert_array_equal(picture.pixels, images.read(large, resolution=(600, 1000)).pixels)
    assert (picture.pixels.shape, picture.width, picture.height) == ((900, 1200, 3), 2400, 1800)
    assert small.pixels.shape == (40, 60, 3)


def test_results_are_copies(pool):
    first = pool.decode(PNGS)
    pool.decode(PNGS[::-1])
    assert_decoded(first, PNGS)


def test_an_empty_batch(pool):
    assert pool.decode([]) == []


def test_a_crash_affects_only_its_image(pool):
    error = assert_only_that_fails(pool, fault("crash"))
    assert error.kind == "decoder_crashed"
    assert "SIGSEGV" in error.message


def test_an_exit_is_a_crash(pool):
    error = assert_only_that_fails(pool, fault("leave", 3))
    assert (error.kind, error.message) == ("decoder_crashed", "the decoder process ended with exit status 3")


@pytest.mark.slow
def test_a_hang_affects_only_its_image(pool):
    start = time.monotonic()
    error = assert_only_that_fails(pool, fault("hang", 100))
    assert (error.kind, error.message) == ("decoder_timeout", "no result within 10 s")
    assert time.monotonic() - start < 40


def test_too_much_memory_affects_only_its_image_and_ends_no_process(pool):
    before = wait_for_pids(pool, 2)
    assert assert_only_that_fails(pool, fault("allocate", 2**30)).kind == "decoder_memory"
    assert assert_only_that_fails(pool, large_png()).kind == "decoder_memory"
    assert pool.pids == before


def large_png() -> bytes:
    """Return a small file of 100 megapixels, for which Pillow runs out of memory."""
    buffer = io.BytesIO()
    Image.new("L", (10_000, 10_000)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def test_an_exception_affects_only_its_image(pool):
    error = assert_only_that_fails(pool, fault("fail", "this"))
    assert (error.kind, error.message) == ("decoder_failed", "KeyError: 'this'")


def test_many_faults_in_a_batch(pool):
    batch = [fault("crash"), PNGS[0], fault("leave", 1), b"", fault("fail"), PNGS[1], fault("crash")]
    outcomes = pool.decode(batch)
    assert_decoded([outcomes[1], outcomes[5]], PNGS[:2])
    kinds = [outcomes[index].kind for index in (0, 2, 3, 4, 6)]
    assert kinds == ["decoder_crashed", "decoder_crashed", "empty", "decoder_failed", "decoder_crashed"]


def test_an_image_is_retried_after_a_crash(pool, tmp_path):
    batch = [*PNGS, fault("crash_once", tmp_path / "crashed", PNGS[0])]
    assert_decoded(pool.decode(batch), [*PNGS, PNGS[0]])
    assert (tmp_path / "crashed").exists()


def test_killing_busy_processes_loses_no_image(pool):
    before = wait_for_pids(pool, 2)
    pending = pool.start([fault("sleep", 0.4, data) for data in PNGS[:4]])
    time.sleep(0.2)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert_decoded(pending.result(), PNGS[:4])
    assert not set(pool.pids) & set(before)


def test_killed_idle_processes_are_replaced(pool):
    for pid in wait_for_pids(pool, 2):
        os.kill(pid, signal.SIGKILL)
    assert_decoded(pool.decode(PNGS), PNGS)


def test_the_next_batch_is_decoded_while_the_caller_works(pool):
    pool.decode(PNGS)
    first = pool.start([fault("sleep", 0.3, data) for data in PNGS[:2]])
    second = pool.start([fault("sleep", 0.3, data) for data in PNGS[2:4]])
    time.sleep(1.0)
    start = time.monotonic()
    assert_decoded(first.result() + second.result(), PNGS[:4])
    assert time.monotonic() - start < 0.25


def test_children_are_small_and_leave_nothing_in_dev_shm(pool):
    for pid in wait_for_pids(pool, 2):
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "memfd:glied-decoder" in mapped
        assert "/dev/shm" not in mapped
        assert "/site-packages/numpy/" in mapped
        assert "/site-packages/torch/" not in mapped
        assert "/site-packages/ray/" not in mapped


def test_close_ends_busy_processes():
    pool = DecoderPool(2, function=FUNCTION)
    pids = wait_for_pids(pool, 2)
    files = len(os.listdir("/proc/self/fd"))
    pending = pool.start([fault("hang", 100)] * 5)
    time.sleep(0.1)
    pool.close()
    assert_gone(pids)
    assert pool.pids == []
    assert len(os.listdir("/proc/self/fd")) < files
    with pytest.raises(RuntimeError):
        pool.start(PNGS)
    with pytest.raises(RuntimeError):
        pending.result()
    pool.close()


def test_close_ends_idle_processes():
    with DecoderPool(1) as pool:
        pids = wait_for_pids(pool, 1)
    assert_gone(pids)
    assert pool.pids == []


def test_a_garbage_collected_pool_ends_its_processes():
    pool = DecoderPool(1)
    pending = pool.start(PNGS)
    pids = wait_for_pids(pool, 1)
    del pool
    gc.collect()
    assert_decoded(pending.result(), PNGS)
    del pending
    gc.collect()
    assert_gone(pids)


PARENT = """
import sys, time
from glied.vision.decoder_pool import DecoderPool
from tests.vision.decoder_faults import fault
pool = DecoderPool(2, function="tests.vision.decoder_faults:read")
pool.decode([fault("sleep", 0.3)] * 4)
if sys.argv[1] == "hang":
    pending = pool.start([fault("hang", 100)])
    time.sleep(0.2)
print(*pool.pids, flush=True)
sys.stdin.read()
"""


def start_parent(how: str) -> tuple[subprocess.Popen, list[int]]:
    """Start a process with a pool, which runs until it is killed or its stdin is closed."""
    command = [sys.executable, "-c", PARENT, how]
    parent = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(is_running(pid) for pid in pids)
    return parent, pids


def test_children_end_with_a_killed_parent_even_if_one_hangs():
    parent, pids = start_parent("hang")
    parent.kill()
    parent.communicate()
    assert_gone(pids)


def test_children_end_with_a_parent_that_returns():
    parent, pids = start_parent("idle")
    parent.communicate("", timeout=20)
    assert parent.returncode == 0
    assert_gone(pids)


@pytest.mark.slow
def test_a_pool_that_cannot_start_is_a_job_error():
    with (
        DecoderPool(1, function="tests.vision.decoder_faults:nothing") as pool,
        pytest.raises(JobError) as caught,
    ):
        pool.decode(PNGS[:1])
    assert "exit status 1" in str(caught.value)


@pytest.mark.parametrize(
    ("processes", "options"),
    [(0, {}), (1, {"timeout_s": 0}), (1, {"max_pixels": 0}), (1, {"memory_bytes": MINIMUM_MEMORY - 1})],
)
def test_arguments_out_of_range_are_refused(processes, options):
    with pytest.raises(UsageError):
        DecoderPool(processes, **options)


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(DecoderError("decoder_crashed", "it did")))
    assert (error.kind, error.message, str(error)) == ("decoder_crashed", "it did", "decoder_crashed: it did")
