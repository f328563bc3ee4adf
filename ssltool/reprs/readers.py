"""Reads files of representations of any kind: ``.pt``, ``.npy``, ``.npz`` and parquet. The kind is told by content.

Each reader returns the entries of a ``.pt`` file: tensors, lists, text and dicts, unchecked.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ssltool.errors import SSLToolError, first_line
from ssltool.files.npy_files import NUMPY, is_npz, read_npy, read_npz, to_tensor
from ssltool.files.overwriting import BESIDE
from ssltool.files.parquet_files import pyarrow
from ssltool.files.reading import MAX_RATIO, matching, open_file, parse_json, read_json, size_limit, too_large
from ssltool.files.stored import Entries, format_of
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import FilePath

ROWS = ("representations", "features", "embeddings", "feats", "x", "X", "arr_0")
TARGETS = ("targets", "labels", "target", "label", "y")
"""Keys of rows and labels, of which the first is this program's."""

SUFFIXES = (".pt", ".npy", ".npz", ".parquet")

COLUMNS = {"representation": "representations", "target": "targets", "path": "paths", "digest": "digests"}
"""Columns of a parquet table that have another name than the key of a ``.pt`` file."""

NEEDED = {*ROWS, *TARGETS, *BESIDE, *COLUMNS, "view", "place"}
"""Columns of a parquet table that are read. Others may have empty cells."""


def read_entries(path: FilePath) -> Entries:
    """The entries of a file of representations, or of another ``.pt`` file; arrays are memory-mapped where possible.

    Raises:
        SSLToolError: if the file cannot be read without executing code.
    """
    kind = kind_of(path)
    if kind == ".npy":
        return _read_npy(Path(path))
    if kind == ".parquet":
        return _read_parquet(path)
    if kind == ".npz":
        return {name: to_tensor(array, path, name) for name, array in read_npz(path, mmap=True).items()}
    return load_dict(path, mmap=True, wanted="a .pt, .npy, .npz or .parquet file")


def kind_of(path: FilePath) -> str:
    """The kind of a file by its content, one of ``SUFFIXES``; what is none of the others counts as ``.pt``.

    Raises:
        SSLToolError: if there is no such file or it may not be read.
    """
    with open_file(path) as stream:
        head = stream.read(6)
    if head == NUMPY:
        return ".npy"
    if head[:4] == b"PAR1":
        return ".parquet"
    # An archive that is cut short has no list of contents, so that only its name shows what it was.
    damaged = head[:2] == b"PK" and Path(path).suffix == ".npz" and not zipfile.is_zipfile(path)
    empty = head[:4] == b"PK\5\6"
    return ".npz" if damaged or empty or (head[:2] == b"PK" and is_npz(path)) else ".pt"


def stem_of(path: FilePath) -> str:
    """The name of a file without the suffix of its kind."""
    name = Path(path).name
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def files_of(name: FilePath) -> list[str]:
    """The file ``name``, the files that match it as a pattern, or the files of all ranks that wrote it.

    Raises:
        SSLToolError: if a pattern matches nothing.
    """
    found = matching(name)
    return main_files(found) if isinstance(found, list) else [str(found)]


def main_files(paths: Iterable[str]) -> list[str]:
    """``paths`` without the arrays that belong to another one: ``a_targets.npy`` beside ``a.npy``."""
    paths = list(paths)
    beside = {f"{path.removesuffix('.npy')}_{name}.npy" for path in paths if path.endswith(".npy") for name in BESIDE}
    return [path for path in paths if path not in beside]


def _read_npy(path: Path) -> Entries:
    """``NAME.npy`` with the rows, and what lies beside it of ``NAME_targets.npy`` etc. and ``NAME.json``."""
    prefix = path.with_name(path.name.removesuffix(".npy"))
    for name in BESIDE:
        owner = path.with_name(f"{prefix.name.removesuffix(f'_{name}')}.npy")
        if prefix.name.endswith(f"_{name}") and owner.exists():
            raise SSLToolError(f"{path} holds the {name} of {owner}; name {owner}, with which it is read")
    entries: Entries = {"representations": to_tensor(read_npy(path, mmap=True), path, "the array")}
    for name in BESIDE:
        beside = prefix.with_name(f"{prefix.name}_{name}.npy")
        if beside.exists():
            entries[name] = to_tensor(read_npy(beside), beside, "the array")
    described = prefix.with_name(f"{prefix.name}.json")
    if described.exists():
        entries |= _description(read_json(described))
    return entries


def _description(document: Any) -> Entries:
    """``format`` and ``meta`` of a JSON document; nothing of another program's."""
    ours = isinstance(document, dict) and format_of(document).startswith("ssltool/")
    return {key: document[key] for key in ("format", "meta") if key in document} if ours else {}


def _read_parquet(path: FilePath) -> Entries:
    pa, pq = pyarrow(f"{path} is a parquet table, which")
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _check_size(path, file)
        table = file.read()
        columns = {name: _column(pa, name, table[name]) for name in table.column_names}
        description = _description(_parquet_json(file.schema_arrow.metadata))
    except SSLToolError:
        raise
    except Exception as error:  # the bytes may be anything
        raise SSLToolError(f"{path} is not a readable parquet table ({first_line(error)}); write it again") from error
    several = next((name for name in ("view", "place") if description and name in columns), None)
    numbers = columns.pop(several) if several else None
    entries: Entries = {
        COLUMNS.get(name, name): values if isinstance(values, list) else to_tensor(values, path, name)
        for name, values in columns.items()
        if values is not None
    }
    if several is not None:
        _ungroup(entries, path, several, np.asarray(numbers))
    return entries | description


def _check_size(path: FilePath, file: Any) -> None:
    """Refuses a table whose values would take far more memory than the file, which repeated values do."""
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    values = sum(group.column(j).num_values for group in groups for j in range(group.num_columns))
    if 8 * values > max(size_limit(), MAX_RATIO * Path(path).stat().st_size):
        raise too_large(path, "values", 8 * values)


def _parquet_json(metadata: dict[bytes, bytes] | None) -> Any:
    text = (metadata or {}).get(b"ssltool")
    return None if text is None else parse_json(text.decode("utf-8", "replace"))


def _column(pa: Any, name: str, column: Any) -> np.ndarray | list[Any] | None:
    """Numbers (N,) or lists of numbers of one length (N, D) as an array, text as a list; None for other columns. An
    empty label is -1.

    Raises:
        ValueError: for a column of ``NEEDED`` with other empty cells, or lists of different lengths.
    """
    column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pylist()  # type: ignore[no-any-return]
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    values = column.flatten() if lists else column
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        return None
    if name in TARGETS and pa.types.is_integer(kind) and column.null_count:
        column = values = column.cast(pa.int64()).fill_null(-1)
    uneven = lists and not pa.types.is_fixed_size_list(kind) and len(np.unique(np.diff(column.offsets.to_numpy()))) > 1
    if column.null_count or values.null_count or uneven:
        if name not in NEEDED:
            return None
        raise ValueError(f"its column {name} has {'lists of different lengths' if uneven else 'empty cells'}")
    flat: np.ndarray = values.to_numpy(zero_copy_only=False)
    if not lists:
        return flat
    return flat.reshape(len(column), -1)


def _ungroup(entries: Entries, path: FilePath, several: str, numbers: np.ndarray) -> None:
    """Undoes what ``formats`` does to several rows of an image: views become (N, Q, D), and what belongs to an image
    is kept once."""
    whole = numbers.ndim == 1 and numbers.dtype.kind in "iu"
    count = int(numbers.max(initial=-1)) + 1 if whole else 0
    if count < 1 or len(numbers) % count or not np.array_equal(numbers, np.arange(len(numbers)) % count):
        raise SSLToolError(f"{path}: the column {several} does not count the rows of each image; save the file again")
    once = ("paths", "digests") if several == "place" else ("targets", "index", "paths", "digests")
    entries |= {name: entries[name][::count] for name in once if name in entries}
    if several == "view" and isinstance(entries.get("representations"), Tensor):
        entries["representations"] = entries["representations"].unflatten(0, (-1, count))
