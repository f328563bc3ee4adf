"""What reads Parquet files: pyarrow, which is an extra."""

from __future__ import annotations

from typing import Any

from ssltool.errors import SSLToolError


def pyarrow(needed_by: str) -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        SSLToolError: if they are not installed; the message begins with what needs them.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SSLToolError(f"{needed_by} needs pyarrow: pip install 'ssltool[parquet]'") from error
    return pyarrow, pyarrow.parquet
