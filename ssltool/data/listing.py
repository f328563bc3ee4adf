"""Lists the image files of a folder, and what is left out of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from ssltool.data import archives
from ssltool.errors import SSLToolError, first_names

CONTENT_FORMATS = (
    *("AVIF", "BMP", "GIF", "HEIF", "ICNS", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD"),
    *("QOI", "SGI", "TIFF", "WEBP"),
)
"""Formats of still images that Pillow recognises by the first bytes of a file. HEIF needs a plug-in of Pillow."""

SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "__pycache__", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
"""Folders of operating systems and programs, which are left out like hidden ones."""

Entry: TypeAlias = os.DirEntry[str] | archives.Entry

FolderId = tuple[int, int]
"""The device and the inode of a folder."""


NOT_IMAGE = "not an image"
HIDDEN = "hidden"
EMPTY = "empty"
UNREADABLE = "unreadable"
CORRUPT = "corrupt"
BROKEN_LINK = "broken link"
CYCLE = "link to a parent folder"
REPEATED = "link to a folder that was read"
NOT_REGULAR = "not a regular file"
OUTSIDE = "outside the class folders"
WITHOUT_IMAGE = "sample without an image"
"""Why a file or a folder is not in an image set."""

NOUNS = {
    NOT_IMAGE: ("file that is no image", "files that are no images"),
    BROKEN_LINK: (BROKEN_LINK, "broken links"),
    CYCLE: (CYCLE, "links to a parent folder"),
    REPEATED: (REPEATED, "links to folders that were read"),
    WITHOUT_IMAGE: (WITHOUT_IMAGE, "samples without an image"),
    NOT_REGULAR: ("file that is not regular", "files that are not regular"),
}
"""The reasons that are no adjectives, as what follows the number of one and of several files."""

LeftOut = Mapping[str, tuple[str, ...]]
"""Relative paths that are not in an image set, by reason. The name of a folder ends with a slash."""


@dataclass
class Listing:
    """The image ``files`` under a folder, as relative paths with ``/``, and what was ``left_out``.

    The order is folder by folder: the files of a folder by name, then those of its subfolders by name.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, path: str) -> None:
        """Records a relative path that is not in the listing."""
        self.left_out.setdefault(reason, []).append(path)

    def found(self) -> LeftOut:
        """The paths that were left out, by reason."""
        return {reason: tuple(paths) for reason, paths in self.left_out.items()}


def list_images(folder: Path) -> Listing:
    """The image files under ``folder``, at any depth, without reading those with a known extension.

    Links are followed, except those to a folder that contains the link, and links below a linked folder to a folder
    that was read before. Two links to the same folder otherwise list its images twice.

    Raises:
        SSLToolError: if ``folder`` itself cannot be read.
    """
    listing = Listing()
    visited: set[FolderId] = set()
    waiting = [_Folder(str(folder), "", _parents(folder))]
    while waiting:
        place = waiting.pop()
        try:
            own = _folder_id(place.path)
            entries = sorted(_scan(place.path), key=lambda entry: entry.name)
        except OSError as error:
            if not place.prefix:
                raise unreadable_folder(folder) from error
            listing.leave_out(UNREADABLE, place.prefix)
            continue
        if own in place.above or (place.below_link and place.is_link and own in visited):
            listing.leave_out(CYCLE if own in place.above else REPEATED, place.prefix)
            continue
        visited.add(own)
        below_link, above, below = place.below_link or place.is_link, place.above | {own}, []
        for entry in entries:
            name = f"{place.prefix}{entry.name}"
            if _is_folder(entry):
                if is_hidden(entry.name):
                    listing.leave_out(HIDDEN, f"{name}/")
                else:
                    below.append(_Folder(entry.path, f"{name}/", above, entry.is_symlink(), below_link))
            elif reason := _why_not(entry):
                listing.leave_out(reason, name)
            else:
                listing.files.append(name)
        waiting += reversed(below)
    return listing


def skipped_text(left_out: LeftOut) -> str:
    """What was left out as text: "2 hidden: a/.x, b/.y; 1 file that is no image: notes.txt"; empty for nothing."""
    return "; ".join(
        f"{len(paths):,} {NOUNS.get(reason, (reason, reason))[len(paths) != 1]}: {first_names(paths, 3)}"
        for reason, paths in left_out.items()
    )


def subfolders(folder: Path) -> list[str]:
    """The names of the subfolders, without hidden ones, in alphabetical order.

    Raises:
        SSLToolError: if the folder cannot be read.
    """
    try:
        return sorted(e.name for e in _scan(folder) if not is_hidden(e.name) and _is_folder(e))
    except OSError as error:
        raise unreadable_folder(folder) from error


def files_with_suffix(folder: Path, *suffixes: str) -> list[Path]:
    """The files directly in ``folder`` whose names end in one of ``suffixes``, in upper or lower case, by name."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(suffixes) and not is_hidden(name))
    return [folder / name for name in names if (folder / name).is_file()]


def direct_images(folder: Path) -> Iterator[str]:
    """The names of the image files directly in ``folder``; none if it cannot be read."""
    try:
        entries = _scan(folder)
    except OSError:
        return
    yield from (entry.name for entry in entries if not _is_folder(entry) and _why_not(entry) is None)


def has_images(folder: Path) -> bool:
    """Whether there is an image file under ``folder``, at any depth.

    Raises:
        SSLToolError: if the folder cannot be read.
    """
    return next(direct_images(folder), None) is not None or bool(list_images(folder).files)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to an operating system."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def unreadable_folder(folder: Path) -> SSLToolError:
    """The error for a folder that cannot be read."""
    return SSLToolError(f"the folder {folder} cannot be read; change its permissions, or move it away")


@dataclass(frozen=True)
class _Folder:
    """A folder that is to be listed: its path, its ``prefix`` in the listing, and the folders that contain it."""

    path: str
    prefix: str
    above: frozenset[FolderId]
    is_link: bool = False
    below_link: bool = False


def _parents(folder: Path) -> frozenset[FolderId]:
    """The folders that contain ``folder``."""
    parents = set()
    for parent in Path(os.path.realpath(folder)).parents:
        with contextlib.suppress(OSError):  # no link leads to a parent that cannot be looked up
            parents.add(_folder_id(str(parent)))
    return frozenset(parents)


def _folder_id(path: str) -> FolderId:
    try:
        found = os.stat(path)
    except NotADirectoryError:  # in an archive, where no link leads to a folder
        return -1, hash(path)
    return found.st_dev, found.st_ino


def _scan(folder: str | Path) -> list[Entry]:
    """What a folder holds, which may be in an archive."""
    try:
        return list(os.scandir(folder))
    except NotADirectoryError:
        if (found := archives.entries(folder)) is None:
            raise
        return list(found)


def _is_folder(entry: Entry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _why_not(entry: Entry) -> str | None:
    """Why an entry that is no folder is no image file; None if it is one."""
    if is_hidden(entry.name):
        return HIDDEN
    try:
        if not entry.is_file():
            return BROKEN_LINK if entry.is_symlink() and not os.path.exists(entry.path) else NOT_REGULAR
    except OSError:
        return BROKEN_LINK
    if entry.name.lower().endswith(IMG_EXTENSIONS):
        return None
    return _why_not_by_content(entry)


def _why_not_by_content(entry: Entry) -> str | None:
    """Why a regular file without one of the known extensions is no image; None if its first bytes are those of one."""
    Image.init()
    known = Image.registered_extensions().get(os.path.splitext(entry.name)[1].lower())
    formats = (*CONTENT_FORMATS, "TGA") if known == "TGA" else CONTENT_FORMATS  # TGA has no first bytes of its own
    try:
        member = entry if isinstance(entry, archives.Entry) else None
        if not (member.size() if member else os.path.getsize(entry.path)):
            return EMPTY
        file = member.open() if member else entry.path
        with Image.open(file, formats=[name for name in formats if name in Image.OPEN]):
            return None
    except Image.DecompressionBombError:
        return None
    except (UnidentifiedImageError, SyntaxError, ValueError):
        return NOT_IMAGE
    except OSError:
        return UNREADABLE
