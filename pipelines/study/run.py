"""One run of the study, or what is missing of it:  python pipelines/study/run.py RUN --data DIR --out DIR

Pretrains as the row RUN of runs.csv says, saves representations of fixed images at fixed epochs, and measures them. The
measures of an epoch are a line of OUT/RUN/rows.jsonl, and the singular values are in OUT/RUN/spectra.npz; both are
replaced as a whole. A run that was killed goes on from its newest checkpoint and its last line; one that is complete is
left alone. A run that diverges is measured up to its last checkpoint, and OUT/RUN/diverged.txt says where it stopped.
DATA has the folders of prepare.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import ssltool

RUNS = Path(__file__).with_name("runs.csv")
OF_THE_STUDY = ("run", "part", "data", "images", "parent", "parent_epochs")
"""Columns of runs.csv that are no settings of pretrain."""

MEASURED = (0, 1, 2, 4, 8, 12, 16)
"""Epochs after which all measures are taken; 0 is the untrained network."""

BANK = 10_000
"""Train images, the same for all runs of a dataset, that are measured and train the probe."""

VIEWED = 500
"""Images of which 10 views are measured."""

OF_VAL = ("auc", "effective_rank", "rankme", "feature_std", "dead_directions")
"""Metrics that are also kept of the val images, which no run has trained on."""

TRAIN_IMAGES = {"fashion": 60_000}


class Run:
    """A row of the table, and its folder."""

    def __init__(self, row: pd.Series, data: Path, out: Path) -> None:
        self.row, self.data, self.out = row, data / row["data"], out
        self.folder = out / row["run"]
        self.rows, self.spectra = self.folder / "rows.jsonl", self.folder / "spectra.npz"
        self.diverged, self.times = self.folder / "diverged.txt", self.folder / "times.jsonl"
        self.train_folder, self.reprs = self.folder / "train", self.folder / "reprs"

    @property
    def epochs(self) -> list[int]:
        """The epochs to measure: of a hybrid, its first one and those after it."""
        first = int(self.row["parent_epochs"]) + 1 if pd.notna(self.row["parent_epochs"]) else 0
        return sorted({first, *(epoch for epoch in MEASURED if first <= epoch <= int(self.row["epochs"]))})

    def missing(self) -> list[int]:
        """The epochs that have no measures yet."""
        done = {line["epoch"] for line in self.lines()}
        left = [epoch for epoch in self.epochs if epoch not in done]
        return [epoch for epoch in left if self.checkpoint(epoch).exists()] if self.diverged.exists() else left

    def lines(self) -> list[dict[str, Any]]:
        """The measures so far."""
        return [json.loads(line) for line in self.rows.read_text().splitlines()] if self.rows.exists() else []

    def checkpoint(self, epoch: int) -> Path:
        """The checkpoint after ``epoch`` epochs; the untrained network is rebuilt from any."""
        return self.train_folder / f"checkpoint_{max(epoch, self.epochs[0], 1) - 1:04d}.pt"

    def all_images(self) -> int:
        """The number of train images of the dataset."""
        return TRAIN_IMAGES.get(self.row["data"]) or len(np.load(self.data / "train.npy", mmap_mode="r"))

    def random_rows(self, name: str, count: int, seed: int) -> Path:
        """A file with the numbers of ``count`` random train images; those of one seed are nested."""
        path = self.out / "subsets" / f"{self.row['data']}-{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.stem}-{os.getpid()}.npy")
            np.save(part, np.sort(np.random.RandomState(seed).permutation(self.all_images())[:count]))
            os.replace(part, path)
        return path

    def train(self) -> None:
        """Trains to the end, from the newest checkpoint if there is one."""
        last = self.checkpoint(int(self.row["epochs"]))
        if last.exists() or self.diverged.exists():
            return
        settings: dict[str, Any] = self.row.drop([*OF_THE_STUDY]).dropna().to_dict()
        settings["options"] = tuple(settings.get("options", "").split())
        if pd.notna(self.row["images"]):
            images, seed = int(self.row["images"]), int(self.row["seed"])
            settings["idx_path"] = self.random_rows(f"n{images}-s{seed}", images, seed)
        settings["resume"] = "auto"
        if pd.notna(self.row["parent"]):
            settings["resume"] = self.parent_checkpoint()
        started, used = time.time(), time.process_time()
        try:
            ssltool.pretrain(
                data=self.data,
                out=self.train_folder,
                save_every=1,
                monitor_size=1024,
                workers=0,
                verbose=True,
                **settings,
            )
        except ssltool.Diverged as error:
            self.diverged.write_text(f"{error}\n")
        spent = {"training_seconds": time.time() - started, "training_cpu_seconds": time.process_time() - used}
        with self.times.open("a") as file:
            file.write(json.dumps(spent) + "\n")

    def parent_checkpoint(self) -> Path:
        """The checkpoint that a hybrid resumes. Its run is trained first if necessary."""
        parent = Run(read_row(self.row["parent"]), self.data.parent, self.out)
        parent.train()
        return parent.checkpoint(int(self.row["parent_epochs"]))

    def measure(self, epoch: int) -> None:
        """Adds the line of ``epoch``."""
        started, used = time.time(), time.process_time()
        shutil.rmtree(self.reprs, ignore_errors=True)
        checkpoint, ends = self.checkpoint(epoch), epoch in (0, int(self.row["epochs"]))
        bank = self.random_rows("bank", BANK, 0)
        line = {"run": self.row["run"], "epoch": epoch, "step": epoch * int(self.row["steps_per_epoch"])}
        found, spectra = measures(checkpoint, self.reprs, bank, untrained=epoch == 0, every=ends)
        line |= found | {"train_images": int(self.row["images"]) if pd.notna(self.row["images"]) else self.all_images()}
        backbone = ssltool.load_backbone(str(checkpoint))
        line |= {"parameters": sum(p.numel() for p in backbone.parameters()), **machine()}
        line |= {"measuring_seconds": time.time() - started, "measuring_cpu_seconds": time.process_time() - used}
        self.keep_spectra({f"epoch{epoch}_{name}": values for name, values in spectra.items()})
        part = self.rows.with_suffix(".part")
        part.write_text("".join(json.dumps(one) + "\n" for one in [*self.lines(), line]))
        os.replace(part, self.rows)
        shutil.rmtree(self.reprs)

    def keep_spectra(self, spectra: dict[str, np.ndarray]) -> None:
        """Adds singular values to the file of them."""
        kept = dict(np.load(self.spectra)) if self.spectra.exists() else {}
        part = self.spectra.with_name("part.npz")
        np.savez_compressed(part, **kept | spectra)
        os.replace(part, self.spectra)


def measures(
    checkpoint: Path, reprs: Path, bank: Path, *, untrained: bool, every: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All measures of a network: of the backbone, of the projector with the prefix ``projector_``, of the backbone on
    the val images with ``val_``, and accuracies; and the singular values of each. If not ``every``, metrics that need
    more than one pass over the rows are left out but ``twonn``."""
    network = {"pretrained": checkpoint, "random": untrained, "idx_path": bank, "workers": 0}
    train, val = (one.path for one in ssltool.save_reprs(split="both", out=reprs, **network))
    files = {"": train, "val_": val}
    sample = min(VIEWED, len(np.load(bank)))
    ssltool.save_reprs(split="train", views=10, sample=sample, out=reprs / "views.pt", **network)
    found = collapse(reprs / "views.pt", "alignment,lidar", "")
    found |= collapse(train, "all", "") if every else collapse(train, None, "") | collapse(train, "twonn", "")
    of_val = collapse(val, None, "")
    found |= {f"val_{name}": of_val[name] for name in OF_VAL}
    if ssltool.load_representations(train).meta["method"] != "supervised":  # whose projector is its classifier
        files["projector_"] = reprs / "projector.pt"
        ssltool.save_reprs(split="train", layer="projector", out=files["projector_"], **network)
        found |= collapse(files["projector_"], None, "projector_")
    found["knn"] = ssltool.knn(bank=train, queries=val, k=20).accuracy
    found |= probe_accuracies(train, val, reprs / "probe")
    spectra = {f"{name}values": singular_values(file) for name, file in files.items()}
    return found, spectra


def probe_accuracies(train: Path, val: Path, out: Path) -> dict[str, float]:
    """Of a linear probe: the accuracy on all val images, the mean of the classes, on the train images, and on the val
    images with even and with odd numbers, of which one half can choose and the other score the choice."""
    probe = ssltool.lincls(reprs=(train, val), solver="lbfgs", out=out)
    saved = torch.load(out / "probe.pt", weights_only=True)
    classes = saved.get("labels", torch.arange(len(saved["weight"])))
    found = {"probe": probe.acc1, "probe_class": probe.class_acc1}
    for name, file, rows in (
        ("probe_train", train, slice(None)),
        ("probe_even", val, slice(0, None, 2)),
        ("probe_odd", val, slice(1, None, 2)),
    ):
        reprs = ssltool.load_representations(file)
        logits = reprs.representations[rows].double() @ saved["weight"].double().T + saved["bias"].double()
        right = classes[logits.argmax(dim=1)] == reprs.targets[rows]
        found[name] = float(right.double().mean())
    return found


def singular_values(file: Path) -> np.ndarray:
    """The singular values of the centred rows of a file."""
    return ssltool.measure(ssltool.load_representations(file).representations).singular_values.float().numpy()


def machine() -> dict[str, Any]:
    """Where and with which versions a line was computed."""
    git = ["git", "-C", str(RUNS.parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    versions = {"ssltool": ssltool.__version__, "commit": commit, "torch": torch.__version__}
    return {"machine": platform.machine(), "cpu": cpu_name(), "load": os.getloadavg()[0], **versions}


def collapse(path: Path, metrics: str | None, prefix: str) -> dict[str, Any]:
    """The metrics of a file of representations, by default those of one pass over it, and the verdict."""
    (found,) = ssltool.collapse(files=[path], metrics=metrics, pair_rows=2000).document["files"]
    values = {"d": found["d"], "verdict": found["verdict"]["state"], **found["metrics"]}
    return {f"{prefix}{name}": value for name, value in values.items()}


def cpu_name() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def read_row(run: str) -> pd.Series:
    """The row of a run; ends the program if there is none."""
    table = pd.read_csv(RUNS).convert_dtypes().set_index("run", drop=False)
    if run not in table.index:
        sys.exit(f"error: there is no run {run} in {RUNS}; see its column run")
    return table.loc[run]


def main() -> None:
    """Does what is missing of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="name of a run of runs.csv")
    parser.add_argument("--data", type=Path, default=Path("study/data"), help="folder of the datasets")
    parser.add_argument("--out", type=Path, default=Path("study/runs"), help="folder of the runs")
    given = parser.parse_args()
    run = Run(read_row(given.run), given.data, given.out)
    try:
        if run.missing():
            run.train()
        for epoch in run.missing():
            run.measure(epoch)
    except ssltool.Interrupted as stop:
        sys.exit(128 + stop.number)
    except ssltool.SSLToolError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
