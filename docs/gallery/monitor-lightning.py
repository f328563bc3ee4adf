# %% [markdown]
# # The monitor in Lightning, which stops a collapsed training
#
# `CollapseMonitor` is a callback. It takes the images of the first validation dataloader, sends its metrics to the
# loggers, and ends the training with `stop_on`. It needs `pip install 'ssltool[lightning]'`.

# %%
import matplotlib.pyplot as plt
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx
from ssltool.integrations.lightning import CollapseMonitor

pixels = read_idx(FOLDER / "t10k-images-idx3-ubyte.xz")
images = torch.tensor(pixels[:, None] / 255, dtype=torch.float32).expand(-1, 3, -1, -1)


# %%
class Method(lightning.LightningModule):
    """Pulls the two views of an image together; nothing prevents that all outputs become equal."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.projector = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def training_step(self, batch, batch_idx):
        z1, z2 = (self.projector(self.backbone(batch[0] + torch.randn_like(batch[0]))) for _ in range(2))
        return -nn.functional.cosine_similarity(z1, z2).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)


# %% [markdown]
# The training could take 300 steps. `stop_on="complete"` ends it at the first look that finds a complete collapse.
# The loss at which that happens, -1, is that of equal outputs; named as a constant loss, it is given as the probable
# cause.

# %%
lightning.seed_everything(0)
layers = {"backbone": "backbone", "projector": "projector"}
watch = CollapseMonitor(layers, every=5, stop_on="complete", constant_losses=(-1.0,))
off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = lightning.Trainer(max_steps=300, callbacks=[watch], accelerator="cpu", num_sanity_val_steps=0, **off)
train = DataLoader(TensorDataset(images[:1500]), batch_size=64, shuffle=True)
trainer.fit(Method(), train, DataLoader(TensorDataset(images[1500:]), batch_size=64))
print("stopped at step", trainer.global_step, "of 300:", watch.checks[-1], *watch.checks[-1].warnings)

# %% [markdown]
# ## What to see
#
# The training ends at step 10 instead of 300: `feature_std` of the projections is below 0.05, which means that the
# outputs for all images have nearly one direction, and the loss is almost -1, the value of equal outputs. In the
# picture the largest singular value runs away from the others within these steps. The first look, at step 0, is one
# at an untrained network; it is not judged, but the later ones are compared with it.

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for check, style in zip(watch.checks, ("-", "--", ":", "-."), strict=False):
    spectrum = check.spectra["projector"]
    axis.semilogy(range(1, len(spectrum) + 1), spectrum, style, label=f"step {check.step}")
axis.set(title="spectrum of the projections", xlabel="singular value", ylabel="size")
axis.legend()
figure.savefig("monitor-lightning.png")
