"""Click options generated from the settings in ``ssltool.config``, and what all commands share."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ssltool.errors import SSLToolError, UsageError
from ssltool.registry import load_plugins
from ssltool.settings import flag, value_type

F = TypeVar("F", bound=Callable[..., Any])


SECTIONS = (
    *("Options", "Data", "Data strategy", "Method", "Model", "Views", "Optimisation", "Run", "Monitor"),
    *("Verdict", "Hardware", "Output"),
)
"""Sections of a command's help, in order; what belongs to none goes into the last."""


class Command(click.Command):
    """A command whose flags may be spelt with ``_`` or ``-`` and whose help groups them in sections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings: dict[str, Any] = {"token_normalize_func": lambda s: s.replace("_", "-"), "max_content_width": 110}
        super().__init__(*args, **{**kwargs, "context_settings": settings})
        self.params.append(_plugin_option())

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise click.UsageError(str(error), ctx=ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                sections[getattr(param, "section", SECTIONS[-1])].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Setting(click.Option):
    """An option that knows its section of the help."""

    def __init__(self, *args: Any, section: str, names: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section, self.names = section, names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        if record is None or not self.names:
            return record
        module, _, attribute = self.names.partition(":")
        names = ", ".join(getattr(importlib.import_module(module), attribute))
        return record[0], record[1].replace("{names}", names)


def _plugin_option() -> Setting:
    def load(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> None:
        try:
            load_plugins(names)
        except UsageError as error:
            raise click.UsageError(str(error), ctx=ctx) from error

    return Setting(
        ["--plugin"],
        section="Output",
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=load,
        metavar="MODULE|FILE.py",
        help="plug-in to import first: a module on the path or a .py file; repeatable",
    )


class OneOf(click.ParamType):  # type: ignore[type-arg]
    """One of some names, which are looked up when they are needed: plug-ins may add to a registry."""

    name = "choice"

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return click.Choice(tuple(self.names)).convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return click.Choice(tuple(self.names)).get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return click.Choice(tuple(self.names)).shell_complete(ctx, param, incomplete)


def _click_type(kind: type, metadata: Any) -> Any:
    if metadata["choices"]:
        return OneOf(metadata["choices"])
    if kind is int and metadata["minimum"] is not None:
        return click.IntRange(min=metadata["minimum"], max=metadata["maximum"])
    return kind


def _declarations(f: dataclasses.Field[Any], kind: type) -> list[str]:
    names = [*f.metadata["flags"], flag(f.name)] if f.name != "options" else ["--set"]
    if kind is bool and (f.default is not False or f.metadata["fixed"]):  # also what a recipe may have switched on
        names[-1] += f"/--no-{f.name.replace('_', '-')}"
    return [f.name, *dict.fromkeys(names)]


def settings(cls: type, *, positional: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Gives a command one option for each setting of ``cls`` and hands it the filled-in ``config``.

    The settings in ``positional`` are left to ``click.argument`` decorators of the command.
    """

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def with_config(**values: Any) -> Any:
            names = {f.name for f in dataclasses.fields(cls)}
            config = cls(**{k: v for k, v in values.items() if k in names})
            return command(config, **{k: v for k, v in values.items() if k not in names})

        for f in reversed(dataclasses.fields(cls)):
            if f.name in positional:
                continue
            kind = value_type(cls, f.name)
            multiple, nargs = f.default == (), f.metadata["nargs"]
            extra: dict[str, Any] = {"type": str if multiple or nargs > 1 else _click_type(kind, f.metadata)}
            if kind is bool:
                extra = {"is_flag": True}
            shown = f.default is not None and f.default is not False and f.default != ()
            with_config = click.option(
                *_declarations(f, kind),
                cls=Setting,
                section=f.metadata["section"],
                names=f.metadata["names"],
                default=f.default,
                show_default=shown,
                help=f.metadata["help"],
                multiple=multiple,
                nargs=nargs,
                metavar=f.metadata["metavar"],
                **extra,
            )(with_config)
        return with_config

    return decorate


def json_option(command: F) -> F:
    """``--json``: one JSON document on stdout instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="print one JSON document on stdout")(command)


def data_argument(command: F) -> F:
    """``[DATA]``, with ``--data DIR`` as the other way to say it."""
    return click.argument("data_dir", metavar="[DATA]", required=False)(command)


BY_TORCHRUN = {
    "--world-size N": "the number of processes comes from torchrun",
    "--rank N": "the rank comes from torchrun",
    "--dist-url URL": "the meeting point comes from torchrun",
    "--multiprocessing-distributed": "start several processes with torchrun --nproc-per-node N -m ssltool ...",
}
DETECTED = {
    "--alg NAME": "the method is read from the checkpoint",
    "--pretrained-distributed": "checkpoints are the same however many processes trained",
}


def gone(flags: dict[str, str]) -> Callable[[F], F]:
    """Flags of the paper's scripts that are not needed any more: giving one is an error that says why.

    A flag with a value is written with it, as in ``--rank N``.
    """

    def decorate(command: F) -> F:
        for spelling, why in flags.items():
            name, _, value = spelling.partition(" ")

            def refuse(ctx: click.Context, param: click.Parameter, given: object, why: str = why) -> None:
                if given:
                    raise SSLToolError(f"{param.opts[0]} is not a flag of ssltool, leave it out: {why}")

            option = click.option(name, is_flag=not value, hidden=True, expose_value=False, callback=refuse)
            command = option(command)
        return command

    return decorate


def with_data(config: Any, data_dir: str | None) -> Any:
    """``config`` with the positional DATA in it.

    Raises:
        click.UsageError: if DATA and ``--data`` are both given.
    """
    if data_dir is None:
        return config
    if config.data is not None:
        raise click.UsageError("DATA is given twice, as an argument and as --data")
    return dataclasses.replace(config, data=data_dir)
