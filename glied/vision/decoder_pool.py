"""Image decoding in subprocesses, where a crash or hang costs only one image.

Native libraries decode images whose bytes may come from anyone. `DecoderPool` keeps them out of the process
that holds the models: its children import only NumPy and Pillow (no torch, no Ray; 38 MB each), decode one
image at a time, and are replaced when they die or take too long. Each child runs
`glied.vision.decoder_process`. Linux only.

Encoded bytes are sent to a child over a socket. Pixels are returned in an anonymous memory file (memfd) that
both processes map; the kernel frees it with its last user, so nothing is left in /dev/shm however a process
ends.
"""

import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glied.errors import ImageError, ItemError, JobError, UsageError
from glied.vision import images
from glied.vision.decoder_process import DecodingJob, receive, send
from glied.vision.images import Picture

log = logging.getLogger(__name__)

CRASHED, TIMEOUT = "decoder_crashed", "decoder_timeout"
MINIMUM_MEMORY = 128 * 2**20
"""Minimum of `memory_bytes`; about half of it is in use before the first image."""

_ATTEMPTS = 2  # for an image whose decoder dies; the system may have killed it to free memory
_START_ATTEMPTS = 3
_START_S = 60.0
_END_S = 10.0
_KEPT_PIXELS = 16 * 2**20  # bytes of pixel memory that are kept for the next image
_KEPT_HEAP = 64 * 2**20  # bytes of freed memory to keep; enough for the largest image that is not shrunk
_LONGEST_REPLY = 2**20


class DecoderError(ItemError):
    """The decoder failed on an image, which is a system failure rather than a fault of the image.

    The kind is "decoder_crashed", "decoder_timeout", "decoder_memory" or "decoder_failed" (an exception other
    than `ImageError`).
    """


Decoded = Picture | ImageError | DecoderError


class DecoderPool:
    """A fixed number of subprocesses that decode images; a context manager.

    A pool that is not closed explicitly is closed when it is garbage-collected, or when the interpreter
    exits, which waits for the batches in progress.
    """

    def __init__(
        self,
        processes: int,
        *,
        timeout_s: float = 60.0,
        memory_bytes: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        max_side: int = images.MAX_SIDE,
        resolution: tuple[int, int] | None = None,
        missing_rows: float = 0.0,
        function: str = "glied.vision.images:read",
    ) -> None:
        """Start the processes in the background; the first batch waits for them.

        Args:
            processes: number of images to decode at a time.
            timeout_s: time limit for one image, from the start of its decoding.
            memory_bytes: limit on the private memory of one process (RLIMIT_DATA). Decoding takes about 17
                bytes per pixel for JPEGs, 26 with alpha, plus 64 MiB. Leave some room: a library that reports
                lack of memory as broken data makes the image "corrupt".
            max_pixels: as in `images.read`; each process reserves (but does not use) 3 bytes per pixel.
            max_side: as in `images.read`.
            resolution: as in `images.read`.
            missing_rows: as in `images.read`.
            function: "module:name" of the decoding function, with the signature of `images.read`.

        Raises:
            UsageError: an argument is out of range.
        """
        if processes < 1 or timeout_s <= 0 or max_pixels < 1:
            raise UsageError(
                f"need processes, timeout_s and max_pixels > 0, got {processes}, {timeout_s}, {max_pixels}"
            )
        if memory_bytes is not None and memory_bytes < MINIMUM_MEMORY:
            raise UsageError(f"memory_bytes is {memory_bytes:,}; at least {MINIMUM_MEMORY:,} are needed")
        job = DecodingJob(
            function=function,
            max_pixels=max_pixels,
            max_side=max_side,
            resolution=resolution,
            missing_rows=missing_rows,
            memory_bytes=memory_bytes,
        )
        self._crew = _Crew(processes, job, timeout_s)
        # One thread per process. They also start the children, because the kernel kills a child when the
        # thread that started it ends, and the caller's thread may be short-lived.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")
        self._close = weakref.finalize(self, _release, self._crew, self._threads)
        for _ in range(processes):
            self._threads.submit(self._crew.warm_up)

    def __enter__(self) -> "DecoderPool":
        """Return the pool."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the pool."""
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the current children."""
        return sorted(child.process.pid for child in list(self._crew.children))

    def decode(self, batch: Sequence[bytes]) -> list[Decoded]:
        """Decode a batch; see `Pending.result`."""
        return self.start(batch).result()

    def start(self, batch: Sequence[bytes]) -> "Pending":
        """Start decoding a batch and return immediately.

        The caller limits the number of batches in progress.
        """
        return Pending(self, [self._threads.submit(self._crew.decode, data) for data in batch])

    def close(self) -> None:
        """Kill the processes; batches in progress are lost."""
        self._close()
        self._threads.shutdown(wait=True)
        self._crew.dismiss_all()  # only now: until then, threads may use the sockets


class Pending:
    """A batch that is being decoded."""

    def __init__(self, pool: DecoderPool, futures: "list[Future[Decoded]]") -> None:
        """Keep the pool alive until the batch is done."""
        self._pool = pool
        self._futures = futures

    def result(self) -> list[Decoded]:
        """Wait for the batch.

        If a process dies, its image is retried once in a new process; an image that takes too long is not.

        Returns:
            For each image, in order: the result of `images.read`, or the error.

        Raises:
            JobError: no process can be started, whatever the image.
            CancelledError, RuntimeError: the pool was closed in the meantime.
        """
        try:
            wait(self._futures, return_when=FIRST_EXCEPTION)  # wakes this thread once, not once per image
            return [future.result() for future in self._futures]
        except BaseException:
            for future in self._futures:
                future.cancel()
            raise


class _Crew:
    """The children of a pool, shared by its threads; without a reference to the pool, which can be collected.

    No lock is needed: `closed` is set before the children are killed, and read after a new child is
    registered.
    """

    def __init__(self, processes: int, job: DecodingJob, timeout_s: float) -> None:
        self.job = job
        self.timeout_s = timeout_s
        self.closed = False
        self.children: set[_Child] = set()
        self._idle: SimpleQueue[_Child | None] = SimpleQueue()  # None: to be started by the next user
        for _ in range(processes):
            self._idle.put(None)

    def warm_up(self) -> None:
        child = self._idle.get()
        try:
            child = child or self._start_once()
        except (_LostError, OSError):
            log.debug("a decoder process did not start ahead of the first batch", exc_info=True)
        finally:
            self._idle.put(child)

    def decode(self, data: bytes) -> Decoded:
        child = self._idle.get()
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                child = child or self._start()
                try:
                    return child.decode(data, self.timeout_s)
                except _LostError as lost:
                    self._dismiss(child)
                    child = None
                    log.warning("%s on an image of %d bytes, attempt %d", lost, len(data), attempt)
                    error = DecoderError(lost.kind, lost.message)
                    if lost.kind == TIMEOUT:
                        break
            return error
        finally:
            self._idle.put(child)

    def end(self) -> None:
        self.closed = True
        for child in list(self.children):
            child.kill()

    def dismiss_all(self) -> None:
        for child in list(self.children):
            self._dismiss(child)

    def _start(self) -> "_Child":
        for attempt in range(_START_ATTEMPTS):
            time.sleep(attempt * 0.5)
            try:
                return self._start_once()
            except (_LostError, OSError) as error:
                log.warning("a decoder process did not start: %s", error)
                reason = str(error)
        raise JobError(f"decoder processes do not start (their stderr may say more): {reason}")

    def _start_once(self) -> "_Child":
        if self.closed:
            raise RuntimeError("the decoder pool is closed")
        child = _Child(self.job)
        self.children.add(child)
        try:
            if self.closed:
                raise RuntimeError("the decoder pool is closed")
            child.wait_until_ready()
        except BaseException:
            self._dismiss(child)
            raise
        return child

    def _dismiss(self, child: "_Child") -> None:
        child.kill()
        child.socket.close()
        self.children.discard(child)


def _release(crew: _Crew, threads: ThreadPoolExecutor) -> None:
    """Kill the children; does not wait for the threads, as the garbage collector may run in one of them."""
    threads.shutdown(wait=False, cancel_futures=True)
    crew.end()


class _LostError(DecoderError):
    """The child can no longer be used."""


class _Child:
    """A decoding process, its socket, and the shared memory for pixels."""

    def __init__(self, job: DecodingJob) -> None:
        memory = _memory_file(3 * job.max_pixels)
        self.socket, theirs = socket.socketpair()
        try:
            self.memory = mmap.mmap(memory, 3 * job.max_pixels)
            about = asdict(job) | {"parent": os.getpid(), "socket": theirs.fileno(), "memory": memory}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "glied.vision.decoder_process", json.dumps(about)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(job),
                cwd="/",  # -m adds the working directory to the path, and there are no packages in it
                pass_fds=(theirs.fileno(), memory),
            )
        finally:
            theirs.close()
            os.close(memory)

    def wait_until_ready(self) -> None:
        if self._exchange(None, _START_S) != {"ready": True}:
            raise _LostError(CRASHED, "the decoder's first answer is invalid")

    def decode(self, data: bytes, timeout_s: float) -> Decoded:
        """Decode an image.

        Raises:
            _LostError: the child died or timed out.
        """
        match self._exchange(data, timeout_s):
            case {
                "pixels": [int(h), int(w)],
                "size": [int(width), int(height)],
                "missing_rows": int(missing),
            } if self._holds(h, w):
                return Picture(self._pixels(h, w), width, height, missing)
            case {"image_error": [str(kind), str(message)]}:
                return ImageError(kind, message)
            case {"decoder_error": [str(kind), str(message)]}:
                return DecoderError(kind, message)
        raise _LostError(CRASHED, "the decoder's answer is invalid")

    def kill(self) -> None:
        """Kill the process.

        Safe from any thread. A thread that waits for an answer sees the socket closed.
        """
        self.process.kill()
        self._wait()

    def _exchange(self, data: bytes | None, timeout_s: float) -> Any:
        self.socket.settimeout(timeout_s)
        try:
            if data is not None:
                send(self.socket, data)
            return json.loads(receive(self.socket, longest=_LONGEST_REPLY))
        except TimeoutError:
            raise _LostError(TIMEOUT, f"no result within {timeout_s:g} s") from None
        except (OSError, EOFError):
            raise _LostError(CRASHED, f"the decoder process {self._wait()}") from None
        except ValueError:
            raise _LostError(CRASHED, "the decoder's answer is invalid") from None

    def _holds(self, height: int, width: int) -> bool:
        return 0 < 3 * height * width <= len(self.memory)

    def _pixels(self, height: int, width: int) -> NDArray[np.uint8]:
        size = 3 * height * width
        pixels = np.frombuffer(self.memory, np.uint8, size).reshape(height, width, 3).copy()
        if size > _KEPT_PIXELS:
            self.memory.madvise(mmap.MADV_REMOVE)
        return pixels

    def _wait(self) -> str:
        """Wait for the process and describe how it ended."""
        try:
            status = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "does not end"
        if status >= 0:
            return f"ended with exit status {status}"
        names = {int(one): one.name for one in signal.Signals}
        return f"was ended by {names.get(-status, f'signal {-status}')}"


def _memory_file(size: int) -> int:
    """Create a sealed memory file of fixed size, which children cannot truncate.

    Pages are allocated on use.
    """
    file = os.memfd_create("glied-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return file


def _environment(job: DecodingJob) -> dict[str, str]:
    """Return this process's environment with its import path, one thread, and an allocator that keeps memory.

    Returning freed memory to the system and requesting it again causes page faults that slow decoding down by
    half. 32 MiB is the largest value that glibc accepts for the first threshold.
    """
    kept = _KEPT_HEAP if job.memory_bytes is None else min(_KEPT_HEAP, job.memory_bytes // 4)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(kept),
    }
