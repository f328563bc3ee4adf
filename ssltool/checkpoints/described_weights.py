"""The description that ``ssltool export`` writes beside weights: the network, its transform and its training.

It is an entry of the metadata of a .safetensors file, and of the ``config.json`` of a folder of transformers or timm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.config.fields import MOST_EPOCHS, STEMS
from ssltool.data.preprocessing import PREPROCESSING, Preprocessing
from ssltool.errors import SSLToolError
from ssltool.files.reading import parse_json
from ssltool.files.schema import choice, conform, integer, mapping, nested, optional, text
from ssltool.files.writing import FilePath
from ssltool.models.backbones import build_backbone
from ssltool.settings import Record
from ssltool.training.restore import check_weights

KEY = "ssltool"
"""The key of the description."""

SCHEMA = mapping(
    {
        **dict.fromkeys(("program", "method"), text(200)),
        "epoch": optional(integer(0, MOST_EPOCHS)),
        "preprocessing": PREPROCESSING,
    },
    {"arch": text(), "stem": choice(*STEMS), "image_size": integer(1, 2**16)},
    nested(),
    what="a description of weights",
)


@dataclass(frozen=True)
class Description:
    """What is known about weights.

    Attributes:
        program: the program that trained the network.
        method: its method.
        epoch: completed epochs; None if they are unknown.
        preprocessing: the transform of its images.
        spec: how the network is built; None if other entries of the file say it.
    """

    program: str
    method: str
    epoch: int | None
    preprocessing: Preprocessing
    spec: BackboneSpec | None = None

    def record(self) -> Record:
        """The description as plain values."""
        spec = self.spec
        network = {} if spec is None else {"arch": spec.arch, "stem": spec.stem, "image_size": spec.image_size}
        trained = {"program": self.program, "method": self.method, "epoch": self.epoch}
        return network | trained | {"preprocessing": self.preprocessing.record()}

    @classmethod
    def find(cls, entries: Mapping[str, Any], path: FilePath) -> Description | None:
        """The description among ``entries`` of the file ``path``, as a dict or as JSON; None if there is none.

        Raises:
            SSLToolError: if a value is not as it should be.
        """
        held = entries.get(KEY)
        if isinstance(held, str):
            try:
                held = parse_json(held)
            except ValueError as error:
                raise SSLToolError(f"{path}: {KEY} in its metadata is no JSON; export the weights again") from error
        if held is None:
            return None
        values = conform({KEY: held}, mapping({KEY: SCHEMA}), path)[KEY]
        named = [values[f.name] for f in dataclasses.fields(BackboneSpec)[:3] if f.name in values]
        spec = BackboneSpec(*named) if len(named) == 3 else None
        trained = (values["program"], values["method"], values["epoch"])
        return cls(*trained, Preprocessing.read(values["preprocessing"]), spec)


def check_described(spec: BackboneSpec, weights: Mapping[str, Any], path: FilePath) -> None:
    """Checks that ``weights``, which come from the file ``path``, are those of the network ``spec``.

    Raises:
        SSLToolError: if a name is missing or unknown, or a shape is another one; or if ssltool lacks the network.
    """
    with torch.device("meta"):
        backbone, _ = build_backbone(**dataclasses.asdict(spec))
    check_weights(backbone, weights, path, f"these are not the weights of {spec.arch}")
