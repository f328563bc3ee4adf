"""``ssltool save-reprs``."""

from __future__ import annotations

import click

from ssltool.cli.flags import DETECTED, Command, data_argument, json_option, obsolete_flags, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import SaveReprsConfig


@click.command("save-reprs", cls=Command, ranks=True)
@data_argument
@settings(SaveReprsConfig)
@json_option
@obsolete_flags(
    DETECTED | {"--seed N": "views and samples use the run's own seed", "--epochs N": "representations need one pass"}
)
def command(config: SaveReprsConfig, data_dir: str | None, as_json: bool) -> None:
    """Compute the representations of a dataset with a pretrained network and save them: one row per image, with its
    label.

    Architecture, dataset, stem and image size are the checkpoint's unless given. Images are preprocessed with the
    validation transform, and the network is in eval mode. --layer backbone is the usual choice for evaluation.
    --views Q saves Q rows per image, (N, Q, D), of augmented views as in the run, for alignment and lidar. --tokens
    patch and all save a row for each position of an image, with its place.

    If it is interrupted, re-run the command to continue. Under torchrun each rank writes its own file, and
    each image is in one of them.

    \b
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --split both
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --split val -o val.pt
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --views 9 --sample 100 -o views.pt
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --layer backbone.layer3 -o l3.pt
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --format parquet -o train.parquet
    """
    from ssltool.stages.save_reprs import run
    from ssltool.training.distributed import is_main

    written = run(with_data(config, data_dir))
    if not is_main():
        return
    rows = [[w["path"], w["split"], w["layer"], w["n"], w["d"]] for w in written]
    emit({"files": written}, table(rows, ["file", "split", "layer", "rows", "width"]), as_json)
