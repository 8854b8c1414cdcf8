"""Values of rows as JSON."""

import base64
import json
import math
from datetime import date, time, timedelta
from typing import Any


def to_json(value: Any) -> str:
    """A row or a value of it as one line of ASCII JSON.

    Numbers that are not finite become null, bytes Base64, times ISO 8601, durations seconds, maps lists of
    pairs, and other values that JSON does not have text.
    """
    return json.dumps(plain(value), allow_nan=False)


def plain(value: Any) -> Any:
    """A value with what JSON has only, as `to_json` says."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)
