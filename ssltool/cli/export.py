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
    """Write the backbone of the checkpoint CKPT, of ssltool or another program, for other programs.

    torchvision, timm and simsiam are for networks that these have; huggingface is a folder for transformers or timm.
    The others take any network: torchscript and onnx run without its code, safetensors has a description that ssltool
    reads back, and state_dict comes with code that builds the network. What is not exactly the same is refused. The
    printed code loads the file without ssltool.

    \b
    ssltool export run/checkpoint.pt --to torchvision
    ssltool export run/checkpoint.pt --to timm -o backbone.safetensors
    ssltool export run/checkpoint.pt --to huggingface -o backbone/
    ssltool export run/checkpoint.pt --to onnx
    """
    from ssltool.stages.export import run

    result = run(config)
    rows = [
        ["written", f"{result['path']}, {result['tensors']:,} tensors of {result['arch']} for {result['to']}"],
        ["sha256", result["sha256"]],
    ]
    emit(result, f"{table(rows)}\n\n{result['load']}", as_json)
