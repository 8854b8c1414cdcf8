"""Pickling of dataclasses without their cached properties."""

import dataclasses
from typing import Any, cast


class FieldsOnlyPickle:
    """Base class of dataclasses that pickle their fields only and leave out cached properties."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(cast(Any, self))}
