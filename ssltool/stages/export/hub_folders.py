"""The target ``huggingface``: folders as transformers and timm write them for the hub."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ssltool.checkpoints.described_weights import KEY
from ssltool.checkpoints.image_processor import RESAMPLE
from ssltool.checkpoints.model_folder import CONFIG, PROCESSOR, WEIGHTS
from ssltool.checkpoints.read import safetensors_package
from ssltool.checkpoints.transformers_weights import select_backbone
from ssltool.data.preprocessing import Preprocessing
from ssltool.files.reading import read_json
from ssltool.files.writing import write_folder, write_json
from ssltool.models.arch_name import compose
from ssltool.models.backbones import build_backbone
from ssltool.models.counterpart import Counterpart
from ssltool.models.timm_models import timm_package
from ssltool.models.transformers_config import quiet, transformers_package
from ssltool.models.transformers_models import define_code, load_code
from ssltool.settings import Record
from ssltool.stages.export.exported import Exported, NoCounterpart, Plan

FILES = (CONFIG, WEIGHTS[0], PROCESSOR)
"""What a folder holds."""

PROCESSOR_CLASS = "BitImageProcessor"
"""transformers' class that resizes, crops and standardises."""


def huggingface(network: Exported, path: Path) -> Plan:
    """A folder of transformers, or of timm if only that has the network."""
    safetensors_package()
    for library, plan in (("transformers", _for_transformers), ("timm", _for_timm)):
        found = network.counterpart(library)
        if found is not None:
            return plan(network, found, path)
    raise NoCounterpart(f"neither transformers nor timm has {network.name}")


def _for_transformers(network: Exported, found: Counterpart, path: Path) -> Plan:
    transformers_package()
    arch = compose("transformers", found.model, found.arguments)
    backbone: Any = build_backbone(arch, image_size=network.image_size)[0].eval()

    def write() -> None:
        weights, _ = select_backbone(arch, found.translate(network.weights))
        backbone.load_state_dict(weights)
        network.check_same(backbone, "transformers' network")
        write_folder(path, FILES, fill)

    def fill(folder: Path) -> None:
        with quiet():
            backbone.model.save_pretrained(folder, max_shard_size="1TB")
        write_json(folder / CONFIG, read_json(folder / CONFIG) | _described(network))
        write_json(folder / PROCESSOR, _processor(network.preprocessing))

    load = f"{load_code(backbone, str(path))}.eval()\n{define_code(backbone, network.image_size)}"
    return Plan(write, load)


def _for_timm(network: Exported, found: Counterpart, path: Path) -> Plan:
    timm = timm_package()
    arguments = {name: value for name, value in found.arguments.items() if name != "dynamic_img_size"}
    weights = found.translate(network.weights)

    def write() -> None:
        model = timm.create_model(found.model, num_classes=0, **arguments)
        model.load_state_dict(weights)
        network.check_same(model.eval(), "timm's network")
        write_folder(path, FILES, fill)

    def fill(folder: Path) -> None:
        base, _, tag = found.model.partition(".")
        cfg = _pretrained_cfg(network.preprocessing, network.image_size) | ({"tag": tag} if tag else {})
        config = {"architecture": base, "num_classes": 0, "num_features": network.width, "pretrained_cfg": cfg}
        write_json(folder / CONFIG, config | {"model_args": arguments} | _described(network))
        safetensors_package().torch.save_file(weights, folder / FILES[1], metadata={"format": "pt"})

    name = f"local-dir:{path}"
    return Plan(write, f"import timm\nmodel = timm.create_model({name!r}, pretrained=True, num_classes=0).eval()")


def _described(network: Exported) -> Record:
    """What ssltool reads back beside the network."""
    return {KEY: network.describe(with_network=False).record()}


def _processor(transform: Preprocessing) -> Record:
    """The settings of transformers' image processor for a transform."""
    resized = {"height": transform.resize, "width": transform.resize}
    return {
        "image_processor_type": PROCESSOR_CLASS,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": resized if transform.squash else {"shortest_edge": transform.resize},
        "resample": next(number for number, name in RESAMPLE.items() if name == transform.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": transform.size, "width": transform.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def _pretrained_cfg(transform: Preprocessing, size: int) -> Record:
    """timm's description of a transform."""
    crop_pct = transform.crop_pct or transform.size / transform.resize
    while math.floor(transform.size / crop_pct) < transform.resize:  # rounding
        crop_pct = math.nextafter(crop_pct, 0)
    return {
        "input_size": [3, size, size],
        "num_classes": 0,
        "interpolation": transform.interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "squash" if transform.squash else "center",
        "mean": list(transform.mean),
        "std": list(transform.std),
    }
