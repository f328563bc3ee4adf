# %% [markdown]
# # The monitor in Lightning, which stops a collapsed training
#
# `CollapseMonitor` is a callback. It takes the images of the first validation dataloader, sends its metrics to the
# loggers, and ends the training with `stop_on`. It needs `pip install 'ssltool[lightning]'`.

# %%
import gzip

import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssltool.data.bundled import FOLDER
from ssltool.integrations.lightning import CollapseMonitor

pixels = np.frombuffer(gzip.decompress((FOLDER / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
images = torch.tensor(pixels.reshape(-1, 1, 28, 28) / 255, dtype=torch.float32).expand(-1, 3, -1, -1)


# %%
class Method(lightning.LightningModule):
    """Pulls the two views of an image together. A weak term against collapse ends after 60 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.projector = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))

    def training_step(self, batch, batch_idx):
        z1, z2 = (self.projector(self.backbone(self.view(batch[0]))) for _ in range(2))
        loss = (z1 - z2).square().mean()
        if self.global_step < 60:
            loss = loss + sum((torch.cov(z.T) - torch.eye(16)).square().mean() for z in (z1, z2))
        return loss

    def view(self, batch):
        """Another brightness for each image, and noise."""
        return 2 * torch.rand(len(batch), 1, 1, 1) * batch + 0.5 * torch.randn_like(batch)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


# %% [markdown]
# The training could take 300 steps. `stop_on="partial"` ends it at the first look that finds a collapse.

# %%
lightning.seed_everything(0)
watch = CollapseMonitor({"backbone": "backbone", "projector": "projector"}, every=20, stop_on="partial")
off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_steps=300, callbacks=[watch], accelerator="cpu", num_sanity_val_steps=0, **off)
train = DataLoader(TensorDataset(images[:1500]), batch_size=64, shuffle=True)
trainer.fit(Method(), train, DataLoader(TensorDataset(images[1500:]), batch_size=64))
print("stopped at step", trainer.global_step, "of 300:", watch.checks[-1])

# %% [markdown]
# ## What to see
#
# Each line is the spectrum of the projections at one look, from the first (light) to the last (dark). The singular
# values fall together, and one direction stays far above the others. Then the callback stops the training, long
# before its 300 steps.

# %%
figure, axis = plt.subplots(figsize=(5, 3.2), layout="constrained")
for number, check in enumerate(watch.checks):
    shade = plt.cm.viridis_r((number + 1) / len(watch.checks))
    axis.semilogy(range(1, 17), check.spectra["projector"], color=shade, label=f"step {check.step}: {check.state}")
axis.set(title="spectrum of the projections", xlabel="singular value", ylabel="size")
axis.legend(fontsize=8, ncols=2)
figure.savefig("monitor-lightning.png")
