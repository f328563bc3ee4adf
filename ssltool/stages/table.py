"""The table stage: a row for each run, with its settings, metrics, and the accuracies that later stages measured."""

from __future__ import annotations

import os
from pathlib import Path

from ssltool.checkpoints.setting_names import stage_of
from ssltool.config import TableConfig
from ssltool.errors import SSLToolError, counted
from ssltool.files.writing import finite
from ssltool.runs.display_names import display_names
from ssltool.runs.evaluations import PROTOCOL, Evaluation, accuracies_of, read_evaluations
from ssltool.runs.folder import RunFolder
from ssltool.runs.run_table import RunRow, columns, last_row
from ssltool.runs.tables import frame_of, write_table
from ssltool.settings import Record


def run(config: TableConfig) -> Record:
    """The stage: reads each run at the last epoch that its monitor measured, and writes the table ``out``.

    Returns:
        {"rows": [{"run", settings, values of the record, accuracies, "path"}, ...], "differing": the names of the
        settings in which the runs differ, "accuracies": the names of the accuracies, "left_out": [{"path", "why"},
        ...], "notes"}. Epochs count from 0.

    Raises:
        SSLToolError: if a folder is given twice, none can be read as a run, or the table cannot be written.
    """
    config.check()
    _refuse_repeated(config.runs)
    rows: list[RunRow] = []
    evaluations: list[Evaluation] = []
    left_out, notes = [], []
    for path in config.runs:
        try:
            stage = stage_of(RunFolder(Path(path)).read_config())
            if stage in PROTOCOL:
                evaluations += read_evaluations(path, stage)
            else:
                row, more = last_row(path)
                rows.append(row)
                notes += more
        except SSLToolError as error:
            left_out.append({"path": path, "why": str(error)})
    if not rows:
        why = f": {left_out[0]['why']}" if left_out else ""
        raise SSLToolError(f"{counted(len(config.runs), 'folder')} and no run of pretrain or of a monitor{why}")
    document, more = _document(rows, evaluations)
    document = finite(document | {"left_out": left_out, "notes": notes + more})
    if config.out is not None:
        write_table(config.out, document, frame_of(document["rows"]))
    return document


def _document(rows: list[RunRow], evaluations: list[Evaluation]) -> tuple[Record, list[str]]:
    cells, differing = columns([row.settings for row in rows], [row.record for row in rows])
    hashes = [row.checkpoint_hash() for row in rows] if evaluations else [None] * len(rows)
    accuracies, notes = accuracies_of(evaluations, hashes)
    names = list(dict.fromkeys(name for one in accuracies for name in one))
    runs = display_names([row.path for row in rows])
    table = [
        {"run": name} | own | {key: found.get(key) for key in names} | {"path": row.path}
        for name, own, found, row in zip(runs, cells, accuracies, rows, strict=True)
    ]
    return {"rows": table, "differing": differing, "accuracies": names}, notes


def _refuse_repeated(paths: tuple[str, ...]) -> None:
    resolved = [os.path.realpath(path) for path in paths]
    for path, target in zip(paths, resolved, strict=True):
        if resolved.count(target) > 1:
            raise SSLToolError(f"{path} is given twice; name it once")
