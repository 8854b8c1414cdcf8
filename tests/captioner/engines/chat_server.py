"""A local chat completions server that misbehaves on request."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web
from PIL import Image

USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


@dataclass
class ChatServer:
    """A running server.

    Attributes:
        url: URL for `captioner.url`.
        behave: returns the behavior for the n-th request (from 0) with a body; see `BEHAVIORS`.
        bodies: bodies of all requests so far.
        keys: Authorization header of each request.
        most_at_once: maximum number of concurrent requests.
        retry_after: Retry-After header of the answers with status 429.
    """

    behave: Callable[[int, dict], str] = lambda number, body: "ok"
    url: str = ""
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    most_at_once: int = 0
    retry_after: str | None = None


def picture_of(body):
    """Return the image of a request."""
    (part,) = [part for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def prompt_of(body):
    (part,) = [part for part in body["messages"][-1]["content"] if part["type"] == "text"]
    return part["text"]


def caption_of(body):
    """Return a caption with the number of a test image, which the red of its middle pixel encodes."""
    picture = picture_of(body)
    red, green, _ = picture.getpixel((picture.width // 2, picture.height // 2))
    return f"image {round(red / 8) + 32 * round(green / 8)} for {prompt_of(body)!r}"


def completion(body, **message):
    count = body.get("n", 1)
    logprobs = {"content": [{"token": "x", "logprob": -0.5}, {"token": "y", "logprob": -1.0}]}
    choices = [
        {
            "index": index,
            "finish_reason": message.pop("finish_reason", "stop") if index == 0 else "stop",
            "message": {"role": "assistant", "content": f" {caption_of(body)}{'!' * index}\n"} | message,
            "logprobs": logprobs if body.get("logprobs") else None,
        }
        for index in range(count)
    ]
    return {"object": "chat.completion", "choices": choices, "usage": USAGE}


def error(status, message, code=None, headers=None):
    body = {"error": {"message": message, "code": code}}
    return web.json_response(body, status=status, headers=headers)


async def answer(server, request, body, behavior):
    """Return the answer of a behavior."""
    key = request.headers.get("Authorization", "")
    if behavior == "hang":
        await asyncio.sleep(3600)
    if behavior == "429":
        headers = {"Retry-After": server.retry_after} if server.retry_after else None
        return error(429, "slow down", headers=headers)
    if behavior == "cut body":
        response = web.StreamResponse(headers={"Content-Length": "500", "Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices": [{"mess')
        request.transport.close()
        return response
    answers = {
        "ok": lambda: web.json_response(completion(body)),
        "500": lambda: error(500, "out of memory"),
        "echo": lambda: error(400, f"bad request with key {key} and {json.dumps(body)}"),
        "401": lambda: error(401, f"Incorrect API key provided: {key}", "invalid_api_key"),
        "404": lambda: error(404, "The model `tiny` does not exist."),
        "quota": lambda: error(429, "You exceeded your current quota", "insufficient_quota"),
        "policy": lambda: error(400, "blocked by policy", "content_policy_violation"),
        "refusal": lambda: web.json_response(
            completion(body, content=None, refusal="I can't help with that.")
        ),
        "filter": lambda: web.json_response(completion(body, content="", finish_reason="content_filter")),
        "empty": lambda: web.json_response(completion(body, content="")),
        "nested": lambda: web.Response(text="[" * 100_000),
        "nested error": lambda: web.Response(text="[" * 100_000, status=400),
        "half": lambda: web.json_response(completion(body, content="a dog \ud83d")),
        "half refusal": lambda: web.json_response(completion(body, content=None, refusal="no \udc36 dogs")),
        "half error": lambda: error(400, "no \udc36 dogs"),
        "length": lambda: web.json_response(completion(body, content="a long", finish_reason="length")),
        "cut json": lambda: web.Response(
            text=json.dumps(completion(body))[:60], content_type="application/json"
        ),
        "html": lambda: web.Response(text="<html>proxy</html>"),
        "redirect": lambda: web.Response(status=307, headers={"Location": "http://127.0.0.1:1/v1"}),
    }
    return answers[behavior]()


@contextmanager
def serve(server: ChatServer | None = None) -> Iterator[ChatServer]:
    """Serve on a free local port in a thread."""
    server = server or ChatServer()
    loop, started = asyncio.new_event_loop(), threading.Event()

    async def handle(request):
        body = await request.json()
        number = len(server.bodies)
        server.bodies.append(body)
        server.keys.append(request.headers.get("Authorization"))
        server.busy += 1
        server.most_at_once = max(server.most_at_once, server.busy)
        try:
            await asyncio.sleep(0.005)
            return await answer(server, request, body, server.behave(number, body))
        finally:
            server.busy -= 1

    async def start():
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        started.set()
        return runner

    runners = []
    thread = threading.Thread(
        target=lambda: (runners.append(loop.run_until_complete(start())), loop.run_forever())
    )
    thread.start()
    started.wait(30)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
