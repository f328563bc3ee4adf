# %% [markdown]
# # The paper's notebook, question by question
#
# The notebook `plot_collapse.ipynb` of [Li, Efros and Pathak](https://arxiv.org/abs/2209.15007) loads spectra and
# plots them. Here its four questions are asked of four runs: two widths of a ResNet-18, each trained on all images
# and on one twentieth of them (`strategy="last"`, `chunk_size=5`). Each trains for 40 steps, so no figure of the
# paper is to be expected: this shows how to ask.

# %%
import matplotlib.pyplot as plt
import torch

import ssltool

network = {"stem": "small-stride2", "image_size": 16, "options": {"dim": 64, "pred_dim": 16, "fix_pred_lr": True}}
steps = {"epochs": 4, "steps_per_epoch": 10, "batch_size": 64, "lr": 1.0}
monitor = {"monitor_size": 512, "monitor_every": 4}
found = {}
for arch in ("resnet18_w4", "resnet18_w8"):
    for name, data in (("all", {}), ("5 %", {"strategy": "last", "chunk_size": 5})):
        out = f"{arch}-{name.replace(' %', '')}"
        ssltool.pretrain(arch=arch, **network, **steps, **monitor, **data, out=out)
        files = ssltool.save_reprs(pretrained=f"{out}/checkpoint.pt", split="both", out=out)
        accuracy = ssltool.knn(bank=files[0].path, queries=files[1].path, k=20).accuracy
        table = ssltool.collapse(files=[files[0].path]).table
        spectrum = torch.load(f"{out}/train_reprs_e0_svd.pt")["stds"]
        found[f"{arch[9:]}, {name}"] = (spectrum, float(table["auc"].iloc[0]), accuracy)

# %% [markdown]
# 1. What are the singular values of the centred representations of the train images?
# 2. How fast do they fall, relative to the largest?
# 3. Which share of their sum have the first j of them? The area under this curve (AUC) is the paper's measure: 1 is a
#    complete collapse, and just above 0.5 a flat spectrum.
# 4. How do AUC and accuracy go together?

# %%
figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained")
first, second, third, fourth = axes.flat
for (name, (s, auc, accuracy)), style in zip(found.items(), ("C0-", "C0--", "C1-", "C1--"), strict=True):
    s = torch.as_tensor(s)
    rank = torch.arange(1, len(s) + 1)
    first.semilogy(rank, s, style, label=name)
    second.semilogy(rank / len(s), s / s[0], style)
    third.plot(rank / len(s), s.cumsum(0) / s.sum(), style, label=f"{name}: AUC {auc:.2f}")
    fourth.plot(auc, accuracy, style[:2] + ("o" if style.endswith("-") and len(style) == 3 else "s"))
    fourth.annotate(name, (auc, accuracy), textcoords="offset points", xytext=(5, 3), fontsize=8)
first.set(title="1. singular values", xlabel="number")
second.set(title="2. relative to the largest", xlabel="share of the dimensions")
third.set(title="3. cumulative share", xlabel="share of the dimensions")
fourth.set(title="4. 20-NN accuracy", xlabel="AUC")
fourth.margins(0.25)
first.legend(fontsize=8)
third.legend(fontsize=8)
figure.savefig("plot-collapse.png")

# %% [markdown]
# ## What to see
#
# At both widths the spectrum of the run on all images falls faster than that of the run on 5 %, and its AUC is
# higher: the direction that the paper describes for networks that are small for their data. With 40 steps and one
# seed this is an illustration, no evidence. The fourth panel warns of a wrong comparison: over both widths a higher
# AUC goes with a *higher* accuracy, because the wider network is better. AUC compares networks of one architecture,
# and longer trainings. [A study](../study.md) asks the paper's questions with enough runs.
