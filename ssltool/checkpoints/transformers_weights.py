"""The backbone among the weights of a model of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssltool.checkpoints.match_architecture import COUNTER, SHOWN
from ssltool.checkpoints.named_backbone import left_out_modules
from ssltool.errors import SSLToolError, first_line
from ssltool.files.misfit import name_keys
from ssltool.models.backbones import build_backbone
from ssltool.models.transformers_config import MODEL_TYPES, quiet

WITHOUT_EFFECT = ("mask_token", "position_ids", "relative_position_index", "relative_coords_table")
"""Tensors that files of some versions have: they do not affect the outputs, or the library computes them."""


VISION = "vision_model"
"""The prefix of the image encoder in files that have a text encoder too."""


def select_backbone(arch: str, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict of the backbone ``arch`` among the ``weights`` of a file, and the names of the file's other
    modules.

    The names in files differ between versions and from those of the model in memory. ``from_pretrained`` translates
    them: it is given the tensors, and reads no file.

    Raises:
        SSLToolError: if weights are missing or of another shape, or some inside the backbone are not those of ``arch``.
    """
    with torch.device("meta"):
        model: Any = build_backbone(arch)[0].model
    kind, own = MODEL_TYPES[model.config.model_type], model.state_dict().keys()
    needed, held = (sum(map(Tensor.numel, tensors.values())) for tensors in (model.state_dict(), weights))
    if needed > held:  # before memory is allocated
        raise SSLToolError(f"the weights have {held:,} values, but {arch} has {needed:,}")
    with quiet():
        try:
            loaded, report = type(model).from_pretrained(
                None,
                config=model.config,
                state_dict=dict(weights),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below
                dtype=torch.float32,
                **kind.options,
            )
        except Exception as error:  # transformers may raise anything if weights do not fit
            raise SSLToolError(f"transformers cannot load the weights into {arch}: {first_line(error)}") from error
    omitted = [name for name in weights if _module(name, model) in kind.omitted]
    others = sorted({*report["unexpected_keys"], *omitted})
    parts = {
        "missing": [name for name in report["missing_keys"] if name in own and not name.endswith(COUNTER)],
        "unexpected": _inside(others, model),
        "of another shape": [str(entry[0]) for entry in report["mismatched_keys"] if entry[0] in own],
    }
    listed = "; ".join(f"{what}: {name_keys(sorted(names), SHOWN)}" for what, names in parts.items() if names)
    if listed:
        raise SSLToolError(f"the weights are not those of {arch}; {listed}")
    used = [prefix + name for name in own for prefix in ("", *_prefixes(model))]
    taken = {f"model.{name}": tensor for name, tensor in loaded.state_dict().items() if name in own}
    return taken, left_out_modules(others, used)


def _inside(others: list[str], model: Any) -> list[str]:
    """Which of the weights ``others``, which the library did not use, are in a module of ``model``, such as a further
    layer."""
    modules = {name.split(".")[0] for name in model.state_dict()}

    def inside(name: str) -> bool:
        spellings = (name, *(name.removeprefix(prefix) for prefix in _prefixes(model)))
        return any(spelling.split(".")[0] in modules for spelling in spellings)

    return [name for name in others if inside(name) and name.rpartition(".")[2] not in WITHOUT_EFFECT]


def _module(name: str, model: Any) -> str:
    """The first part of the name of a weight, without what precedes it in files of a model with a head."""
    return name.removeprefix(f"{model.base_model_prefix}.").split(".")[0]


def _prefixes(model: Any) -> tuple[str, ...]:
    """What precedes the names of a backbone in files of a model with a head."""
    return f"{model.base_model_prefix}.", f"{VISION}."
