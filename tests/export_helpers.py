"""Networks that are exported, and the printed code run without ssltool."""

from __future__ import annotations

import builtins
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import safetensors.torch
import torch
from torch import Tensor

import ssltool
from checkpoint_helpers import noise, settled
from ssltool.checkpoints.described_weights import KEY, Description
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.config import ExportConfig
from ssltool.data.preprocessing import Preprocessing
from ssltool.files.writing import to_json
from ssltool.models.backbones import build_backbone
from ssltool.stages.export import run

UNUSUAL = Preprocessing(32, 40, True, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
"""A transform that no library has by default."""


def described(
    path: Path, arch: str, size: int = 32, stem: str = "auto", transform: Preprocessing = UNUSUAL, seed: int = 0
) -> Path:
    """A file of weights of ``arch``, all of them random, with the description that ``export`` writes."""
    torch.manual_seed(seed)
    model = settled(build_backbone(arch, stem=stem, image_size=size)[0], seed, size)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    record = Description("somebody", "simsiam", 7, transform.at(size), BackboneSpec(arch, stem, size)).record()
    safetensors.torch.save_file(weights, path, metadata={"format": "pt", KEY: to_json(record)})
    return path


def export(checkpoint: object, to: str, out: object = None, **settings: Any) -> dict[str, Any]:
    return run(ExportConfig(str(checkpoint), to=to, out=None if out is None else str(out), **settings))


@contextlib.contextmanager
def without_ssltool() -> Iterator[None]:
    """In which ``import ssltool`` fails."""
    imported = builtins.__import__

    def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "ssltool":
            raise ImportError("ssltool is not here")
        return imported(name, *args, **kwargs)

    with mock.patch.object(builtins, "__import__", guarded):
        yield


def as_printed(code: str) -> Callable[[Tensor], Tensor]:
    """The ``model`` that the printed code defines, without ssltool."""
    names: dict[str, Any] = {}
    with without_ssltool(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated
        exec(code, names)
    return names["model"]


def assert_same(code: str, checkpoint: object, size: int = 32) -> None:
    """The printed code computes what ``load_backbone`` does, for several numbers of images."""
    ours, theirs = ssltool.load_backbone(str(checkpoint)), as_printed(code)
    for count in (1, 3):
        images = noise(size, seed=count)[:count]
        with torch.inference_mode(), without_ssltool():
            expected = ours(images)
            torch.testing.assert_close(
                theirs(images), expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max()))
            )
