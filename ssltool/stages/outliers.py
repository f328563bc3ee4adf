"""The outliers stage: the images that are farthest from their neighbours."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from ssltool.config import OutliersConfig
from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.row_pictures import RowPictures
from ssltool.runs.tables import write_table
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.device import pick_device


def run(config: OutliersConfig) -> Record:
    """The stage: sorts the images by the cosine distance to their ``k``-th nearest other image (Ramaswamy et al.,
    "Efficient Algorithms for Mining Outliers from Large Data Sets", SIGMOD 2000).

    Returns:
        {"file", "n", "d", "k", "median", "outliers": [{"rank", "distance", "row", "index", "path", "class", "name",
        "nearest"}, ...], "sheet", "out"}; "median" is the median of all images' distances, and "nearest" the name of
        the nearest image.

    Raises:
        SSLToolError: for files that cannot be read, fewer than k + 1 rows, or a picture that is missing.
    """
    config.check()
    with distributed.measuring_ranks() as ranks:
        with ranks.same_errors():
            device = pick_device(config, local_rank=distributed.local_rank())
        saved = RepresentationSet.open(config.reprs, config.pool, ranks)
        with ranks.same_errors():
            if len(saved) <= config.k:
                raise SSLToolError(f"{saved.name} has {len(saved)} rows, so none has -k {config.k} others; lower -k")
            pictures = None if config.sheet is None else RowPictures(saved, config.data)
        ids = torch.arange(len(saved))
        near = neighbours(
            saved.rows, saved.rows, skip=(ids, ids), k=config.k, device=device, memory=config.memory, ranks=ranks
        )
        return ranks.from_main(lambda: _result(config, saved, pictures, *near))


def _result(
    config: OutliersConfig, saved: RepresentationSet, pictures: RowPictures | None, similarity: Tensor, near: Tensor
) -> Record:
    """Sorts the images, writes the files and returns the document."""
    distances = -similarity[:, -1]
    order = distances.sort(descending=True, stable=True).indices[: config.count].tolist()
    found = [
        {"rank": rank, "name": saved.image_name(row), "distance": float(distances[row])}
        | saved.image_record(row)
        | {"nearest": saved.image_name(int(near[row, 0]))}
        for rank, row in enumerate(order, start=1)
    ]
    document: Record = {"file": saved.name, "n": len(saved), "d": saved.rows.width, "k": config.k, "metric": "cos"}
    document |= {"median": float(distances.median()), "outliers": found, "sheet": config.sheet, "out": config.out}
    if pictures is not None:
        _write_sheet(config, pictures, document)
    if config.out is not None:
        write_table(config.out, document, pd.DataFrame(found, dtype=object))
    return document


def _write_sheet(config: OutliersConfig, pictures: RowPictures, document: Record) -> None:
    from ssltool.viz.contact_sheet import Picture, Strip, write_sheet

    shown = [
        Picture(pictures.picture(one["row"]), one["name"], f"{one['distance']:.3g}") for one in document["outliers"]
    ]
    heading = f"Outliers of {document['file']}, {document['n']:,} images"
    note = f"With the cosine distance to the {document['k']}-th nearest image; the median is {document['median']:.3g}."
    write_sheet(str(config.sheet), heading, [Strip("", shown)], [note])
