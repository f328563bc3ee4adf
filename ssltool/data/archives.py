"""Zip and tar archives that are read as the folder that they hold, without unpacking them.

``birds.zip/train`` is the path of the folder ``train`` in the archive ``birds.zip``. An archive is indexed once in a
process. The index keeps the place of each member, from which any process reads it.
"""

from __future__ import annotations

import functools
import io
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np

from ssltool.data.members import DEFLATED, RANGE, STORED, UNREADABLE, Members, Place
from ssltool.data.sources import SourceImage
from ssltool.data.splits import ALL_NAMES
from ssltool.errors import SSLToolError, first_line, first_names
from ssltool.files.reading import open_file

COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
"""How compressed files begin, and what decompresses them."""

Node: TypeAlias = "dict[str, Node] | int"
"""A folder of an archive, or the row of a member."""

Member: TypeAlias = Place | str | None
"""The place of a regular file, the target of a link, or None for a device or a pipe."""

MOST_LINKS = 8
"""Links that are followed one after the other."""

LONGEST_LINK = 4096
"""Bytes of the longest target of a link."""


@dataclass(frozen=True)
class Archive:
    """The index of an archive: its members, the tree of its folders, and which members are no regular files, or links
    that lead to none."""

    path: str
    members: Members
    tree: dict[str, Node]
    links: frozenset[int]
    special: frozenset[int]

    def node(self, inner: str) -> Node | None:
        """The folder or member at a path within the archive; None if there is none."""
        node: Node | None = self.tree
        for part in inner.split("/") if inner else ():
            node = node.get(part) if isinstance(node, dict) else None
        return node


class Entry:
    """A folder or member in a folder of an archive, like ``os.DirEntry``."""

    def __init__(self, folder: str, name: str, node: Node, archive: Archive) -> None:
        self.name, self.path, self.node, self.archive = name, f"{folder}/{name}", node, archive

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return isinstance(self.node, dict)

    def is_file(self) -> bool:
        """Whether it is a regular file, or a link to one."""
        return not isinstance(self.node, dict) and self.node not in self.archive.links | self.archive.special

    def is_symlink(self) -> bool:
        """Whether it is a link that leads to no regular file of the archive."""
        return not isinstance(self.node, dict) and self.node in self.archive.links

    def size(self) -> int:
        """The size of a member in bytes."""
        return int(self.archive.members.members["size"][cast(int, self.node)])

    def open(self) -> BinaryIO:
        """The member as a file; raises as ``Source.read``."""
        return io.BytesIO(self.archive.members.read(cast(int, self.node)))


def find(path: str | Path) -> tuple[Archive, str] | None:
    """The archive that a path leads into, and the path within it; None for a path of files and folders.

    Raises:
        SSLToolError: if the file on the path is a damaged archive, or a compressed tar.
    """
    file = file_of(path)
    if file is None or not is_archive(file):
        return None
    found = os.stat(file)
    inner = os.path.relpath(path, file).replace(os.sep, "/")
    return _index(str(file), found.st_mtime_ns, found.st_size), "" if inner == "." else inner


def file_of(path: str | Path) -> Path | None:
    """The regular file that a path is or leads through; None if there is none."""
    for place in (Path(path), *Path(path).parents):
        try:
            mode = os.stat(place).st_mode
        except NotADirectoryError:
            continue
        except (OSError, ValueError):
            return None
        return place if stat.S_ISREG(mode) else None
    return None


def is_archive(file: Path) -> bool:
    """Whether a file is a zip or tar archive by its content.

    Raises:
        SSLToolError: if it may not be read, or is a compressed tar, whose members cannot be read one by one.
    """
    with open_file(file) as stream:
        head = stream.read(512)
    program = next((name for start, name in COMPRESSED.items() if head.startswith(start)), None)
    if program is not None and any(end in (".tar", ".tgz", ".tbz", ".txz") for end in map(str.lower, file.suffixes)):
        raise SSLToolError(
            f"{file} is a compressed tar, whose images cannot be read singly; decompress it ({program}), or unpack it"
        )
    return is_tar_header(head) or (file.suffix.lower() != ".npz" and zipfile.is_zipfile(file))


def is_tar_header(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are a tar header."""
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def root(path: Path) -> Path:
    """The folder that an archive holds: the archive, or the folder in it that has everything, unless it is a split.

    Raises:
        SSLToolError: if ``path`` leads into an archive, and to no folder there.
    """
    found = find(path)
    if found is not None and not isinstance(found[0].node(found[1]), dict):
        folders = [name for name, node in found[0].tree.items() if isinstance(node, dict)]
        raise SSLToolError(
            f"no folder {found[1]} in {found[0].path}, whose folders are {first_names(folders) or 'none'}; correct the "
            "path"
        )
    while (inside := entries(path)) is not None:
        shown = [entry for entry in inside if entry.name == ".." or (entry.name[0] != "." and entry.name != "__MACOSX")]
        if len(shown) != 1 or not shown[0].is_dir() or shown[0].name.lower() in ALL_NAMES:
            break
        path = path / shown[0].name
    return path


def entries(folder: str | Path) -> list[Entry] | None:
    """What a folder in an archive holds; None if it is no such folder."""
    found = find(folder)
    node = None if found is None else found[0].node(found[1])
    if found is None or not isinstance(node, dict):
        return None
    return [Entry(str(folder), name, below, found[0]) for name, below in node.items()]


def images_of(folder: Path, files: Sequence[str]) -> Members | None:
    """The members of an archive with the names ``files`` relative to its ``folder``; None if it is in no archive.

    ``files`` are in ``listing.Listing``, which found them in it.
    """
    found = find(folder)
    if found is None:
        return None
    archive, inner = found
    base, rows = archive.node(inner), []
    for file in files:
        node = base
        for part in file.split("/"):
            node = node[part] if isinstance(node, dict) else None  # type: ignore[assignment]
        rows.append(node)
    return archive.members.select(np.array(rows, np.int64))


def image(path: Path) -> SourceImage | None:
    """The member of an archive at a path; None if it is none."""
    found = find(path)
    node = None if found is None else found[0].node(found[1])
    return SourceImage(found[0].members, node) if found is not None and isinstance(node, int) else None


# The index


@functools.lru_cache(maxsize=4)
def _index(path: str, changed: int, size: int) -> Archive:
    """The index of the archive that had this time of its last change and this size."""
    found: dict[str, Member] = {}
    links: dict[str, str] = {}
    try:
        for name, member in members_of(path):
            found[_normal(name)] = member  # of several with a name, the last one, as if it were unpacked
            if isinstance(member, str):
                links[_normal(name)] = _normal(member)
    except SSLToolError:
        raise
    except Exception as error:  # damaged archives make zipfile and tarfile raise nearly anything
        raise SSLToolError(f"{path} is not a readable archive ({first_line(error)}); copy it again") from error
    for name, target in links.items():
        for _ in range(MOST_LINKS):
            target = links.get(target, target)
        found[name] = found[target] if target in found and target not in links else ""
    empty = (UNREADABLE, 0, 0, 0, 0)
    places = [member if isinstance(member, tuple) else empty for member in found.values()]
    members = Members.of([path], [0] * len(found), list(found), places)
    rows = list(enumerate(found.values()))
    broken, special = (frozenset(row for row, member in rows if member == kind) for kind in ("", None))
    return Archive(path, members, _tree(found), broken, special)


def _tree(names: Iterable[str]) -> dict[str, Node]:
    """The folders of members, with the row of each."""
    tree: dict[str, Node] = {}
    for row, name in enumerate(names):
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            below = node.setdefault(folder, {})
            if isinstance(below, int):  # a member with the name of a folder
                below = node[folder] = {}
            node = below
        if not isinstance(node.get(last), dict):
            node[last] = row
    return tree


def _normal(name: str) -> str:
    """A member's name as unpacking takes it: relative, and without ``.``; ``../`` may remain at its beginning, which is
    a hidden folder."""
    return posixpath.normpath(name.lstrip("/"))


def members_of(path: str) -> Iterator[tuple[str, Member]]:
    """The names and places of all members of an archive but its folders, as it holds them.

    Raises:
        ValueError: if a place or a size is impossible; and what zipfile and tarfile raise for a damaged archive.
    """
    with open(path, "rb") as stream:
        read = _tar if is_tar_header(stream.read(512)) else _zip
    for name, member in read(path):
        if isinstance(member, tuple) and not 0 <= min(member) <= max(member) < 2**63:
            raise ValueError(f"{name} declares an impossible size or place")
        yield name, member


def _zip(path: str) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            kind = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}.get(info.compress_type, UNREADABLE)
            kind = UNREADABLE if info.flag_bits & 1 else kind
            place = kind, info.header_offset, info.compress_size, info.file_size, info.CRC
            is_link = stat.S_ISLNK(info.external_attr >> 16) and info.file_size < LONGEST_LINK
            target = os.fsdecode(archive.read(info)) if is_link else ""
            yield info.filename, posixpath.join(posixpath.dirname(info.filename), target) if is_link else place


def _tar(path: str) -> Iterator[tuple[str, Member]]:
    with tarfile.open(path, "r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if info.isreg():
                kind = UNREADABLE if info.issparse() else RANGE
                yield info.name, (kind, info.offset_data, info.size, info.size, 0)
            elif info.issym():
                yield info.name, posixpath.join(posixpath.dirname(info.name), info.linkname)
            elif info.islnk():
                yield info.name, info.linkname
            elif not info.isdir():
                yield info.name, None
        end = archive.offset
    with open(path, "rb") as stream:
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where tarfile ends without an error
            raise ValueError(f"it has no end mark, and is cut short or damaged at byte {end:,}")
