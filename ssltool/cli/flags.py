"""Click options generated from the settings in ``ssltool.config``, and the base class of all commands."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from ssltool.cli.memory import told_as_settings
from ssltool.cli.parameter_types import Named, click_type
from ssltool.cli.remedies import with_own_remedies
from ssltool.errors import SSLToolError, UsageError
from ssltool.registry import load_plugins
from ssltool.settings import SIZE_LIMIT, flag, value_type
from ssltool.training.launch import launch, one_process

F = TypeVar("F", bound=Callable[..., Any])

HELP_NAMES = ["-h", "--help"]

SECTIONS = (
    *("Options", "Data", "Data strategy", "Method", "Model", "Views", "Optimisation", "Run", "Monitor"),
    *("Verdict", "Hardware", "Output"),
)
"""Sections of a command's help, in order; options without a section are in the last one."""

EVERY_OPTION = "ssltool.every_option"
"""Key in ``ctx.meta``: the help shows advanced options and aliases too."""


class Command(click.Command):
    """A command whose flags may be written with ``_`` or ``-`` and whose help groups them in sections.

    ``--help`` leaves out advanced options and aliases, ``--help-all`` shows them. ``ranks`` is whether several
    processes may run it together.
    """

    def __init__(self, *args: Any, ranks: bool = False, **kwargs: Any) -> None:
        settings: dict[str, Any] = {
            "token_normalize_func": lambda s: s.replace("_", "-"),
            "max_content_width": 110,
            "help_option_names": HELP_NAMES,
        }
        super().__init__(*args, **{**kwargs, "context_settings": settings})
        self.params += [_plugin_option(), _size_limit_option(), _help_all_option()]
        self.ranks = ranks

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._repeat_alone(args))

    def _repeat_alone(self, args: list[str]) -> list[str]:
        """``args`` with the values that follow a flag ``alone`` repeated, as often as the flag takes values."""
        alone = {name: option for option in self.params if isinstance(option, Setting) for name in option.opts}
        result: list[str] = []
        previous = ""
        for arg in args:
            name, has_value, value = arg.partition("=")
            name, value = (name, value) if has_value else (previous, arg)
            option = alone.get(name.replace("_", "-"))
            result.append(arg)
            if option is not None and value in option.alone:
                result += [value] * (option.nargs - 1)
            previous = arg
        return result

    def invoke(self, ctx: click.Context) -> Any:
        world = launch().world
        if world > 1 and not self.ranks:
            raise SSLToolError(
                f"{self.name} runs in one process, and the environment has {world} ranks; start it without torchrun or "
                f"srun -n, or {one_process()}"
            )
        if world > 1:  # torch, not yet imported, would print a trace of its calls for each connection that is closed
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        try:
            with with_own_remedies(ctx), told_as_settings(ctx):
                return super().invoke(ctx)
        except UsageError as error:
            raise click.UsageError(str(error), ctx=ctx) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for option in self._shown(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                sections[getattr(option, "section", SECTIONS[-1])].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.params if isinstance(param, Setting)]
        notes = []
        if any(option.advanced for option in options) and not ctx.meta.get(EVERY_OPTION):
            notes.append("--help-all shows every option.")
        if any(option.alias or option.aliases for option in options):
            notes.append("The options of the paper's scripts are accepted too; docs/paper.md lists them.")
        if notes:
            formatter.write_paragraph()
            formatter.write_text(" ".join(notes))

    def _shown(self, ctx: click.Context) -> list[click.Option]:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        if ctx.meta.get(EVERY_OPTION):
            return options
        return [option for option in options if not (isinstance(option, Setting) and (option.advanced or option.alias))]


class Setting(click.Option):
    """An option with its section of the help; only ``--help-all`` shows ``advanced``, ``alias`` and ``aliases``."""

    def __init__(
        self,
        *args: Any,
        section: str,
        aliases: Collection[str] = (),
        alias: bool = False,
        advanced: bool = False,
        alone: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.alone = alone
        self.section, self.aliases, self.alias, self.advanced = section, aliases, alias, advanced

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        values = super().type_cast_value(ctx, value)
        return values[:1] if self.nargs > 1 and values and values[0] in self.alone else values

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        names = self.opts
        if not ctx.meta.get(EVERY_OPTION):
            self.opts = [name for name in names if name not in self.aliases]
        try:
            record = super().get_help_record(ctx)
        finally:
            self.opts = names
        if record is None or not isinstance(self.type, Named):
            return record
        usage, help = record
        return usage, help.replace("{names}", ", ".join(self.type.names())) if "{names}" in help else help


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
        help="plug-in to import first: a module or a .py file; repeatable",
        advanced=True,
    )


def _size_limit_option() -> Setting:
    def raise_limit(ctx: click.Context, param: click.Parameter, megabytes: int | None) -> None:
        if megabytes is not None:
            before = os.environ.get(SIZE_LIMIT)
            os.environ[SIZE_LIMIT] = str(megabytes)
            ctx.call_on_close(
                lambda: os.environ.pop(SIZE_LIMIT) if before is None else os.environ.update({SIZE_LIMIT: before})
            )

    return Setting(
        ["--size-limit"],
        section="Output",
        type=click.IntRange(min=1, max=10**9 - 1),
        expose_value=False,
        callback=raise_limit,
        metavar="MB",
        help="maximum size of the text of a file, and of the objects in it beside tensors  [default: 64]",
        advanced=True,
    )


def _help_all_option() -> Setting:
    def show(ctx: click.Context, param: click.Parameter, given: bool) -> None:
        if given and not ctx.resilient_parsing:
            click.echo(help_all(ctx), color=ctx.color)
            ctx.exit()

    help = "Show every option and exit."
    return Setting(
        ["--help-all"], section="Output", is_flag=True, is_eager=True, expose_value=False, callback=show, help=help
    )


def help_all(ctx: click.Context) -> str:
    """What ``--help-all`` prints."""
    ctx.meta[EVERY_OPTION] = True
    return ctx.get_help()


def _declarations(f: dataclasses.Field[Any], kind: type) -> list[str]:
    name = flag(f.name) if f.name != "options" else "--set"
    if kind is bool and (f.default is not False or f.metadata["fixed"]):  # to switch off what a recipe switched on
        name += f"/--no-{f.name.replace('_', '-')}"
    return [f.name, *f.metadata["flags"], name, *f.metadata["aliases"]]


def settings(cls: type, *, positional: tuple[str, ...] = (), **others: type) -> Callable[[F], F]:
    """Gives a command one option for each setting of ``cls`` and hands it the filled-in ``config``.

    The settings in ``positional`` are left to ``click.argument`` decorators of the command. ``others`` are classes that
    take the place of ``cls`` with the flag of their name, which the command declares: ``layers=...`` with ``--layers``.
    """
    options: dict[str, tuple[type, dataclasses.Field[Any]]] = {}
    for one in (cls, *others.values()):
        for f in dataclasses.fields(one):
            options.setdefault(f.name, (one, f))

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def with_config(**values: Any) -> Any:
            mode = next((name for name in others if values[name]), None)
            chosen = cls if mode is None else others[mode]
            names = {f.name for f in dataclasses.fields(chosen)}
            for name, (of, f) in options.items():
                if name not in names and values[name] != f.default:
                    needed = next((other for other in others if others[other] is of), None)
                    why = f"without {flag(needed)}" if needed else f"with {flag(str(mode))}"
                    raise UsageError(f"{flag(name)} does nothing {why}; leave one of them out")
            kept = names & ({*positional} | given(click.get_current_context())) if mode else names  # else its defaults
            config = chosen(**{k: v for k, v in values.items() if k in kept})
            return command(config, **{k: v for k, v in values.items() if k not in options})

        for name, (of, f) in reversed(options.items()):
            if name not in positional:
                with_config = _option(of, f)(with_config)
        return with_config

    return decorate


def _option(cls: type, f: dataclasses.Field[Any]) -> Callable[[F], F]:
    kind, m = value_type(cls, f.name), f.metadata
    multiple, nargs = f.default == (), m["nargs"]
    several = typing.get_args(kind)  # of a tuple
    extra: dict[str, Any] = {"type": several[0] if several else click_type(kind, m)}
    if kind is bool:
        extra = {"is_flag": True}
    return click.option(
        *_declarations(f, kind),
        cls=Setting,
        **{name: m[name] for name in ("section", "aliases", "alias", "advanced", "help", "metavar", "alone")},
        default=f.default,
        show_default=f.default is not None and f.default is not False and f.default != (),
        multiple=multiple,
        nargs=nargs,
        **extra,
    )


def json_option(command: F) -> F:
    """``--json``: one JSON document on stdout instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="print one JSON document on stdout")(command)


def data_argument(command: F) -> F:
    """``[DATA]``, the same as ``--data DIR``."""
    return click.argument("data_dir", metavar="[DATA]", required=False)(command)


BY_TORCHRUN = {
    "--world-size N": "torchrun sets the number of processes",
    "--rank N": "torchrun sets the rank",
    "--dist-url URL": "the rendezvous address is set by torchrun",
    "--multiprocessing-distributed": "start several processes with torchrun --nproc-per-node N -m ssltool ...",
}
DETECTED = {
    "--alg NAME": "the method is read from the checkpoint",
    "--pretrained-distributed": "checkpoints do not depend on the number of processes",
}


def obsolete_flags(flags: dict[str, str]) -> Callable[[F], F]:
    """Hidden flags of the paper's scripts that are not needed; each maps to the reason that its error gives.

    A flag with a value is written with it, as in ``--rank N``.
    """

    def decorate(command: F) -> F:
        for spelling, why in flags.items():
            name, _, value = spelling.partition(" ")

            def refuse(ctx: click.Context, param: click.Parameter, given: object, why: str = why) -> None:
                if given:
                    raise click.UsageError(f"{param.opts[0]} is not a flag of ssltool: {why}; leave it out", ctx=ctx)

            option = click.option(name, is_flag=not value, hidden=True, expose_value=False, callback=refuse)
            command = option(command)
        return command

    return decorate


def config_option(command: F) -> F:
    """``--config``: repeat a run of this command."""
    return click.option(
        "--config",
        "config_file",
        cls=Setting,
        section="Run",
        metavar="FILE",
        help="take the settings from another run's config.json, or from a row of a table (runs.csv:3); options given "
        "here take precedence",
    )(command)


def given(ctx: click.Context) -> set[str]:
    """Names of the parameters that are on the command line."""
    return {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def with_data(config: Any, data_dir: str | None) -> Any:
    """``config`` with the positional argument DATA.

    Raises:
        click.UsageError: if DATA and ``--data`` are both given.
    """
    if data_dir is None:
        return config
    if config.data is not None:
        raise click.UsageError("DATA is given twice, as an argument and as --data")
    return dataclasses.replace(config, data=data_dir)


def with_file(ctx: click.Context, config: Any, data_dir: str | None, config_file: str | None) -> Any:
    """``config`` with the positional DATA, and the settings of ``--config`` that are not on the command line."""
    config = with_data(config, data_dir)
    if config_file is None:
        return config
    from ssltool.runs.repeat import read_settings, repeat

    stage = str(ctx.command.name)
    names = given(ctx) | ({"data"} if data_dir is not None else set())
    return repeat(config, config_file, read_settings(config_file, stage, type(config)), stage, names)
