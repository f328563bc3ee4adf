"""Documents as JSON that every reader takes: no NaN, no infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def finite(value: Any) -> Any:
    """``value`` with None in place of numbers that JSON does not know."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def to_json(document: Any, *, indent: int | None = None) -> str:
    """``document`` as JSON; what is not finite becomes null."""
    return json.dumps(finite(document), indent=indent, allow_nan=False)
