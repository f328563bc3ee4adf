"""Folders and caches of the Hugging Face hub, written by transformers and timm around small networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VIDEO = {key: VIT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")} | {
    "mlp_ratio": 2,
    "crop_size": 32,
    "pred_hidden_size": 16,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}
PATCHES = {key: value for key, value in VIT.items() if key != "image_size"} | {"num_patches": 16}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTModel": ("ViTConfig", VIT),
    "ViTForImageClassification": ("ViTConfig", VIT | {"num_labels": 3}),
    "ViTForMaskedImageModeling": ("ViTConfig", VIT | {"encoder_stride": 8}),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", VIT),
    "Dinov2Model": ("Dinov2Config", VIT | {"mlp_ratio": 2}),
    "Dinov2ForImageClassification": ("Dinov2Config", VIT | {"use_swiglu_ffn": True}),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", VIT | {"num_register_tokens": 2}),
    "DINOv3ViTModel": ("DINOv3ViTConfig", VIT | {"num_register_tokens": 4, "use_gated_mlp": True}),
    "DINOv3ConvNextModel": ("DINOv3ConvNextConfig", STAGES),
    "ViTMAEForPreTraining": ("ViTMAEConfig", VIT | DECODER),
    "ViTMSNModel": ("ViTMSNConfig", VIT),
    "IJepaModel": ("IJepaConfig", VIT),
    "VJEPA2Model": ("VJEPA2Config", VIDEO),
    "VJEPA2ForVideoClassification": ("VJEPA2Config", VIDEO | {"num_pooler_layers": 1, "num_labels": 3}),
    "ResNetForImageClassification": ("ResNetConfig", STAGES | {"embedding_size": 8, "layer_type": "basic"}),
    "ConvNextModel": ("ConvNextConfig", STAGES),
    "ConvNextV2ForImageClassification": ("ConvNextV2Config", STAGES),
    "SwinForImageClassification": ("SwinConfig", SWIN),
    "Swinv2Model": ("Swinv2Config", SWIN),
    "CLIPModel": ("CLIPConfig", {"text_config": TEXT, "vision_config": VIT, "projection_dim": 16}),
    "CLIPVisionModel": ("CLIPVisionConfig", VIT | {"hidden_act": "gelu"}),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", VIT | {"projection_dim": 16}),
    "SiglipModel": ("SiglipConfig", {"text_config": TEXT, "vision_config": VIT}),
    "SiglipVisionModel": ("SiglipVisionConfig", VIT | {"vision_use_head": False}),
    "Siglip2Model": ("Siglip2Config", {"text_config": TEXT, "vision_config": PATCHES}),
}
"""Classes of transformers, their configurations, and settings of small networks."""

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def transformers() -> Any:
    """The library without its reports, or the test is skipped."""
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def network(case: str, seed: int = 0, **settings: Any) -> Any:
    """The class ``case`` with random weights everywhere."""
    library = transformers()
    config, own = CASES[case]
    torch.manual_seed(seed)
    model = getattr(library, case)(getattr(library, config)(**(own | settings))).eval()
    with torch.no_grad():
        statistics = [buffer for name, buffer in model.named_buffers() if "running" in name]
        for tensor in (*model.parameters(), *statistics):
            tensor.add_(0.1 * torch.rand(tensor.shape))
    return model


def folder(path: Path, case: str = "ViTModel", processor: dict[str, Any] | None = None, **settings: Any) -> Path:
    """The folder of a network, with the settings of its image processor, if they are given."""
    network(case, **settings).save_pretrained(path)
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def timm_folder(path: Path, name: str = "resnet18", *, safe: bool = True, **settings: Any) -> tuple[Path, nn.Module]:
    """The folder that timm writes for a network with random weights, and the network."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval()
    timm.models.save_for_hf(model, path, safe_serialization=safe)
    return path, model


def edit(path: Path, **changes: Any) -> None:
    """Changes entries of a JSON file; None removes one."""
    entries = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache(home: Path, repository: str, source: Path, revision: str = "main") -> Path:
    """The hub's cache with the files of ``source``, as the hub lays it out; returns the folder of the snapshot."""
    root = home / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for part in (snapshot, root / "blobs", root / "refs"):
        part.mkdir(parents=True)
    (root / "refs" / revision).write_text(COMMIT)
    for file in source.iterdir():
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def close(found: Tensor, expected: Tensor) -> None:
    """Checks that the largest difference is below 1e-4 of the largest value."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
