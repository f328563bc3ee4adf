"""The time of a pretraining epoch inside and outside the model, on images in memory.

    python benchmarks/epoch.py [flags of ssltool pretrain]

Runs one epoch with the given settings and prints the share of the time spent outside the model's forward pass, backward
pass and optimiser step: augmentation, logging, saving. The default is a narrow ResNet-18 on the bundled images, a fast
model for which this share is large.
"""

from __future__ import annotations

import sys
import tempfile
import time

import click

import ssltool.stages.pretrain.pretrain as stage
from ssltool.cli.flags import settings
from ssltool.config import PretrainConfig

DEFAULTS = ["-a", "resnet18_w16", "--stem", "small-stride2", "-b", "256", "--epochs", "1"]


@click.command(context_settings={"token_normalize_func": lambda s: s.replace("_", "-")})
@settings(PretrainConfig)
def main(config: PretrainConfig) -> None:
    inside = 0.0
    step = stage.Pretraining.step

    def timed(self, batch):
        nonlocal inside
        start = time.perf_counter()
        loss = step(self, batch)
        inside += time.perf_counter() - start
        return loss

    stage.Pretraining.step = timed
    run = stage.Pretraining.train

    def whole(self):
        nonlocal total
        start = time.perf_counter()
        folder = run(self)
        total = time.perf_counter() - start
        return folder

    total = 0.0
    stage.Pretraining.train = whole
    stage.pretrain(config)
    print(f"{config.arch}: {total:.2f} s, {inside:.2f} s in forward, backward and optimiser step")
    print(f"outside the model {1 - inside / total:.2%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main([*DEFAULTS, "--out", f"{folder}/run", *sys.argv[1:]])
