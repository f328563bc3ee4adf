# %% [markdown]
# # My own method, as a plug-in
#
# A method is a class with a `forward` that returns a loss. In a file of your own it becomes a `--method` for every
# command. This one pulls the two views together and decorrelates the dimensions of the batch, by one option.

# %%
set -e
cat >my_ssl.py <<'END'
from dataclasses import dataclass

import torch
from torch import nn

from ssltool.methods import METHODS, Entry
from ssltool.methods.base import Method, Output
from ssltool.methods.options import MethodOptions
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather


@dataclass(frozen=True)
class Options(MethodOptions):
    whiten: float = setting(20.0, "weight of the term that makes the covariance of the batch the identity", minimum=0)


class Mine(Method):
    Options = Options

    def __init__(self, backbone: nn.Module, dim: int, options: Options, run: object) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, 64, 32])

    def forward(self, batch):
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        loss = (z1 - z2).square().mean()
        for z in (z1, z2):
            loss = loss + self.options.whiten * (torch.cov(z.T) - torch.eye(32)).square().mean()
        return Output(loss, z1.detach())


METHODS.add("mine", Entry(Mine, 2026, "0000.00000", prevents="a covariance near the identity", needs="two views"))
END

# %% [markdown]
# The option turns the term off, for comparison.

# %%
training="--plugin my_ssl.py -a resnet18_w4 --stem small-stride2 --image-size 16 --method mine --lr 0.4
  --epochs 3 --steps-per-epoch 12 -b 64 --monitor-size 512"
ssltool pretrain $training -o whitened
ssltool pretrain $training --set whiten=0 -o attraction
ssltool plot curves whitened attraction -o own-method.png

# %% [markdown]
# ## What to see
#
# With the term the monitor says *healthy*, and the backbone uses about three times as many dimensions as without it,
# where it says *partial collapse* while the loss falls to 0. The accuracies (at the lower right) hardly differ after
# so few steps: a flat spectrum alone is no good representation. `save-reprs`, `knn`, `lincls` and the other commands
# take the same `--plugin my_ssl.py`.
