"""The folder of a monitor in another program's training: ``config.json``, ``metrics.jsonl`` and a spectrum per layer.

``metrics.jsonl`` has one line per look. A training that resumed from an earlier step looks again at some steps. All
lines stay in the file; who reads it leaves out those that a later line repeats.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from torch import Tensor

import ssltool
from ssltool.checkpoints.checkpoint import NUMBER
from ssltool.checkpoints.setting_names import MONITOR, stage_of
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError, first_names
from ssltool.files.schema import Check, conform, integer, listing, mapping, nested, optional, real, text
from ssltool.files.writing import to_json, write_json, write_text, writing
from ssltool.runs.folder import RunFolder
from ssltool.runs.records import read_records
from ssltool.settings import Record, Settings

STAGE = MONITOR
"""The ``stage`` in the settings of such a folder."""

LOOK = mapping({"step": integer(0)}, dict.fromkeys(("verdict", "kinds"), optional(text(200))), NUMBER)
"""A line of ``metrics.jsonl``: the step, the verdict, the kinds of collapse, and numbers or None by name."""

SETTINGS: Check = mapping(
    {
        "layers": listing(text(200)),
        "widths": mapping(other=integer(1)),
        "bounds": mapping(other=optional(integer(1))),
        "n_images": integer(2),
    },
    {"fingerprint": optional(text(200)), "constant_losses": listing(real())},
    other=nested(),
)
"""The ``config.json`` of such a folder."""


class MonitorFolder:
    """The folder ``path`` of a monitor of ``layers``; ``records`` are its looks. Nothing is written before ``add``."""

    def __init__(self, path: Path, layers: Collection[str] | None = None) -> None:
        """Reads the earlier looks, if there are any; ``layers`` are those to be added, None if none will be.

        Raises:
            SSLToolError: if the folder holds something else, looks at other layers, or cannot be read.
        """
        self.path = path
        self.config, self.metrics = path / "config.json", path / "metrics.jsonl"
        self.settings: Settings = {}
        if layers is not None:
            _check_names(layers)
        if path.exists() and not path.is_dir():
            raise SSLToolError(f"{path} is a file; name a folder with out")
        if self.config.exists():
            self.settings = RunFolder(path).read_config()
            if stage_of(self.settings) != STAGE:
                raise SSLToolError(
                    f"{path} is a run folder of {stage_of(self.settings)}; choose another folder with out"
                )
            conform(self.settings, SETTINGS, self.config)
            if lost := [name for name in self.settings["layers"] if name not in self.settings["widths"]]:
                raise SSLToolError(f"{self.config} has no width of the layer {lost[0]!r}; restore the file")
        elif self.metrics.exists():
            raise SSLToolError(f"{path} has a metrics.jsonl of another program; choose another folder with out")
        self._lines = read_records(self.metrics, LOOK)
        self.records = latest(self._lines)
        known = self.settings.get("layers")
        if layers is not None and known is not None and sorted(known) != sorted(layers):
            raise SSLToolError(
                f"{path} has looks at {first_names(known)}, and these are at {first_names(list(layers))}; choose "
                "another folder with out, or name the same layers"
            )
        self._is_open = False

    def add(self, record: Record, spectra: dict[str, Tensor], settings: Settings) -> list[str]:
        """Appends a look to the file, and replaces the spectra; returns what is to be said of the folder.

        Raises:
            SSLToolError: if they cannot be written.
        """
        said = [] if self._is_open else self._open(settings)
        for layer, s in spectra.items():
            values = {key.removeprefix(f"{layer}_"): v for key, v in record.items() if key.startswith(f"{layer}_")}
            n, d = settings["n_images"], settings["widths"][layer]
            meta = {
                "type": "svd",
                "n": n,
                "d": d,
                "representations": {"layer": layer, "directions": settings["bounds"].get(layer)},
                "step": record["step"],
                "ssltool": ssltool.__version__,
            }
            Spectrum(s, values, meta).save(spectrum_file(self.path, layer))
        with writing(self.metrics), open(self.metrics, "a", encoding="utf-8") as stream:
            stream.write(to_json(record) + "\n")
        return said

    def remember(self, record: Record) -> None:
        """Adds a look to ``records``, on every rank."""
        self.records[:] = latest([*self.records, record])

    def _open(self, settings: Settings) -> list[str]:
        """Writes the settings, before the first look of this process."""
        if self.metrics.exists() and not self.metrics.read_bytes().endswith(b"\n"):  # a line was cut off
            write_text(self.metrics, "".join(to_json(line) + "\n" for line in self._lines))
        earlier, self.settings = self.settings, {"stage": STAGE, "ssltool": ssltool.__version__, **settings}
        write_json(self.config, self.settings)
        self._is_open = True
        both = (earlier.get("fingerprint"), settings.get("fingerprint"))
        if not self._lines or None in both or both[0] == both[1]:
            return []
        return [f"the images are not those of the earlier looks in {self.path}: compare with care"]


def spectrum_file(folder: Path, layer: str) -> Path:
    """The file of the singular values of a layer at the last look."""
    return folder / f"{layer}_svd.pt"


def records_of(path: Path, settings: Settings) -> list[Record]:
    """The records in the run folder ``path`` with these ``settings``: its looks if it is that of a monitor."""
    return MonitorFolder(path).records if stage_of(settings) == STAGE else RunFolder(path).read_metrics()


def latest(records: Sequence[Record]) -> list[Record]:
    """The records in order of their steps, without those of a training that was resumed from an earlier step."""
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _check_names(layers: Collection[str]) -> None:
    wrong = [name for name in layers if "/" in name or name.startswith(".") or not name.isprintable()]
    if wrong:
        raise SSLToolError(f"layer {wrong[0]!r} cannot be part of a file name; rename it")
