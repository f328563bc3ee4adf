"""Reads the records of a run, one JSON object on each line of ``metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path

from ssltool.checkpoints.checkpoint import RECORD
from ssltool.errors import SSLToolError
from ssltool.files.reading import UTF_16, decode, parse_json, read_bytes
from ssltool.files.schema import Check, conform
from ssltool.settings import Record
from ssltool.training.distributed import rank_zero_info


def read_records(path: Path, check: Check = RECORD) -> list[Record]:
    """The records in the file ``path``, which pass ``check``; none if it does not exist.

    A last line that is no JSON was cut off, as by a power cut. It is left out, and stderr says so.

    Raises:
        SSLToolError: if the file cannot be read, another line is no JSON, or a record does not hold what it should; the
            message gives the number of the line.
    """
    if not path.exists():
        return []
    data = read_bytes(path)
    if data[:2] in UTF_16:
        decode(data, path)  # raises
    lines = [(number, line.strip()) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    records = []
    for number, line in lines:
        try:
            record = parse_json(line.decode("utf-8-sig"))
        except ValueError as error:
            if number < lines[-1][0]:
                raise SSLToolError(f"{path}, line {number}: {error}; restore the file, or delete the line") from error
            rank_zero_info(f"note: the last line of {path} is cut off and is left out")
            continue
        records.append(conform(record, check, f"{path}, line {number}", remedy="correct or delete the line"))
    return records
