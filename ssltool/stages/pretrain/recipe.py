"""Combines the given settings with a published recipe or the settings of another run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import PretrainConfig
from ssltool.errors import UsageError, found_in
from ssltool.methods import method_class, method_options, saved_options
from ssltool.methods.options import MethodOptions, gather_options, ineffective_options, parse_options
from ssltool.methods.recipes import published
from ssltool.models.backbones import family_of
from ssltool.runs.repeat import read_settings, repeat
from ssltool.runs.table_row import row_of
from ssltool.settings import Settings, flag, reset_ineffective

OF_ARCHITECTURE = {"zero_init_residual"}
"""Settings of recipes that some architectures do not have."""


def given_options(config: PretrainConfig) -> Settings:
    """The options of the method given with ``--set`` or a flag of their own.

    Raises:
        UsageError: if an option is given twice.
    """
    flags: Settings = {}
    for f in dataclasses.fields(config):
        name, value = f.metadata["method_option"], getattr(config, f.name)
        if name and value != f.default:
            if name in flags:
                raise UsageError(f"{flag(f.name)} and another flag both set the option {name}; keep one of them")
            flags[name] = value
    return gather_options(config.options, flags)


def apply_recipe(config: PretrainConfig, name: str, explicit: Collection[str] = ()) -> PretrainConfig:
    """``config`` with the recipe ``name`` of its method.

    The settings in ``explicit`` and the given options of the method take precedence. Settings of the recipe without an
    effect keep their defaults, as ``zero_init_residual`` with an architecture that does not have it. If the warm-up is
    not shorter than the run, it is a tenth of the epochs.

    Raises:
        UsageError: if the recipe or the architecture is unknown, or the method does not have the recipe.
    """
    arch = config.arch
    if "arch" not in explicit:
        arch = published(config.method, name).get("arch", arch)
    known = family_of(arch).settings
    recipe = published(config.method, name, vit="drop_path" in known)
    result = add_options(config, recipe.pop("options"))
    left_out = {*explicit, *(OF_ARCHITECTURE - known)}
    changes = {setting: value for setting, value in recipe.items() if setting not in left_out}
    result = reset_ineffective(dataclasses.replace(result, **changes), changes)
    if result.epochs and result.warmup_epochs >= result.epochs and "warmup_epochs" in changes:
        return dataclasses.replace(result, warmup_epochs=result.epochs // 10)
    return result


def add_options(config: PretrainConfig, options: Mapping[str, object]) -> PretrainConfig:
    """``config`` with ``options`` of its method, except those that are given or would have no effect."""
    given = given_options(config)
    added = {option: value for option, value in options.items() if option not in given}
    parsed = parse_options(config.method, method_class(config.method).Options, given | added)
    for option, _ in ineffective_options(parsed):
        added.pop(option, None)
    texts = (f"{option}={value}" for option, value in added.items())
    return dataclasses.replace(config, options=(*config.options, *texts))


def repeat_run(config: PretrainConfig, path: str, given: Collection[str]) -> PretrainConfig:
    """``config`` with the settings and method options of another run, read from its ``config.json`` at ``path`` or from
    a row of a table.

    The settings in ``given`` take precedence. Options of another method are ignored.

    Raises:
        SSLToolError: if the file cannot be read or is not a ``config.json`` of pretrain.
    """
    saved = read_settings(path, "pretrain", type(config))
    repeated = repeat(config, path, saved, "pretrain", given)
    if saved.get("method", repeated.method) != repeated.method:
        return repeated
    options = saved.get("method_options", {})
    with found_in(f"--config {path}"):
        completed = options if row_of(path) else saved_options(repeated.method, options)
        return add_options(repeated, completed)


def resumed_options(config: PretrainConfig, resumed: SavedRun | None) -> MethodOptions:
    """The options of the method. A resumed run has those of its checkpoint where another version had another default.

    Raises:
        UsageError: for an unknown option or value, or an option without effect.
    """
    options = method_options(config.method, given_options(config))
    if resumed is not None and resumed.method is not None and resumed.method.name == config.method:
        saved = saved_options(config.method, resumed.method.options)
        kept = {name: saved[name] for name in options.KEPT if name in saved}
        options = method_options(config.method, given_options(add_options(config, kept)))
    return options
