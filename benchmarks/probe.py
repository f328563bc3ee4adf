"""The linear probe compared with scikit-learn, separate runs, and the paper's script: time and peak memory.

    python benchmarks/probe.py [--rows 50000] [--width 512] [--classes 10,100] [--epochs 10] [--threads 1]

Each implementation runs in its own process. ``seconds`` is the processor time of all threads, which other programs on
the machine affect little; report ratios of one run. ``memory`` is the peak without the imported torch and scikit-learn
and the pages of the mapped file. Three tables:

- Logistic regression, C 1, on float32 rows in overlapping clusters; the scales of the dimensions span two decades.
  ``objective`` is the mean loss with its penalty, in float64, at the returned solution: lower is closer to the optimum.
- SGD on the same rows, batches of 256: eight learning rates in one pass, and in separate runs.
- Images: the bundled ones and a narrow ResNet-18 after one step. First as in the paper's main_lincls.py (the frozen
  network in every epoch, one rate, losses and accuracies copied to the host in every step), then one rate and eight
  rates with ssltool, then the network once (save-reprs) and eight rates on its output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from collapse import Watch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from ssltool.checkpoints.load import load_pretrained
from ssltool.config import LinclsConfig, PretrainConfig, SaveReprsConfig
from ssltool.data import views
from ssltool.data.labels import open_labelled
from ssltool.data.loader import Loader
from ssltool.reprs.representations import Representations
from ssltool.stages import lincls
from ssltool.stages.lincls import logistic_regression
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.save_reprs import run as save_reprs
from ssltool.training.classification import epoch_order

RATES = "0.03,0.1,0.3,1,3,10,30,100"
BATCH = 256


def rows_of(folder: Path, name: str = "train") -> tuple[Tensor, Tensor]:
    """The rows and labels of a file."""
    stored = Representations.load(folder / f"{name}.pt")
    return stored.representations, stored.targets


def ours(folder: Path, epochs: int) -> Any:
    """``ssltool``'s logistic regression."""
    fit = logistic_regression(*rows_of(folder))
    return {"iterations": fit.iterations, "objective": objective(folder, fit.weight, fit.bias)}


def scikit(folder: Path, epochs: int) -> Any:
    """scikit-learn's logistic regression, with the same tolerance."""
    x, y = rows_of(folder)
    fit = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy())
    weight, bias = torch.from_numpy(fit.coef_).double(), torch.from_numpy(fit.intercept_).double()
    return {"iterations": int(fit.n_iter_[0]), "objective": objective(folder, weight, bias)}


def objective(folder: Path, weight: Tensor, bias: Tensor) -> Any:
    """The minimised objective divided by the number of rows, as a function, so that its time is not measured."""

    def value() -> float:
        x, y = rows_of(folder)
        loss = sum(
            float(nn.functional.cross_entropy(part.double() @ weight.T + bias, labels, reduction="sum"))
            for part, labels in zip(x.split(8192), y.split(8192), strict=True)
        )
        return (float(weight.square().sum()) / 2 + loss) / len(x)

    return value


def on_rows(folder: Path, epochs: int, out: str, **settings: Any) -> None:
    """Runs ``ssltool lincls --reprs`` on the files."""
    files = (str(folder / "train.pt"), str(folder / "val.pt"))
    common = {"device": "cpu", "epochs": epochs, "batch_size": BATCH, "out": str(folder / out), "overwrite": True}
    lincls.run(LinclsConfig(reprs=files, **common, **settings))


def together(folder: Path, epochs: int) -> None:
    """Eight rates in one pass."""
    on_rows(folder, epochs, "together", lr_sweep=RATES)


def apart(folder: Path, epochs: int) -> None:
    """Eight rates, one run each."""
    for rate in RATES.split(","):
        on_rows(folder, epochs, "apart", lr_sweep=rate)


def of_images(folder: Path, epochs: int) -> LinclsConfig:
    """The probe on the bundled images."""
    checkpoint = str(folder / "run" / "checkpoint.pt")
    common = {"device": "cpu", "epochs": epochs, "batch_size": BATCH, "overwrite": True}
    return LinclsConfig(pretrained=checkpoint, out=str(folder / "images"), **common)


def paper(folder: Path, epochs: int) -> None:
    """One rate as main_lincls.py goes about it, the images and crops being this project's."""
    config = of_images(folder, epochs)
    device = torch.device("cpu")
    network = load_pretrained(config, device)
    train, val = open_labelled(config)
    model = nn.Sequential(network.method.backbone, nn.Linear(network.method.backbone_dim, 10)).eval()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1, momentum=0.9)
    loader, scored = Loader(train, network.preprocessing, device), Loader(val, network.preprocessing, device)
    for epoch in range(epochs):
        order = epoch_order(len(train), config.seed, epoch)
        for batch in loader.train(order, [views.PROBE], batch_size=BATCH, seed=config.seed, epoch=epoch):
            logits = model(batch.views[0])
            loss = nn.functional.cross_entropy(logits, batch.labels)
            loss.item()
            (logits.topk(5).indices == batch.labels[:, None]).sum().item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for batch in scored.evaluate(256):
                (model(batch.views[0]).topk(5).indices == batch.labels[:, None]).sum().item()


def one_rate(folder: Path, epochs: int) -> None:
    """One rate on images."""
    lincls.run(of_images(folder, epochs))


def eight_rates(folder: Path, epochs: int) -> None:
    """Eight rates on images in one pass."""
    lincls.run(dataclasses.replace(of_images(folder, epochs), lr_sweep=RATES))


def saved_first(folder: Path, epochs: int) -> None:
    """Saves the network's output, then trains with eight rates on it."""
    config = of_images(folder, epochs)
    out = str(folder / "saved")
    save_reprs(SaveReprsConfig(pretrained=config.pretrained, split="both", out=out, device="cpu"))
    files = (f"{out}/train_reprs_e0.pt", f"{out}/val_reprs_e0.pt")
    common = {"device": "cpu", "epochs": epochs, "batch_size": BATCH, "overwrite": True}
    lincls.run(LinclsConfig(reprs=files, lr_sweep=RATES, out=str(folder / "probe"), **common))


Way = Callable[[Path, int], Any]
OPTIMA: dict[str, Way] = {"ssltool": ours, "scikit-learn": scikit}
PASSES: dict[str, Way] = {"eight at once": together, "eight runs": apart}
IMAGES: dict[str, Way] = {"paper": paper, "one rate": one_rate, "eight rates": eight_rates, "saved first": saved_first}
WAYS = OPTIMA | PASSES | IMAGES


def work(way: str, folder: Path, epochs: int) -> None:
    """Runs one implementation in this process; prints seconds, bytes and its other results."""
    watch = Watch()
    watch.start()
    start = time.process_time()
    found = WAYS[way](folder, epochs) or {}
    seconds = time.process_time() - start
    watch.stopped.set()
    found = {key: value() if callable(value) else value for key, value in found.items()}
    print(json.dumps({"seconds": seconds, "memory": watch.most - watch.start_at, **found}))


def make(folder: Path, n: int, d: int, classes: int) -> None:
    """Writes the data: overlapping clusters whose dimensions decrease in scale."""
    generator = torch.Generator().manual_seed(0)
    centres = 0.12 * torch.randn(classes, d, generator=generator)
    scale = torch.logspace(0, -2, d)
    for name, count in (("train", n), ("val", n // 10)):
        labels = torch.randint(classes, (count,), generator=generator)
        x = (torch.randn(count, d, generator=generator) + centres[labels]) * scale
        Representations(x, labels, torch.arange(count), {"split": name}).save(folder / f"{name}.pt")


def compare(title: str, ways: dict[str, Way], folder: Path, epochs: int, threads: int) -> None:
    """Prints a row of the table for each implementation, with ratios to the first."""
    base = None
    for way in ways:
        line = [sys.executable, __file__, "--threads", str(threads), "--epochs", str(epochs)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        done = subprocess.run([*line, "--worker", way, str(folder)], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        base = base or found["seconds"]
        more = [str(found.get("iterations", "")), f"{found['objective']:.5f}" if "objective" in found else ""]
        cells = [
            title,
            way,
            f"{found['seconds']:.1f}",
            f"{found['seconds'] / base:.2f}",
            f"{found['memory'] / 1e9:.2f}",
        ]
        print(f"| {' | '.join(cells + more)} |", flush=True)


@click.command(help=__doc__)
@click.option("--rows", default=50_000)
@click.option("--width", default=512)
@click.option("--classes", default="10,100")
@click.option("--epochs", default=10)
@click.option("--threads", default=1)
@click.option("--worker", nargs=2, hidden=True)
def main(rows: int, width: int, classes: str, epochs: int, threads: int, worker: tuple[str, str] | None) -> None:
    """Runs all implementations."""
    torch.set_num_threads(threads)
    if worker:
        work(worker[0], Path(worker[1]), epochs)
        return
    header = ["data", "implementation", "seconds", "ratio", "memory, GB", "iterations", "objective"]
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in map(int, classes.split(",")):
            make(folder, rows, width, count)
            compare(f"{rows:,} x {width}, {count} classes", OPTIMA, folder, epochs, threads)
            compare(f"{rows:,} x {width}, {count} classes, {epochs} epochs", PASSES, folder, epochs, threads)
        small = {"arch": "resnet18_w16", "stem": "small-stride2", "dim": 64, "pred_dim": 16, "monitor_every": 0}
        brief = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 32, "device": "cpu", "out": str(folder / "run")}
        pretrain(PretrainConfig(**small, **brief))
        compare(f"8,000 images, {epochs} epochs", IMAGES, folder, epochs, threads)


if __name__ == "__main__":
    main()
