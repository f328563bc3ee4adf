"""``ssltool cache``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, data_argument, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import CacheConfig


@click.command("cache", cls=Command)
@data_argument
@settings(CacheConfig)
@json_option
def command(config: CacheConfig, data_dir: str | None, as_json: bool) -> None:
    """Decode the image files in DATA once, and write them to the folder of a cache.

    The shorter side of larger images is reduced to --size. The cache is read by --cache, beside the same DATA, or is
    given as DATA itself, without the files. It takes three bytes for each pixel.

    If it is interrupted, re-run the command to continue.

    \b
    ssltool cache /data/imagenet -o /fast/imagenet-256 --split both
    ssltool pretrain /data/imagenet --cache /fast/imagenet-256 -a resnet18
    ssltool lincls /fast/imagenet-256 --pretrained run/checkpoint.pt
    """
    from ssltool.stages.cache import run

    written = run(with_data(config, data_dir))
    rows = [[one["path"], one["split"], one["images"], one["corrupt"], round(one["bytes"] / 1e6, 1)] for one in written]
    emit({"files": written}, table(rows, ["file", "split", "images", "corrupt", "MB"]), as_json)
