"""The settings of ``ssltool save-reprs``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssltool.config.common import NetworkSettings
from ssltool.config.fields import SPLITS, batch_size, output, precision
from ssltool.settings import Rule, setting

FORMATS = ("pt", "npy", "parquet")


@dataclass(frozen=True)
class SaveReprsConfig(NetworkSettings):
    """Settings of ``ssltool save-reprs``."""

    layer: str = setting(
        "backbone",
        "layer whose output to save: backbone, projector, predictor, or a module's dotted name such as backbone.layer3",
        section="Model",
        metavar="NAME",
    )
    tokens: str | None = setting(
        None,
        "the class token of a ViT, the mean of its patches, or a row for each patch, each register, or each token; the "
        "positions of a feature map are patches [default: what the network returns]",
        choices=("cls", "patch", "mean", "registers", "all"),
        section="Model",
    )
    sample_patches: int | None = setting(
        None,
        "with --tokens patch or all, keep this many patches of each image, drawn at random with the run's seed and the "
        "number of the image [default: all]",
        section="Model",
        minimum=1,
        maximum=2**20,
    )
    pool: str | None = setting(
        None,
        "pooling of a feature map: its mean, or none (a row for each position) [default: mean]",
        choices=("mean", "none"),
        section="Model",
    )
    split: str | None = setting(
        None,
        "split [default: the one that --dataset-type names, else train]",
        choices=(*SPLITS, "both"),
        section="Data",
    )
    views: int | None = setting(
        None,
        "save this many augmented views of each image, made as in the run, for alignment and lidar [default: the image "
        "itself, with the validation transform]",
        section="Data",
        minimum=2,
        maximum=1000,
    )
    sample: int | None = setting(
        None, "only this many images, drawn at random with the run's seed [default: all]", section="Data", minimum=1
    )
    batch_size: int = batch_size(
        256, "images in a batch; with --views, a batch has at most 256 views", section="Data", minimum=1
    )
    precision: str = precision(choices=("fp32", "bf16"))
    format: str = setting(
        "pt",
        "file format: ssltool's own, NumPy arrays, or parquet; the last two are for other programs",
        choices=FORMATS,
        section="Output",
    )
    dtype: str = setting(
        "fp32", "data type of the file; bf16 halves a .pt file", choices=("fp32", "bf16"), section="Output"
    )
    out: str | None = output(
        "file to write, or a folder with --split both [default: data/ARCH_exp0000/DATASET/SPLIT_reprs_e0.pt; the "
        "number is followed by _random, the layer, views and other settings that differ from their defaults]",
        "PATH",
    )
    exp_id: int | None = setting(
        None, "number in the default name [default: the checkpoint's]", section="Output", minimum=0
    )
    extra_info: str | None = setting(None, "text to add to the folder of the default name", section="Output")

    @property
    def _keeps_patches(self) -> bool:
        return self.tokens in ("patch", "all") or self.pool == "none"

    def conflicts(self) -> list[Rule]:
        named = "with --out, which names the file"
        return [
            *super().conflicts(),
            (("exp_id", "extra_info"), self.out is not None, named),
            (("pool",), self.tokens is not None, "with --tokens, which also chooses positions of a feature map"),
            (("sample_patches",), not self._keeps_patches, "without --tokens patch or all"),
            (("crop_pct", "squash"), self.views is not None, "with --views, which crops at random"),
        ]

    def mistakes(self) -> Iterator[str]:
        if self.format != "pt" and self.dtype == "bf16":
            yield f"--format {self.format} has no bfloat16; leave --dtype bf16 out, or use --format pt"
        if self.views is not None and (self._keeps_patches or self.tokens == "registers"):
            flag = "--pool none" if self.tokens is None else f"--tokens {self.tokens}"
            yield f"--views saves one row per view, {flag} several; leave one of them out"
        suffix = "" if self.out is None else Path(self.out).suffix.removeprefix(".")
        if suffix in FORMATS and suffix != self.format:
            yield f"--out {self.out} and --format {self.format} contradict each other; change one of them"
        if suffix == self.format and self.split == "both":
            yield f"--split both writes two files; give --out a folder instead of {self.out}"
