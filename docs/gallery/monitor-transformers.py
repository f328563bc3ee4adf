# %% [markdown]
# # The monitor in the Trainer of transformers
#
# `CollapseMonitor` of `ssltool.integrations.transformers` is a `TrainerCallback`. Its values go through
# `Trainer.log`, and so to TensorBoard or Weights & Biases. It needs `pip install 'ssltool[transformers]'`.

# %%
import matplotlib.pyplot as plt
import torch
import transformers
from torch import nn

import ssltool
from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx
from ssltool.integrations.transformers import CollapseMonitor

pixels = read_idx(FOLDER / "t10k-images-idx3-ubyte.xz")
images = torch.tensor(pixels[:, None] / 255, dtype=torch.float32).expand(-1, 3, -1, -1)
rows = [{"pixel_values": image} for image in images]


# %%
class SimSiam(nn.Module):
    """A small ViT with the loss of SimSiam, with its stop-gradient or without."""

    def __init__(self, stop_gradient: bool) -> None:
        super().__init__()
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.ViTConfig(image_size=28, patch_size=7, **sizes)
        self.vit = transformers.ViTModel(config, add_pooling_layer=False)
        self.projector = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.predictor = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 32))
        self.stop_gradient = stop_gradient

    def forward(self, pixel_values):
        views = (pixel_values + 0.3 * torch.randn_like(pixel_values) for _ in range(2))
        z1, z2 = (self.projector(self.vit(view).last_hidden_state[:, 0]) for view in views)
        target = z2.detach() if self.stop_gradient else z2
        return {"loss": -nn.functional.cosine_similarity(self.predictor(z1), target).mean()}


# %% [markdown]
# Two trainings, one without the stop-gradient. Each writes its looks into a folder, which `read_run`, `ssltool
# plot`, `ssltool rank` and `ssltool watch` read.

# %%
for name, stop_gradient in (("with", True), ("without", False)):
    transformers.set_seed(0)
    model = SimSiam(stop_gradient)
    arguments = transformers.TrainingArguments(
        "trained", max_steps=60, per_device_train_batch_size=64, learning_rate=0.003, report_to=[], use_cpu=True
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows[:1500], eval_dataset=rows[1500:])
    layers = {"backbone": lambda x, vit=model.vit: vit(x).last_hidden_state[:, 0], "projector": model.projector}
    trainer.add_callback(CollapseMonitor(trainer, layers, every=10, out=name))
    trainer.train()

# %% [markdown]
# ## What to see
#
# At step 0 both have the untrained projector, whose outputs are nearly equal for all images. Training spreads them
# more with the stop-gradient than without, and the rank stays higher. Without it about three directions are left, and
# the monitor says *partial*. The curves go up and down, and differ with the number of threads, as short trainings of a
# ViT do.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
for name, style in (("with", "-o"), ("without", "--s")):
    looks = ssltool.read_run(name)
    for axis, metric in zip(axes, ("feature_std", "effective_rank"), strict=True):
        axis.plot(looks["step"], looks[f"projector_{metric}"], style, label=f"{name} stop-gradient")
        axis.set(title=f"{metric} of the projections", xlabel="step", ylim=(0, None))
axes[0].legend()
figure.savefig("monitor-transformers.png")
