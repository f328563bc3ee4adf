"""``ssltool save-reprs``."""

from __future__ import annotations

import click

from ssltool.cli.flags import DETECTED, Command, data_argument, gone, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import SaveReprsConfig


@click.command("save-reprs", cls=Command)
@data_argument
@settings(SaveReprsConfig)
@json_option
@gone(
    DETECTED
    | {"--seed N": "views and samples are drawn by the run's own seed", "--epochs N": "one pass is all there is"}
)
def command(config: SaveReprsConfig, data_dir: str | None, as_json: bool) -> None:
    """Save what a pretrained network makes of a dataset: one row per image, with its label.

    Architecture, dataset, stem and image size come from the checkpoint unless given. Images go through the validation
    transform, the network is in eval mode. --layer backbone is what the field evaluates. With --views Q there are Q
    rows an image, (N, Q, D), of augmented views as in the run: what alignment and lidar look at. With --tokens patch or
    --pool none there is a row for each place of an image.

    A run that is stopped goes on where it was when the same line is started again. Under torchrun each rank writes a
    file of its own, and all together hold each image once.

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
