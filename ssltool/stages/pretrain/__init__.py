"""The pretrain stage: ``run`` trains, ``plan`` describes a run without training."""

from ssltool.stages.pretrain.dry_run import plan
from ssltool.stages.pretrain.pretrain import run

__all__ = ["plan", "run"]
