"""The spectra that ``collapse`` writes and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ssltool
from ssltool.config.collapse import CollapseConfig
from ssltool.config.fields import SPECTRA
from ssltool.diagnosis.measure import Measured
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.runs.display_names import display_names
from ssltool.stages.collapse.input_files import InputFiles


def _spectrum(source: InputFiles, measured: Measured, kind: str, config: CollapseConfig) -> Spectrum:
    hashes = [file_hash(path) for path in source.paths]
    meta = {
        "source": list(source.paths) if len(source.paths) > 1 else source.paths[0],
        "source_hash": hashes if len(hashes) > 1 else hashes[0],
        "type": kind,
        "normalized": config.normalize,
        "n": measured.n,
        "d": measured.d,
        "ssltool": ssltool.__version__,
        "representations": source.meta,
    }
    return Spectrum(measured.spectrum(kind), measured.metrics, meta)


def save_spectra(
    source: InputFiles, measured: Measured, paths: dict[str, Path], config: CollapseConfig, notes: list[str]
) -> dict[str, str]:
    """Writes the spectra and returns their paths by type. Beside an input whose folder is read-only none is written,
    which a note says.

    Raises:
        SSLToolError: if they cannot be written to the folder that ``--out`` names.
    """
    saved = {}
    for kind, path in paths.items():
        try:
            _spectrum(source, measured, kind, config).save(path)
        except SSLToolError as error:
            if path.parent != Path(source.paths[0]).parent:
                raise
            notes.append(f"the spectrum is not saved: {error}; --out names a folder for it")
            break
        saved[kind] = str(path)
    return saved


def spectrum_paths(config: CollapseConfig, folder: Path | None, inputs: Sequence[InputFiles]) -> list[dict[str, Path]]:
    """The path of each spectrum, by its type, for each input, in ``folder`` or beside it.

    Raises:
        SSLToolError: if two inputs have the same, or it is a file with something else than a spectrum.
    """
    middle = "normalized_" if config.normalize else ""
    kinds = SPECTRA if config.type == "all" else (config.type,)
    targets = []
    for source in inputs:
        where, stem = folder or source.prefix.parent, source.prefix.name
        targets.append({kind: where / f"{stem}_{middle}{kind}.pt" for kind in kinds})
    if len({path for paths in targets for path in paths.values()}) < len(kinds) * len(targets):
        raise SSLToolError("two inputs have the same spectrum file; rename one of them, or leave out --out")
    for path in (path for paths in targets for path in paths.values()):
        _refuse_other_file(path)
    return targets


def _refuse_other_file(path: Path) -> None:
    """Refuses to replace a file that is no spectrum."""
    if not path.is_file():
        return
    try:
        Spectrum.load(path)
    except SSLToolError as error:
        raise SSLToolError(
            f"{path}, where the spectrum is to be written, is no spectrum; rename it, or name a folder with --out"
        ) from error


def plot(config: CollapseConfig, inputs: Sequence[InputFiles], measurements: Sequence[Measured]) -> None:
    """Draws the spectra of all inputs into the figure ``config.plot``."""
    from ssltool.viz.spectra import plot_spectra

    kind = "svd" if config.type == "all" else config.type
    names = display_names(config.files[: len(inputs)])
    plot_spectra(names, [measured.possible(kind) for measured in measurements], str(config.plot), kind=kind)
