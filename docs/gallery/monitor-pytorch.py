# %% [markdown]
# # The monitor in a plain PyTorch loop
#
# `ssltool.Monitor` watches any training: it embeds the same held-out images every few steps and judges each layer.
# Here the loss pulls the two views of an image together. A second term is to keep the covariance of the projections
# near the identity, but its weight is small, and after 60 steps it is dropped, as by a wrong schedule.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import ssltool
from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx

pixels = read_idx(FOLDER / "t10k-images-idx3-ubyte.xz")
images = torch.tensor(pixels[:, None] / 255, dtype=torch.float32).expand(-1, 3, -1, -1)
train, held_out = images[:1500], images[1500:]

# %% [markdown]
# The loop is an ordinary one. The monitor is two lines: `Monitor(...)` before it, and `monitor.step(...)` in it.


# %%
def view(batch: torch.Tensor) -> torch.Tensor:
    """Another brightness for each image, and noise."""
    return 2 * torch.rand(len(batch), 1, 1, 1) * batch + 0.5 * torch.randn_like(batch)


def distance_to_identity(z: torch.Tensor) -> torch.Tensor:
    return (torch.cov(z.T) - torch.eye(z.shape[1])).square().mean()


torch.manual_seed(0)
backbone = nn.Sequential(
    *(nn.Conv2d(3, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
projector = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
optimizer = torch.optim.Adam([*backbone.parameters(), *projector.parameters()], lr=0.02)
monitor = ssltool.Monitor(held_out, {"backbone": backbone, "projector": projector}, every=10)

checks = []
for step in range(121):
    batch = train[torch.randint(len(train), (64,))]
    z1, z2 = (projector(backbone(view(batch))) for _ in range(2))
    loss = (z1 - z2).square().mean()
    if step < 60:
        loss = loss + distance_to_identity(z1) + distance_to_identity(z2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    check = monitor.step(step, loss)
    if check is not None:
        checks.append(check)
        print(check, *check.warnings, sep="\n  ")

# %% [markdown]
# ## What to see
#
# The loss only improves, and is 0 as soon as the second term is gone. The spread of the projections, `feature_std`,
# shows what happens: it rises in the first steps, and then falls, as the outputs for all images become alike. The
# grey part is where the monitor no longer said *healthy*, and it warned once, at its beginning. The backbone keeps
# its spread: this collapse is one of the projector. Remedies are a larger weight, a predictor with a stop-gradient,
# or negatives.

# %%
steps = [check.step for check in checks]
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
axes[0].plot(steps, [check.record["loss"] for check in checks], "k-o")
axes[1].plot(steps, [check.record["projector_feature_std"] for check in checks], "-o", label="projector")
axes[1].plot(steps, [check.record["backbone_feature_std"] for check in checks], "--s", label="backbone")
for axis, title in zip(axes, ("loss", "feature_std: 1 isotropic, 0 collapsed"), strict=True):
    for check in checks:
        if check.state != "healthy":
            axis.axvspan(check.step - 5, check.step + 5, color="0.9", linewidth=0)
    axis.set(title=title, xlabel="step")
axes[1].legend()
figure.savefig("monitor-pytorch.png")
