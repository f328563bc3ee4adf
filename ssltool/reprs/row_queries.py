"""Which rows of representations the user means by the names of their images."""

from __future__ import annotations

from pathlib import Path

from ssltool.data import fingerprint
from ssltool.errors import SSLToolError, first_names
from ssltool.reprs.representation_set import RepresentationSet


def row_of_query(saved: RepresentationSet, query: str) -> int | None:
    """The row of the image that ``query`` names, by the first rule that applies; None for a file of another image.

    1. The whole path of an image in the set.
    2. Digits, also after ``#``: the number of an image in its dataset.
    3. A file that exists: the image of the same content.
    4. The end of a path after a ``/``, and then any part of it, that one image has.

    Raises:
        SSLToolError: if no image has this name, or several do.
    """
    paths = saved.image_paths or []
    exact = [row for row, path in enumerate(paths) if path == query]
    if exact:
        return _only(saved, query, exact)
    digits = query.removeprefix("#")
    if digits.isascii() and digits.isdigit():
        numbered = (saved.index == int(digits)).nonzero().flatten().tolist() if len(digits) < 19 else []
        return _only(saved, query, numbered)
    if Path(query).is_file():
        return _of_content(saved, query)
    ending = [row for row, path in enumerate(paths) if path.endswith(f"/{query}")]
    return _only(saved, query, ending or [row for row, path in enumerate(paths) if query in path])


def _of_content(saved: RepresentationSet, query: str) -> int | None:
    if saved.digests is None:
        return None
    rows = (saved.digests == int(fingerprint.of_files([query]).digests[0])).nonzero().flatten()
    return int(rows[0]) if len(rows) else None


def _only(saved: RepresentationSet, query: str, rows: list[int]) -> int:
    if len(rows) == 1:
        return rows[0]
    if rows:
        names = first_names([saved.image_name(row) for row in rows])
        raise SSLToolError(f"'{query}' is the name of {len(rows):,} images of {saved.name}: {names}; give more of it")
    if saved.image_paths is None:
        raise SSLToolError(
            f"{saved.name} holds no paths, and no image has the number '{query}'; its numbers are from "
            f"{int(saved.index.min())} to {int(saved.index.max())}"
        )
    raise SSLToolError(
        f"no image of {saved.name} has '{query}' in its path, and there is no such file; its first images are "
        f"{first_names(saved.image_paths, 3)}"
    )
