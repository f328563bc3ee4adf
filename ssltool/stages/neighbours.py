"""The neighbours stage: the nearest images of some images, without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool import seeds
from ssltool.checkpoints.load import load_pretrained
from ssltool.checkpoints.setting_names import PROGRAM, SSLTOOL
from ssltool.config import NeighboursConfig, SaveReprsConfig
from ssltool.data.decoding import decode
from ssltool.data.images import set_of_files
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, counted
from ssltool.reprs.extract import extract_all
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.row_pictures import RowPictures, pixel_rules
from ssltool.reprs.row_queries import row_of_query
from ssltool.reprs.spherical_kmeans import distant_rows, spherical_kmeans
from ssltool.runs.tables import write_table
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.device import pick_device

SAMPLE = 4096
"""Rows of which k-means chooses the images of a call without queries."""


@dataclass(frozen=True)
class Query:
    """An image whose neighbours are listed: its name, its representation (d,), and its row in the set; None for a file
    of another image."""

    name: str
    rows: Tensor
    row: int | None


def run(config: NeighboursConfig) -> Record:
    """The stage: finds the ``k`` nearest images of each query by the cosine distance.

    Returns:
        {"file", "n", "d", "k", "chosen", "queries": [{"query", "row", "index", "path", "class", "neighbours": [{"rank",
        "distance", "row", "index", "path", "class", "name"}, ...]}, ...], "sheet", "out"}. "chosen" says how the
        queries were chosen if none was given.

    Raises:
        SSLToolError: for files that cannot be read, a query that names no image or several, or a picture that is
            missing.
    """
    config.check()
    with distributed.measuring_ranks() as ranks:
        with ranks.same_errors():
            device = pick_device(config, local_rank=distributed.local_rank())
        saved = RepresentationSet.open(config.reprs, config.pool, ranks)
        with ranks.same_errors():
            pictures = None if config.sheet is None else RowPictures(saved, config.data)
        choose = _named if config.queries else _spread
        queries = ranks.from_main(lambda: choose(config, saved, device))
        skip = (torch.arange(len(saved)), torch.tensor([-1 if query.row is None else query.row for query in queries]))
        x = torch.stack([query.rows for query in queries])
        near = neighbours(saved.rows, x, skip=skip, k=config.k, device=device, memory=config.memory, ranks=ranks)
        return ranks.from_main(lambda: _result(config, saved, pictures, queries, *near))


def _result(
    config: NeighboursConfig,
    saved: RepresentationSet,
    pictures: RowPictures | None,
    queries: Sequence[Query],
    similarity: Tensor,
    near: Tensor,
) -> Record:
    """Writes the files and returns the document."""
    spread = f"{counted(len(queries), 'image')} nearest to the centres of k-means, seed {config.seed}"
    found = [
        _record(saved, query, rows[rows >= 0].tolist(), -values[rows >= 0])
        for query, rows, values in zip(queries, near, similarity, strict=True)
    ]
    document: Record = {"file": saved.name, "n": len(saved), "d": saved.rows.width, "k": config.k, "metric": "cos"}
    document |= {
        "chosen": None if config.queries else spread,
        "queries": found,
        "sheet": config.sheet,
        "out": config.out,
    }
    if pictures is not None:
        _write_sheet(config, pictures, document)
    if config.out is not None:
        write_table(config.out, document, _table(document))
    return document


def _spread(config: NeighboursConfig, saved: RepresentationSet, device: torch.device) -> list[Query]:
    """The images nearest to the centres of k-means on a random sample."""
    generator = seeds.generator(config.seed)
    sample = torch.randperm(len(saved), generator=generator)[:SAMPLE].sort().values
    unit = F.normalize(saved.rows.take(sample).to(device).float(), dim=1)
    start = distant_rows(unit, min(config.spread, len(unit)), generator)
    centres, _ = spherical_kmeans(unit, len(start), centroids=start)
    rows = neighbours(unit, centres, k=1, device=device)[1].flatten().unique()
    return [_of_row(saved, int(row)) for row in sample[rows]]


def _of_row(saved: RepresentationSet, row: int) -> Query:
    return Query(saved.image_name(row), saved.rows.take(torch.tensor([row]))[0].float(), row)


def _named(config: NeighboursConfig, saved: RepresentationSet, device: torch.device) -> list[Query]:
    rows = {name: row_of_query(saved, name) for name in dict.fromkeys(config.queries)}
    files = [name for name, row in rows.items() if row is None]
    embedded = dict(zip(files, _embed(config, saved, files, device), strict=True)) if files else {}
    if config.pretrained is not None and not files:
        raise SSLToolError("--pretrained does nothing: every QUERY is an image of REPRS; leave it out")
    return [Query(name, embedded[name], None) if row is None else _of_row(saved, row) for name, row in rows.items()]


def _embed(config: NeighboursConfig, saved: RepresentationSet, files: Sequence[str], device: torch.device) -> Tensor:
    """The representations (n, d) of image files that are not in the set, by the network that REPRS names.

    Raises:
        SSLToolError: if that network is missing or is another one now, or if a file is no image.
    """
    meta = saved.meta
    checkpoint = config.pretrained or meta.get("checkpoint")
    if checkpoint is None:
        raise SSLToolError(
            f"{files[0]} is not an image of {saved.name}, which names no checkpoint that could embed it; give it with "
            "--pretrained"
        )
    # A run's own file has its architecture; another program's may need it.
    named = checkpoint == "random" or ":" in checkpoint or meta.get(PROGRAM) not in (None, SSLTOOL)
    settings = SaveReprsConfig(
        pretrained=checkpoint,
        random=bool(meta.get("random")) and checkpoint != "random",
        momentum_teacher=bool(meta.get("momentum_teacher")),
        key=meta.get("key"),
        arch=meta.get("arch") if named else None,
        stem=meta.get("stem") if checkpoint == "random" else None,
        image_size=meta.get("image_size"),
        layer=meta.get("layer") or "backbone",
        tokens=meta.get("tokens"),
        pool=meta.get("pool"),
        precision=meta.get("precision") or "fp32",
        workers=0,
    )
    network = load_pretrained(settings, device)
    if meta.get("checkpoint_hash") not in (None, network.origin["checkpoint_hash"]):
        raise SSLToolError(
            f"{files[0]} is not an image of {saved.name}, and {checkpoint} is not the checkpoint that computed its "
            "rows; name that file with --pretrained"
        )
    network = dataclasses.replace(network, preprocessing=Preprocessing.of(meta) or network.preprocessing)
    images = set_of_files(files, pixel_rules(saved))
    return extract_all(network, images, settings, device).representations.float()


def _record(saved: RepresentationSet, query: Query, rows: list[int], distances: Tensor) -> Record:
    of_row = {"row": None, "index": None, "path": None, "class": None}
    of_row = of_row if query.row is None else saved.image_record(query.row)
    near = [
        {"rank": rank, "name": saved.image_name(row), "distance": distance} | saved.image_record(row)
        for rank, (row, distance) in enumerate(zip(rows, distances.tolist(), strict=True), start=1)
    ]
    return {"query": query.name} | of_row | {"neighbours": near}


def _table(document: Record) -> pd.DataFrame:
    """A row for each neighbour."""
    rows = [
        {"query": found["query"], "query_row": found["row"]} | near
        for found in document["queries"]
        for near in found["neighbours"]
    ]
    return pd.DataFrame(rows, dtype=object)


def _write_sheet(config: NeighboursConfig, pictures: RowPictures, document: Record) -> None:
    from ssltool.viz.contact_sheet import Picture, Strip, write_sheet

    strips = []
    for found in document["queries"]:
        row = found["row"]
        image = pictures.picture(row) if row is not None else np.asarray(decode(found["query"], pictures.rules))
        shown = [Picture(image, found["query"], found["class"] or "", marked=True)]
        shown += [Picture(pictures.picture(near["row"]), near["name"], _below(near)) for near in found["neighbours"]]
        strips.append(Strip("", shown))
    heading = f"Nearest neighbours in {document['file']}, {document['n']:,} images"
    notes = ["Framed: the image. Beside it its neighbours, nearest first, with the cosine distance."]
    write_sheet(str(config.sheet), heading, strips, notes)


def _below(near: Record) -> str:
    return " · ".join([f"{near['distance']:.3g}", *([near["class"]] if near["class"] else [])])
