"""Targets that are files of tensors: state dicts of torchvision, timm and ssltool, and SimSiam's checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.checkpoints.described_weights import KEY
from ssltool.checkpoints.read import SAFETENSORS, safetensors_package
from ssltool.files.writing import to_json, write_atomically
from ssltool.models.counterpart import PYTHON, Counterpart
from ssltool.models.resnet import torchvision_resnets
from ssltool.settings import Record
from ssltool.stages.export.exported import Exported, NoCounterpart, Plan


def torchvision(network: Exported, path: Path) -> Plan:
    """Weights of torchvision's own networks."""
    return _of_library("torchvision", network, path)


def timm(network: Exported, path: Path) -> Plan:
    """Weights of timm's networks."""
    return _of_library("timm", network, path)


def simsiam_training(network: Exported, path: Path) -> Plan:
    """A checkpoint as SimSiam's training writes it. Its ``main_lincls.py`` builds torchvision's networks by name and
    trains their ``fc``."""
    found = network.counterpart("torchvision")
    if found is None or found.model not in torchvision_resnets() or found.arguments:
        raise NoCounterpart(
            f"SimSiam's main_lincls.py does not have {network.name}, only {', '.join(torchvision_resnets())}"
        )
    weights = {f"module.encoder.{name}": tensor for name, tensor in found.translate(network.weights).items()}
    saved = _facts(network) | {"arch": found.model, "state_dict": weights}
    load = f"python main_lincls.py -a {found.model} --pretrained {shlex.quote(str(path))} ..."
    return Plan(lambda: _write(path, saved), load, in_python=False)


def state_dict(network: Exported, path: Path) -> Plan:
    """Weights with ssltool's names, and code that builds the network."""
    found = network.counterpart(PYTHON)
    if found is None:
        raise NoCounterpart(f"only ssltool can build {network.name}")
    return _weights(found, network, path, _facts(network))


def safetensors(network: Exported, path: Path) -> Plan:
    """Weights with a description that ssltool reads back."""
    safetensors_package()
    weights, found = network.weights, network.counterpart(PYTHON)
    facts = _facts(network) | {KEY: to_json(network.describe().record())}
    if found is not None:
        return _weights(dataclasses.replace(found, translate=dict), network, path, facts, found.prefix)
    load = f"import safetensors.torch\nweights = {_load_file(path)}  # of {network.arch}"
    return Plan(lambda: _write_safetensors(path, weights, facts), load, in_python=False)


def _facts(network: Exported) -> Record:
    return {"arch": network.arch, "epoch": network.epoch, "method": network.method}


def _of_library(library: str, network: Exported, path: Path) -> Plan:
    found = network.counterpart(library)
    if found is None:
        raise NoCounterpart(f"{library} does not have {network.name}")
    return _weights(found, network, path, _facts(network))


def _weights(found: Counterpart, network: Exported, path: Path, facts: Record, prefix: str = "") -> Plan:
    """The weights of the network ``found``, and ``facts`` if the format has a place for them. The code that loads them
    removes ``prefix`` from their names."""
    weights = found.translate(network.weights)
    if path.suffix == SAFETENSORS:
        safetensors_package()
        imported, write = "import safetensors.torch\n", functools.partial(_write_safetensors, path, weights, facts)
    else:
        write = functools.partial(_write, path, _with_versions(weights, network))
        imported = "" if "import torch," in found.build else "import torch\n"
    read = _load_file(path)
    if prefix:
        read = f"{{name.removeprefix({prefix!r}): tensor for name, tensor in {read}.items()}}"
    lines = [f"{found.variable}.load_state_dict({read})", f"{found.variable}.eval()"]
    lines += [found.define] if found.define else []
    return Plan(write, "\n".join([f"{imported}{found.build}", *lines]))


def _with_versions(weights: dict[str, Tensor], network: Exported) -> dict[str, Tensor]:
    """``weights`` with the versions of the modules, as in any ``state_dict()``, if they have the backbone's names."""
    own = network.backbone.state_dict()
    if weights.keys() != own.keys():
        return weights
    state = OrderedDict(weights)
    state._metadata = own._metadata  # type: ignore[attr-defined]
    return state


def _load_file(path: Path) -> str:
    if path.suffix == SAFETENSORS:
        return f"safetensors.torch.load_file({str(path)!r})"
    return f"torch.load({str(path)!r}, weights_only=True)"


def _write(path: Path, saved: Any) -> None:
    write_atomically(path, lambda stream: torch.save(saved, stream))


def _write_safetensors(path: Path, weights: dict[str, Tensor], facts: Record) -> None:
    metadata = {"format": "pt"} | {key: str(value) for key, value in facts.items() if value is not None}
    contents = safetensors_package().torch.save(
        {name: tensor.contiguous() for name, tensor in weights.items()}, metadata=metadata
    )
    write_atomically(path, lambda stream: stream.write(contents))
