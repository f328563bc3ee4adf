"""The images that a run or an unfinished file was made from, by which a later process recognises them.

The file is text. Its first line has the format and the fingerprint of the set; each further line has the number, the
hash of the content in hex, and the relative path of an image, null for arrays in one file.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import numpy as np

from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError
from ssltool.files.misfit import describe
from ssltool.files.reading import open_file
from ssltool.files.schema import ANYTHING, choice, conform, mapping, text
from ssltool.files.writing import FilePath, write_text

FORMAT = "ssltool/images/1"

HEAD = mapping({"format": choice(FORMAT), "fingerprint": text(200)}, other=ANYTHING)

Line = tuple[int, str, str | None]
"""The number, the content hash in 16 hex digits, and the relative path of an image."""

LINE = "the number, the hash and the path of an image"
LINE_TYPES = {(int, str, str), (int, str, type(None))}
"""The types in a line. A schema for each line would take three times as long as reading the file."""

REMEDY = "delete it, and start over"


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
            with open_file(path) as file, io.TextIOWrapper(file, "utf-8") as stream:
                head, *lines = map(json.loads, stream)
        except (OSError, ValueError, RecursionError) as error:
            raise SSLToolError(f"{path} is not a readable list of images; {REMEDY}") from error
        head = conform(head, HEAD, path, remedy=REMEDY)
        for number, line in enumerate(lines, 2):
            if not isinstance(line, list) or tuple(map(type, line)) not in LINE_TYPES:
                raise SSLToolError(f"{path}: line {number} is {describe(line)}; expected {LINE}; {REMEDY}")
        return cls(head["fingerprint"], [tuple(line) for line in lines])

    def difference(self, images: ImageSet) -> str | None:
        """The first difference of ``images`` from these, such as "img/007.png was replaced"; None if they are equal."""
        now = Manifest.of(images).lines
        return None if self.lines == now else _first_difference(self.lines, now)


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
