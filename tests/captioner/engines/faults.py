"""Behaviors of the local chat server that make a run as hard as possible, and images for it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from tests.captioner.engines.chat_server import USAGE, ChatServer, caption_of

FAULTS = ["429", "500", "hang", "empty", "cut json", "refusal"]
COUNTED = {"ok", "empty", "refusal"}
"""Behaviors whose answers tell what was used."""


class EveryFault:
    """A tenth of the images each meets one of the faults at its first request; refused ones at every request.

    Attributes:
        behaviors: how often the server behaved in which way, without the check before a run.
    """

    def __init__(self) -> None:
        self.behaviors: Counter[str] = Counter()
        self._seen: set[int] = set()

    def __call__(self, number: int, body: dict) -> str:
        """Return the behavior for a request; the check before a run is not counted."""
        image = int(caption_of(body).split()[1])
        if image == GRAY:
            return "ok"
        fault = FAULTS[image % 10] if image % 10 < len(FAULTS) else "ok"
        behavior = fault if fault == "refusal" or image not in self._seen else "ok"
        self._seen.add(image)
        self.behaviors[behavior] += 1
        return behavior

    def retries(self) -> int:
        return sum(self.behaviors[name] for name in FAULTS if name != "refusal")

    def prompt_tokens(self) -> int:
        return USAGE["prompt_tokens"] * sum(self.behaviors[name] for name in COUNTED)


GRAY = 16 + 32 * 16
"""Number of the image of the check, see `chat_server.caption_of`."""


def numbered_images(folder: Path, count: int) -> Path:
    """Write images whose color encodes their number; the number of the check's image is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.islice((number for number in itertools.count() if number != GRAY), count):
        pixels = np.full((32, 32, 3), (number % 32 * 8, number // 32 * 8, 0), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png", compress_level=1)
    return folder


def server_with_every_fault() -> tuple[ChatServer, EveryFault]:
    faults = EveryFault()
    return ChatServer(behave=faults, retry_after="0.2"), faults


def check_rows(rows: list[dict], count: int) -> None:
    """Check that each image has one row, with its caption or the refusal."""
    assert len(rows) == len({row["id"] for row in rows}) == count
    for row in rows:
        number = int(row["id"].removesuffix(".png"))
        if number % 10 == FAULTS.index("refusal"):
            assert (row["status"], row["error_kind"]) == ("rejected", "refused")
        else:
            assert (row["status"], row["error"]) == ("ok", None), row
            assert row["caption"].startswith(f"image {number} for ")
