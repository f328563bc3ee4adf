"""``ssltool export``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import ExportConfig


@click.command("export", cls=Command)
@click.argument("checkpoint", metavar="CKPT")
@settings(ExportConfig, positional=("checkpoint",))
@json_option
def command(config: ExportConfig, as_json: bool) -> None:
    """Convert the backbone of the checkpoint CKPT, of ssltool or another library, for another library.

    torchvision and timm get the weights without a classifier; simsiam gets a checkpoint for the official
    main_lincls.py. The last line of the table shows how to load the file.

    \b
    ssltool export run/checkpoint.pt --to torchvision
    ssltool export run/checkpoint.pt --to timm -o backbone.safetensors
    ssltool export vicreg/model.pth --to simsiam -o vicreg.pth.tar --json
    """
    from ssltool.stages.export import run

    result = run(config)
    rows = [
        ["written", f"{result['path']}, {result['tensors']:,} tensors of {result['arch']} for {result['to']}"],
        ["sha256", result["sha256"]],
        ["load", result["load"]],
    ]
    emit(result, table(rows), as_json)
