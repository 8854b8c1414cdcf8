"""Checks of numbers in configs, whose messages name the key."""

from glied.errors import UsageError


def check_least(config: object, least: int, *names: str, key: str = "") -> None:
    """Refuse fields `names` of a config that are below `least`; null passes.

    Args:
        config: whose fields are checked.
        least: the lowest value that is accepted.
        names: of the fields.
        key: dotted key of the config, for the message.

    Raises:
        UsageError: naming the key and the value.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < least:
            problem = f"is not at least {least}" if least else "must not be negative"
            raise UsageError(f"{_dotted(key, name)}: {value} {problem}")


def check_shares(config: object, *names: str, key: str = "") -> None:
    """Refuse fields that are not in [0, 1); arguments and error as in `check_least`."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UsageError(f"{_dotted(key, name)}: {getattr(config, name)} is not in [0, 1)")


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
