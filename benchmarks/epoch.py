"""The time of a pretraining epoch inside and outside the model, on images in memory.

    python benchmarks/epoch.py [flags of ssltool pretrain]

Runs one epoch with the given settings and prints the shares of the time outside the model's forward pass, backward
pass and optimiser step: the looks of the monitor, at the untrained network and after the epoch, and the rest, which is
augmentation, logging and saving. The default is a narrow ResNet-18 on the bundled images, a fast model for which these
shares are large.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import click

import ssltool.stages.pretrain.pretrain as stage
from ssltool.cli.flags import settings
from ssltool.config import PretrainConfig
from ssltool.stages.pretrain.epoch_monitor import EpochMonitor

DEFAULTS = ["-a", "resnet18_w16", "--stem", "small-stride2", "-b", "256", "--epochs", "1"]


@click.command(context_settings={"token_normalize_func": lambda s: s.replace("_", "-")})
@settings(PretrainConfig)
def main(config: PretrainConfig) -> None:
    spent = dict.fromkeys(("model", "monitor", "total"), 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = function(*given, **named)
            spent[name] += time.perf_counter() - start
            return result

        return wrapped

    stage.Pretraining.step = timed("model", stage.Pretraining.step)
    stage.Pretraining.train = timed("total", stage.Pretraining.train)
    EpochMonitor.check = timed("monitor", EpochMonitor.check)
    stage.run(config)
    model, monitor, total = spent.values()
    print(f"{config.arch}: {total:.2f} s, {model:.2f} s in forward, backward and optimiser step")
    print(f"the monitor {monitor / total:.1%}, the rest {1 - (model + monitor) / total:.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main([*DEFAULTS, "--out", f"{folder}/run", *sys.argv[1:]])
