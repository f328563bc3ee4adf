"""The images that a run or an unfinished file was made from, by which a later process recognises them.

The file is text. Its first line has the format and the fingerprint of the set; each further line has the number, the
hash of the content in hex, and the relative path of an image, null for arrays in one file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError
from ssltool.files.writing import FilePath, write_text

FORMAT = "ssltool/images/1"

Line = tuple[int, str, str | None]
"""The number, the content hash in 16 hex digits, and the relative path of an image."""


@dataclass(frozen=True)
class Manifest:
    """The images of one set, in its order; ``fingerprint`` is that of the whole set, before some were selected."""

    fingerprint: str
    lines: list[Line]

    @classmethod
    def of(cls, images: ImageSet) -> Manifest:
        """The manifest of ``images``, which ``open_dataset`` opened."""
        digests = [f"{digest:016x}" for digest in np.asarray(images.digests, np.int64).view(np.uint64).tolist()]
        files = images.files or [None] * len(digests)
        return cls(images.fingerprint, list(zip(images.index.tolist(), digests, files, strict=True)))

    def save(self, path: FilePath) -> None:
        """Writes the file atomically.

        Raises:
            SSLToolError: if it cannot be written.
        """
        head = {"format": FORMAT, "fingerprint": self.fingerprint}
        write_text(path, "".join(json.dumps(line) + "\n" for line in (head, *self.lines)))

    @classmethod
    def load(cls, path: FilePath) -> Manifest:
        """Reads the file.

        Raises:
            SSLToolError: if it cannot be read, or is not such a file.
        """
        try:
            with open(path, encoding="utf-8") as stream:
                head, *lines = map(json.loads, stream)
            if head["format"] != FORMAT:
                raise ValueError(f"its format is {head['format']!r}")
            return cls(str(head["fingerprint"]), [_checked(*line) for line in lines])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise SSLToolError(f"{path} is not a readable list of images; delete it, and start over") from error

    def difference(self, images: ImageSet) -> str | None:
        """The first difference of ``images`` from these, such as "img/007.png was replaced"; None if they are equal."""
        now = Manifest.of(images).lines
        return None if self.lines == now else _first_difference(self.lines, now)


def _checked(number: object, digest: object, path: object) -> Line:
    """A line with the right types.

    Raises:
        ValueError: if it has other types.
    """
    if not isinstance(number, int) or not isinstance(digest, str) or not isinstance(path, str | None):
        raise ValueError("a line does not describe an image")
    return number, digest, path


def _first_difference(old: list[Line], new: list[Line]) -> str:
    before, after = ({path or f"image {number}": digest for number, digest, path in lines} for lines in (old, new))
    by_content = {digest: path for path, digest in reversed(after.items()) if path not in before}
    for path, digest in before.items():
        if path not in after:
            renamed = by_content.get(digest)
            return f"{path} is no longer among them" if renamed is None else f"{path} was renamed to {renamed}"
        if after[path] != digest:
            return f"{path} was replaced"
    added = next((path for path in after if path not in before), None)
    return "the order of the images changed" if added is None else f"{added} is new"
