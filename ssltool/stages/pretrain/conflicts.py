"""Settings beside one another: which do nothing together, and what a published recipe sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from ssltool.config import PretrainConfig
from ssltool.errors import SSLToolError
from ssltool.methods import method_class
from ssltool.methods.options import gather_options, ineffective_options, parse_options
from ssltool.methods.recipes import published
from ssltool.models.vit import vit_shape
from ssltool.settings import flag, ineffective, refuse_ineffective
from ssltool.training import optimizer_rule


def ineffective_settings(config: PretrainConfig) -> Iterator[tuple[str, str]]:
    """Settings away from their defaults that do nothing beside the others, and why."""
    rules = [
        (("incremental_idx_path", "chunk_size", "n_rounds"), config.strategy == "iid", "with --strategy iid"),
        optimizer_rule(config, config.optimizer),
        (("final_lr", "warmup_epochs", "fix_pred_lr", "lr_schedule"), config.fix_all_lr, "with --fix-all-lr"),
        (("test",), not config.wandb, "without --wandb"),
        (("monitor_size", "stop_on"), config.monitor_every == 0, "with --monitor-every 0"),
        (("jitter",), config.jitter_p == 0, "with --jitter-p 0"),
        (("start_epoch",), config.resume is None, "without --resume"),
        (("start_epoch",), config.resume == "auto", "with --resume auto, which knows where it stopped"),
        (("overwrite",), config.resume == "auto", "with --resume auto"),
        (("zero_init_residual",), vit_shape(config.arch) is not None, f"with {config.arch}"),
    ]
    return ineffective(config, rules)


def refuse_ineffective_settings(config: PretrainConfig) -> None:
    """Refuses flags that would do nothing.

    Raises:
        SSLToolError: naming the flag and why it has no effect.
    """
    refuse_ineffective(ineffective_settings(config))


def given_options(config: PretrainConfig) -> dict[str, Any]:
    """The method's options that are given, by ``--set`` or by a flag of their own.

    Raises:
        SSLToolError: if one is given twice.
    """
    flags: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        name, value = f.metadata["method_option"], getattr(config, f.name)
        if name and value != f.default:
            if name in flags:
                raise SSLToolError(f"{flag(f.name)} and another flag both set the option {name}; keep one of them")
            flags[name] = value
    return gather_options(config.options, flags)


def apply_recipe(config: PretrainConfig, name: str, explicit: Collection[str] = ()) -> PretrainConfig:
    """``config`` with the recipe ``name`` of its method, but for the settings in ``explicit`` and the options it has.

    What the explicit settings leave nothing to do for stays at its default, and a warm-up that would not fit into the
    epochs becomes a tenth of them.

    Raises:
        SSLToolError: for an unknown recipe, or one that the method has not.
    """
    recipe = published(config.method, name)
    options = recipe.pop("options")
    given = given_options(config)
    added = {option: value for option, value in options.items() if option not in given}
    for option, _ in ineffective_options(
        parse_options(config.method, method_class(config.method).Options, given | added)
    ):
        added.pop(option, None)
    changes = {setting: value for setting, value in recipe.items() if setting not in explicit}
    texts = (f"{option}={value}" for option, value in added.items())
    result = dataclasses.replace(config, options=(*config.options, *texts), **changes)
    defaults = {f.name: f.default for f in dataclasses.fields(PretrainConfig)}
    reset: dict[str, Any] = {
        setting: defaults[setting] for setting, _ in ineffective_settings(result) if setting in changes
    }
    if result.epochs and result.warmup_epochs >= result.epochs and "warmup_epochs" in changes:
        reset["warmup_epochs"] = result.epochs // 10
    return dataclasses.replace(result, **reset)
