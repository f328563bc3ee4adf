"""Writers of representations for ``--format``: ssltool's own file, NumPy arrays, and parquet.

Each writer takes memory-mapped rows and holds only a block of them in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from ssltool.files.overwriting import BESIDE
from ssltool.files.parquet_files import pyarrow
from ssltool.files.text import storable
from ssltool.files.writing import to_json, write_atomically, write_json
from ssltool.reprs.representations import PLACES, Representations
from ssltool.settings import Record

GROUP_BYTES = 64 * 2**20
"""Size of a row group of a parquet file in bytes."""


def write(reprs: Representations, path: Path, kind: str) -> None:
    """Writes ``reprs`` (N, D) or (N, Q, D) as ``kind``, one of ``WRITERS``.

    Raises:
        SSLToolError: if it cannot be written, or a library is missing.
    """
    WRITERS[kind](reprs, path)


def check(kind: str) -> None:
    """Checks, before anything is computed, that files of this kind can be written.

    Raises:
        SSLToolError: if a library is missing.
    """
    if kind == "parquet":
        pyarrow("--format parquet")


def _write_npy(reprs: Representations, path: Path) -> None:
    """``PREFIX.npy`` with the rows, beside ``PREFIX_targets.npy``, ``PREFIX_index.npy`` and ``PREFIX.json``; also
    ``PREFIX_paths.npy`` and ``PREFIX_digests.npy`` if they are known, and ``PREFIX_row.npy`` etc. of tokens."""
    prefix = path.with_name(path.name.removesuffix(".npy"))
    columns = {"targets": reprs.targets.numpy(), "index": reprs.index.numpy()}
    columns |= {} if reprs.paths is None else {"paths": np.array(reprs.paths, dtype=np.str_)}
    columns |= {} if reprs.digests is None else {"digests": reprs.digests.numpy()}
    columns |= {name: values.numpy() for name, values in _places(reprs).items()}

    def write_all(stream: IO[bytes]) -> None:
        np.save(stream, reprs.representations.numpy())
        # The small files are renamed only now, when the rows are on disk and about to be renamed too.
        for name in BESIDE:
            beside = prefix.with_name(f"{prefix.name}_{name}.npy")
            if name in columns:
                write_atomically(beside, partial(np.save, arr=columns[name]))
            else:
                beside.unlink(missing_ok=True)  # of a file that is replaced
        write_json(prefix.with_name(f"{prefix.name}.json"), _document(reprs))

    write_atomically(prefix.with_name(f"{prefix.name}.npy"), write_all)


def _write_parquet(reprs: Representations, path: Path) -> None:
    """Columns ``index``, ``target``, ``path`` and ``digest`` if they are known, ``view`` or ``place`` if an image has
    several rows, ``row``, ``column`` and ``kind`` of tokens, and ``representation``, a list of D float32. The metadata
    is in the schema's, under ``ssltool``."""
    pa, pq = pyarrow("--format parquet")
    views = reprs.representations.shape[1] if reprs.representations.dim() == 3 else 1
    rows = reprs.representations.reshape(-1, reprs.representations.shape[-1])
    several, count = ("view", views) if views > 1 else ("place", reprs.meta.get("places") or 1)
    width, size = rows.shape[1], max(1, GROUP_BYTES // (4 * rows.shape[1]))
    fields = [("index", pa.int64()), ("target", pa.int64())]
    fields += [] if reprs.paths is None else [("path", pa.string())]
    fields += [] if reprs.digests is None else [("digest", pa.int64())]
    fields += [(several, pa.int32())] if count > 1 else []
    places = _places(reprs)
    fields += [(name, pa.int32()) for name in places]
    fields += [("representation", pa.list_(pa.float32(), width))]
    schema = pa.schema(fields, metadata={"ssltool": to_json(_document(reprs))})

    def write_groups(stream: IO[bytes]) -> None:
        with pq.ParquetWriter(stream, schema, use_dictionary=False) as writer:
            for start in range(0, len(rows), size):
                numbers = np.arange(start, min(start + size, len(rows)))
                columns = [reprs.index.numpy()[numbers // views], reprs.targets.numpy()[numbers // views]]
                images = numbers // count
                columns += [] if reprs.paths is None else [np.array([storable(reprs.paths[i]) for i in images], object)]
                columns += [] if reprs.digests is None else [reprs.digests.numpy()[images]]
                columns += [(numbers % count).astype(np.int32)] if count > 1 else []
                columns += [values[start : start + size].numpy().astype(np.int32) for values in places.values()]
                flat = pa.array(rows[start : start + size].reshape(-1).numpy())
                arrays = [*map(pa.array, columns), pa.FixedSizeListArray.from_arrays(flat, width)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

    write_atomically(path, write_groups)


def _places(reprs: Representations) -> dict[str, Tensor]:
    """The columns of the place of each row, as far as they are known."""
    columns = {name: getattr(reprs, name) for name in PLACES}
    return {name: values for name, values in columns.items() if values is not None}


def _document(reprs: Representations) -> Record:
    return {"format": reprs.FORMAT, "meta": reprs.meta}


WRITERS: dict[str, Callable[[Representations, Path], None]] = {
    "pt": Representations.save,
    "npy": _write_npy,
    "parquet": _write_parquet,
}
"""The writer of each ``--format``, whose name is also the suffix of its files."""
