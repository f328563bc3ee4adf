"""The duplicates stage: equal images and near-duplicates, within a set or between two."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.config import DuplicatesConfig
from ssltool.config.duplicates import AUTO_SHARE
from ssltool.errors import counted
from ssltool.reprs.neighbours.near_duplicates import Components, groups_of, near_pairs, row_hashes, typical_distance
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representation_set import RepresentationSet, check_same_network, transform_notes
from ssltool.reprs.row_pictures import RowPictures
from ssltool.reprs.row_set import RowSet
from ssltool.runs.tables import write_table
from ssltool.settings import Record
from ssltool.training.device import pick_device
from ssltool.training.progress import Progress

PAIRS = 10_000
"""Random pairs whose median distance the default threshold is a share of."""

MANY = 0.2
"""Share of all images in one group above which a note says that the threshold is too large for this network."""

KINDS = {"equal": "equal images", "near": "near-duplicates"}
"""The kinds of groups and their titles."""

PER_GROUP = 18
"""Pictures of a group on the sheet."""

LONG = 2 * 10**9
"""Number of comparisons above which the search shows its progress."""


@dataclass(frozen=True)
class Sets:
    """One or two sets, whose rows are numbered one after the other."""

    sets: tuple[RepresentationSet, ...]

    @property
    def rows(self) -> RowSet:
        """The rows of all sets."""
        return RowSet([part for one in self.sets for part in one.rows.parts])

    @property
    def first(self) -> int:
        """The number of rows of the first set."""
        return len(self.sets[0])

    @property
    def contents(self) -> Tensor | None:
        """A hash of the content of the image of each row; None if a file has none."""
        digests = [one.digests for one in self.sets if one.digests is not None]
        return torch.cat(digests) if len(digests) == len(self.sets) else None

    def place(self, number: int) -> tuple[int, int]:
        """The number of the set, and the row in it."""
        return (0, number) if number < self.first else (1, number - self.first)

    def crosses(self, group: Tensor) -> bool:
        """Whether a group is to be reported: of two sets, one that has rows of both."""
        return len(self.sets) == 1 or bool(group[0] < self.first <= group[-1])

    def record(self, number: int) -> Record:
        """What results say of the image of a row."""
        which, row = self.place(number)
        one = self.sets[which]
        return {"file": one.name, "name": one.image_name(row)} | one.image_record(row)


def run(config: DuplicatesConfig) -> Record:
    """The stage: groups images that are equal, and images of different content that are near each other.

    A group of near-duplicates is a connected component of all pairs within the threshold; with two files, of all pairs
    of an image of each. Of equal images only the first is in it.

    Returns:
        {"files", "n", "threshold", "median_distance", "equal": [[image, ...], ...], "near": [...], "leaked", "notes",
        "sheet", "out"}. An image is {"file", "name", "row", "index", "path", "class"}, of a near-duplicate also
        "distance", to the nearest other one of its group (of two files, of the other one), and "copies", the number of
        equal images. "leaked" is the number of images of the second file that are in a group, None for one file.

    Raises:
        SSLToolError: for files that cannot be read or are not of one network, or a picture that is missing.
    """
    config.check()
    device = pick_device(config)
    names = [config.reprs] if config.others is None else [config.reprs, config.others]
    sets = Sets(tuple(RepresentationSet.open(name, config.pool) for name in names))
    notes = []
    if len(sets.sets) > 1:
        check_same_network(sets.sets[0], sets.sets[1], ("REPRS", "REPRS2"))
        notes += transform_notes(*(one.meta for one in sets.sets))
    pictures = None if config.sheet is None else [RowPictures(one, config.data) for one in sets.sets]
    typical = typical_distance(sets.sets[0].rows, PAIRS, seeds.generator(config.seed), device)
    threshold = float(f"{AUTO_SHARE * typical:.2g}") if config.threshold is None else config.threshold
    contents = sets.contents
    if contents is None:
        notes.append("the files have no digests, which save-reprs writes; images count as equal if their rows are")
        contents = row_hashes(sets.rows)
    equal = [group for group in groups_of(contents) if sets.crosses(group)]
    groups = _components(config, sets, equal, threshold, device)
    near = _near_groups(config, sets, groups, contents, device)
    document: Record = {"files": names, "n": [len(one) for one in sets.sets], "threshold": threshold, "metric": "cos"}
    document |= {"median_distance": typical, "equal": [[sets.record(row) for row in group.tolist()] for group in equal]}
    document |= {"near": near, "leaked": _leaked(sets, [*equal, *groups])}
    # Rows that are equal without being known to be of equal images may be those of a collapsed network.
    suspect = near if sets.contents is not None else [*near, *document["equal"]]
    document |= {"notes": notes + _too_many(sets, suspect), "sheet": config.sheet, "out": config.out}
    for kind in KINDS:
        document[kind].sort(key=len, reverse=True)
    if pictures is not None:
        _write_sheet(config, sets, pictures, document)
    if config.out is not None:
        write_table(config.out, document, _table(document))
    return document


def _components(
    config: DuplicatesConfig, sets: Sets, equal: Sequence[Tensor], threshold: float, device: torch.device
) -> list[Tensor]:
    """The connected components of all pairs that are within the threshold or equal."""
    found = Components(sum(map(len, sets.sets)))
    for group in equal:
        first, second = (
            (group, group) if len(sets.sets) == 1 else (group[group < sets.first], group[group >= sets.first])
        )
        found.add(torch.stack([first[:1].expand(len(second)), second], dim=1))
        found.add(torch.stack([first, second[:1].expand(len(first))], dim=1))
    others = None if len(sets.sets) == 1 else sets.sets[1].rows
    total = len(found.labels) ** 2 // 2 if others is None else sets.first * len(others)
    steps, done = 100, 0
    progress = Progress("duplicates", steps, visible=total > LONG)

    def each(compared: int) -> None:
        nonlocal done
        done += compared
        while progress.done < min(steps, steps * done // total):
            progress.update(len(found.labels) // steps)

    with contextlib.closing(progress):
        near_pairs(sets.sets[0].rows, others, threshold, found, device=device, memory=float(config.memory), each=each)
    return found.groups()


def _near_groups(
    config: DuplicatesConfig, sets: Sets, groups: Sequence[Tensor], contents: Tensor, device: torch.device
) -> list[list[Record]]:
    """The groups of images of different content; of equal images only the first, with their number."""
    kept = [group for group in groups if len(contents[group].unique()) > 1]
    if not kept:
        return []
    ids = contents.unique(return_inverse=True)[1]
    rows = torch.cat(kept)
    rows = rows[groups_with_first(ids[rows] * 2 + (rows >= sets.first))[0]]
    nearest = torch.full((int(ids.max()) + 1,), torch.inf)
    nearest = nearest.scatter_reduce(0, ids[rows], _nearest(config, sets, rows, ids, device), "amin")
    found = []
    for group in kept:
        first, counts = groups_with_first(ids[group])
        found.append(
            [
                sets.record(row) | {"distance": float(nearest[ids[row]]), "copies": copies - 1}
                for row, copies in zip(group[first].tolist(), counts.tolist(), strict=True)
            ]
        )
    return found


def groups_with_first(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The position of the first entry of each value of ``keys`` (n,), ascending, and the number of its entries."""
    values, inverse, counts = keys.unique(return_inverse=True, return_counts=True)
    first = torch.full((len(values),), len(keys)).scatter_reduce(0, inverse, torch.arange(len(keys)), "amin")
    order = first.sort().indices
    return first[order], counts[order]


def _nearest(config: DuplicatesConfig, sets: Sets, rows: Tensor, ids: Tensor, device: torch.device) -> Tensor:
    """The distance (n,) of each of ``rows`` (n,), all of which are in groups, to the nearest other one whose content is
    different, by the ``ids`` of the contents of all rows; of two sets, to that of the other set. It is in the same
    group. Infinite if there is none."""
    every, distances = sets.rows, torch.empty(len(rows))
    sides = [rows < sets.first, rows >= sets.first] if len(sets.sets) > 1 else [torch.ones_like(rows, dtype=torch.bool)]
    for side, other in zip(sides, sides[::-1], strict=True):
        ours, theirs = rows[side], rows[other]
        skip = (ids[theirs], ids[ours])
        similarity, _ = neighbours(
            RowSet(every.parts, theirs), RowSet(every.parts, ours), k=1, device=device, memory=config.memory, skip=skip
        )
        distances[side] = -similarity[:, 0].float()
    return distances


def _leaked(sets: Sets, groups: Sequence[Tensor]) -> int | None:
    """The number of images of the second set that are in a group."""
    if len(sets.sets) == 1:
        return None
    rows = torch.cat(list(groups)).unique() if groups else torch.empty(0)
    return int((rows >= sets.first).sum())


def _too_many(sets: Sets, groups: Sequence[Sequence[Record]]) -> list[str]:
    largest, total = max(map(len, groups), default=0), sum(map(len, sets.sets))
    if largest <= MANY * total or largest < 3:
        return []
    return [
        f"one group has {largest:,} of {total:,} images: the threshold is too large for these representations, or they "
        "collapsed; lower --threshold, or see ssltool collapse"
    ]


def _table(document: Record) -> pd.DataFrame:
    """A row for each image of a group, with the number and kind of the group."""
    rows = [
        {"group": number, "kind": kind, **image}
        for kind in KINDS
        for number, group in enumerate(document[kind], start=1)
        for image in group
    ]
    return pd.DataFrame(rows, dtype=object)


def _write_sheet(config: DuplicatesConfig, sets: Sets, pictures: Sequence[RowPictures], document: Record) -> None:
    from ssltool.viz.contact_sheet import Picture, Strip, write_sheet

    of_file = {one.name: pictures[number] for number, one in enumerate(sets.sets)}
    strips = []
    for kind, title in KINDS.items():
        for number, group in enumerate(document[kind][: config.show], start=1):
            shown = [
                Picture(of_file[one["file"]].picture(one["row"]), one["name"], _below(one, len(sets.sets) > 1))
                for one in group[:PER_GROUP]
            ]
            more = f", {len(group) - PER_GROUP:,} more are not shown" if len(group) > PER_GROUP else ""
            strips.append(Strip(f"{title} {number}: {counted(len(group), 'image')}{more}", shown))
    counts = ", ".join(f"{counted(len(document[kind]), 'group')} of {title}" for kind, title in KINDS.items())
    notes = [
        f"{counts}; at most {config.show:,} of each are shown.",
        f"Cosine distance to the nearest image of the group, at most {document['threshold']:g}.",
    ]
    write_sheet(str(config.sheet), f"Duplicates in {' and '.join(document['files'])}", strips, notes)


def _below(image: Record, several: bool) -> str:
    parts = [f"{image['distance']:.3g}"] if "distance" in image else []
    parts += [f"+{image['copies']} equal"] if image.get("copies") else []
    return " · ".join([*parts, *([image["file"]] if several else [])])
