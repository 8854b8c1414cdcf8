"""Captions by a model behind an OpenAI-compatible HTTP API, many requests at a time.

The event loop has a thread of its own, so that `EndpointEngine.caption` is an ordinary function and its
connections stay open from batch to batch.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import email.utils
import os
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from glied.captioner.engines import chat_messages
from glied.captioner.engines.chat_messages import BrokenAnswerError, clean
from glied.captioner.engines.config import EndpointConfig, flat_settings
from glied.captioner.engines.engine import Engine, EngineCaption, Failure, Image, Outcome, Usage
from glied.captioner.engines.prompts import PromptError, fill
from glied.errors import UsageError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
MOST_BYTES = 8 << 20
"""Longer answers are given up."""
_RETRIED = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which another request may succeed."""
_FATAL = frozenset({301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 405, 422})
"""Statuses of the first request that no image is to blame for."""
_LONGEST_END_S = 5.0

T = TypeVar("T")


class _TransientError(Exception):
    """A request that may succeed later.

    Attributes:
        failure: what the row says if it does not.
        wait_s: seconds that the server asks to wait.
    """

    def __init__(self, failure: Failure, wait_s: float = 0.0) -> None:
        super().__init__(failure.message)
        self.failure, self.wait_s = failure, wait_s


class EndpointEngine(Engine):
    """A model behind an OpenAI-compatible API, an `engine.Engine`."""

    def __init__(self, config: EndpointConfig) -> None:
        """Read the API key from the environment; nothing is sent yet.

        Raises:
            UsageError: the variable that the config names is not set.
        """
        self.config = config
        self.name = config.model
        self.resolution = config.images.longest_side, config.images.longest_side
        self._key = api_key(config)
        self._url = config.url.rstrip("/") + "/chat/completions"
        self._used, self._lock = Usage(), threading.Lock()
        self._open_at = 0.0
        self._slots = asyncio.Semaphore(config.requests.concurrency)
        self._sessions: list[aiohttp.ClientSession] = []  # one, once a request is made
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        thread.start()
        # At the end of the process, too: an open session is reported, and its loop may not end.
        self._finish = weakref.finalize(self, _end_loop, self._loop, thread, self._sessions)

    def caption(
        self, images: Sequence[Image], columns: Sequence[Mapping[str, Any]] | None = None
    ) -> list[Outcome]:
        """As `engine.Engine.caption`; every prompt is a request of its own."""
        return self._run(self._caption_all(images, columns or [{}] * len(images)))

    def usage(self) -> Usage:
        """As `engine.Engine.usage`."""
        with self._lock:
            used, self._used = self._used, Usage()
        return used

    def check(self) -> None:
        """Ask for a caption of a small gray image, so that mistakes are found before the run begins.

        Raises:
            UsageError: the server is not there, or refuses the key, the model or the request.
        """
        gray = np.full((64, 64, 3), 128, np.uint8)
        name, template = next(iter(self.config.prompts.items()))
        prompt = template.replace("{", "").replace("}", "")
        found: list[EngineCaption] | Failure = self._run(self._prompted(name, prompt, gray, attempts=1))
        if isinstance(found, list):
            return
        if found.kind == "unreachable":
            raise UsageError(f"captioner.url: no answer from {self.config.url} ({found.message})")
        if found.kind in {f"http_{status}" for status in _FATAL} | {"insufficient_quota"}:
            raise UsageError(f"{self.config.url} refuses a request: {found.message}")

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._finish()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _caption_all(
        self, images: Sequence[Image], columns: Sequence[Mapping[str, Any]]
    ) -> list[Outcome]:
        work = [self._caption(image, row) for image, row in zip(images, columns, strict=True)]
        return list(await asyncio.gather(*work))

    async def _caption(self, image: Image, columns: Mapping[str, Any]) -> Outcome:
        """The captions of an image under all prompts; the first prompt that fails fails the image."""
        captions: list[EngineCaption] = []
        for name, template in self.config.prompts.items():
            try:
                prompt = fill(template, columns, self.config.prompting.null_values)
            except PromptError as error:
                return Failure(error.kind, str(error))
            found = await self._prompted(name, prompt, image, self.config.requests.attempts)
            if isinstance(found, Failure):
                return found
            captions += found
        return captions

    async def _prompted(
        self, name: str, prompt: str, image: Image, attempts: int
    ) -> list[EngineCaption] | Failure:
        """The answers to one prompt, after at most so many attempts."""
        config = self.config
        retrying = AsyncRetrying(
            stop=stop_after_attempt(attempts),
            wait=self._pause,
            retry=retry_if_exception_type(_TransientError),
            retry_error_callback=_last_failure,
        )
        async with self._slots:
            uri = await asyncio.to_thread(
                chat_messages.data_uri,
                image,
                longest_side=config.images.longest_side,
                quality=config.images.quality,
            )
            body = chat_messages.request(config, prompt, uri)
            found: list[EngineCaption] | Failure = await retrying(self._ask, name, body)
        self._count(Usage(retries=retrying.statistics["attempt_number"] - 1))
        return found

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: what the server asks for, or a random time that doubles."""
        backoff = wait_random_exponential(
            self.config.requests.backoff_s, self.config.requests.longest_wait_s
        )(state)
        error = state.outcome.exception() if state.outcome else None
        return max(backoff, error.wait_s if isinstance(error, _TransientError) else 0.0)

    async def _ask(self, name: str, body: Mapping[str, Any]) -> list[EngineCaption] | Failure:
        """One request.

        Raises:
            _TransientError: another one may succeed.
        """
        while (left := self._open_at - time.monotonic()) > 0:  # the server has asked all to wait
            await asyncio.sleep(left)
        try:
            status, headers, content = await self._post(body)
        except aiohttp.ConnectionTimeoutError as error:
            message = f"no connection within {self.config.requests.connect_s:g} s"
            raise _TransientError(Failure("unreachable", message)) from error
        except asyncio.TimeoutError as error:
            message = f"no answer within {self.config.requests.timeout_s:g} s"
            raise _TransientError(Failure("timeout", message)) from error
        except aiohttp.ClientPayloadError as error:
            raise _TransientError(Failure("broken_answer", "the answer was cut off")) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _TransientError(Failure("unreachable", clean(str(error), self._key))) from error
        if status != 200:
            return self._refusal(status, headers, content)
        try:
            answer = chat_messages.read_answer(
                content, prompt=name, cut_answers=self.config.generation.cut_answers
            )
        except BrokenAnswerError as error:
            self._count(error.usage)
            raise _TransientError(Failure(error.kind, str(error))) from error
        self._count(answer.usage)
        return answer.captions

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of an answer; redirects are not followed, for the key would go along."""
        self._count(Usage(requests=1))
        session = self._opened()
        async with session.post(self._url, json=body, allow_redirects=False) as response:
            content = await response.content.read(MOST_BYTES)
            while len(content) < MOST_BYTES and (more := await response.content.read(MOST_BYTES)):
                content += more
            return response.status, response.headers, content

    def _opened(self) -> aiohttp.ClientSession:
        """The session, which has to be made in the loop."""
        if not self._sessions:
            config = self.config
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=config.requests.concurrency),
                timeout=aiohttp.ClientTimeout(
                    total=config.requests.timeout_s, sock_connect=config.requests.connect_s
                ),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                trust_env=True,  # proxies
            )
            self._sessions.append(session)
        return self._sessions[0]

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes) -> Failure:
        """What an error status means for the image.

        Raises:
            _TransientError: another request may succeed.
        """
        failure = chat_messages.read_error(status, content, self._key)
        if not (status in _RETRIED or status >= 500) or failure.kind in ("refused", "insufficient_quota"):
            return dataclasses.replace(failure, message=failure.message + self._advice(failure.kind))
        wait_s = retry_after(headers.get("Retry-After"))
        if wait_s > self.config.requests.longest_wait_s:
            return dataclasses.replace(failure, message=f"{failure.message} (Retry-After {wait_s:.0f} s)")
        if status in (429, 503):
            self._open_at = max(self._open_at, time.monotonic() + wait_s)
        raise _TransientError(failure, wait_s)

    def _count(self, usage: Usage) -> None:
        with self._lock:
            self._used += usage

    def _advice(self, kind: str) -> str:
        if kind in ("http_401", "http_403"):
            name = self.config.key_variable or DEFAULT_KEY_VARIABLE
            return f"; the key comes from {name}, which is {'set' if self._key else 'not set'}"
        if kind == "http_404":
            return "; see captioner.url (it usually ends in /v1) and captioner.model"
        return ""


def _end_loop(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, sessions: Sequence[aiohttp.ClientSession]
) -> None:
    """Close the sessions and end the loop and its thread, in a few seconds at most."""

    async def close() -> None:
        for session in sessions:
            await session.close()

    with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
        asyncio.run_coroutine_threadsafe(close(), loop).result(_LONGEST_END_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_LONGEST_END_S)


def endpoint_fingerprint(config: EndpointConfig) -> dict[str, Any]:
    """What the captions depend on, as far as that can be known: the weights behind a URL cannot."""
    names = (
        "url", "model", "prompts", "system", "n_best", "max_tokens", "cut_answers", "temperature", "top_p",
        "seed", "extra", "longest_side", "quality", "detail", "null_values",
    )  # fmt: skip
    settings = flat_settings(config)
    ordered = config.generation.log_probabilities and config.generation.n_best > 1
    order = {"log_probabilities": True} if ordered else {}
    return {"kind": "endpoint"} | {name: settings[name] for name in names if name in settings} | order


def api_key(config: EndpointConfig) -> str:
    """The key in the environment, empty where there is none and the config names no variable.

    Raises:
        UsageError: the variable that the config names is not set, or holds line breaks.
    """
    key = os.environ.get(config.key_variable or DEFAULT_KEY_VARIABLE, "").strip()
    if config.key_variable and not key:
        raise UsageError(
            f"captioner.key_variable: {config.key_variable} is not set in the environment of this process"
        )
    if not key.isprintable():
        raise UsageError(f"{config.key_variable or DEFAULT_KEY_VARIABLE} holds characters no key has")
    return key


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 without one."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _last_failure(state: RetryCallState) -> Failure:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _TransientError)
    tries = f" ({state.attempt_number} attempts)" if state.attempt_number > 1 else ""
    return dataclasses.replace(error.failure, message=error.failure.message + tries)
