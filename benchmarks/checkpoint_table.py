"""The table of programs in docs/checkpoints.md: files of other programs, and how near ssltool's outputs are.

python benchmarks/checkpoint_table.py [--write]

Each file has random weights and is compared with the outputs of the network that the program evaluates. A file is from
the classes of a package, or ``layout``: it has the names of the published code. The outputs are those of a class of a
package, or of a forward pass that tests/vit_reference.py has from the paper. A package that is not installed is left
out and named; ``pip install -e '.[test,programs]'`` installs most. ``--write`` replaces the table in the page.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from modern_checkpoints import Modern, all_modern  # noqa: E402

from checkpoint_helpers import PROGRAMS, lightning, linear, noise, under, vit  # noqa: E402
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone  # noqa: E402
from ssltool.models.backbones import build_backbone  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
HEADER = "| program | file | file from | outputs of | taken | largest relative difference |"
BEGIN, END = "<!-- table of files: begin -->", "<!-- table of files: end -->"


def published() -> Iterator[Modern]:
    """The files of the tests: those until 2021, around networks of torchvision and timm, and those since."""
    for name, make in PROGRAMS.items():
        case = make()
        if case.program != "unknown":
            kind = name.removeprefix(case.program).strip(", ") or "training"
            source = case.program if case.program in ("timm", "torchvision") else "layout"
            yield Modern(case.program, kind, case.entries, case.network, "", source, case.size)
    yield from all_modern()


def lightly() -> Iterator[Modern]:
    """The modules of lightly's examples, with lightly's own classes."""
    from lightly.models.modules import LeJEPAProjectionHead, MaskedVisionTransformerTIMM

    def wrapped(seed: int, **settings: Any) -> torch.nn.Module:
        network: torch.nn.Module = MaskedVisionTransformerTIMM(vit=vit(seed, **settings))
        return network.eval()

    mae = wrapped(0)
    yield Modern("lightly", "MAE", lightning(under("backbone.", mae)), mae, "", "lightly", 32)
    for example, settings in {"DINOv2": {"init_values": 0.1}, "CAPI": {"reg_tokens": 7}}.items():
        teacher, student = wrapped(0, **settings), wrapped(1, **settings)
        state = under("teacher_backbone.", teacher) | under("student_backbone.", student)
        yield Modern("lightly", example, lightning(state | linear("teacher_head.", 0)), teacher, "", "lightly", 32)
    backbone = vit(0, depth=3)
    head = LeJEPAProjectionHead(input_dim=backbone.embed_dim)
    state = under("backbone.", backbone) | under("projection_head.", head)
    yield Modern("lightly", "LeJEPA", lightning(state), backbone, "", "lightly", 32)


def dinov2() -> Iterator[Modern]:
    """Small networks of the class of DINOv2, of its package on PyPI."""
    from dinov2.models.vision_transformer import DinoVisionTransformer

    def network(**settings: Any) -> torch.nn.Module:
        sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 128, "depth": 2, "num_heads": 2, "init_values": 0.1}
        torch.manual_seed(0)
        model: torch.nn.Module = DinoVisionTransformer(**sizes, **settings)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return model.eval()

    for kind, settings in {
        "class": {"block_chunks": 0},
        "class, block chunks": {"block_chunks": 2},
        "class, SwiGLU": {"block_chunks": 0, "ffn_layer": "swiglufused"},
    }.items():
        model = network(**settings)
        yield Modern("DINOv2", kind, dict(model.state_dict()), model, "", "dinov2", 56)


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in eval mode with random weights everywhere."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def open_clip() -> Iterator[Modern]:
    """A small CLIP of open_clip, whose image encoder has no projection where it is the reference."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    text = CLIPTextCfg(context_length=8, vocab_size=20, width=32, heads=2, layers=1)
    vision = CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=32)
    model = stirred(CLIP(64, vision, text))
    entries = {"epoch": 3, "name": "run", "state_dict": under("module.", model)}
    model.visual.proj = None
    yield Modern("open_clip", "training, class", entries, model.visual, "", "open_clip_torch", 32)


def stable_pretraining() -> Iterator[Modern]:
    """Modules of stable-pretraining around networks of timm."""
    import stable_pretraining.methods as methods
    import timm

    def network(name: str) -> torch.nn.Module:
        small = {"channels": (8, 16, 32, 64)} if name.startswith("resnet") else {"depth": 2}
        created: torch.nn.Module = timm.create_model(name, num_classes=0, **small)
        return created

    for name, size in (("resnet18", 64), ("vit_tiny_patch16_224", 224)):
        for method in ("BYOL", "MoCov3", "MSN"):
            module = stirred(getattr(methods, method)(network(name)))
            entries = lightning(module.state_dict())
            teacher = module.backbone.teacher
            yield Modern("stable-pretraining", f"{method}, {name}", entries, teacher, "", "stable-pretraining", size)
        module = stirred(methods.SimCLR(network(name)))
        entries = lightning(module.state_dict())
        yield Modern("Lightning", f"SimCLR, {name}", entries, module.backbone, "", "stable-pretraining", size)


def lightly_train() -> Iterator[Modern]:
    """Checkpoints around networks of timm and lightly-train's own DINOv2; the outputs are its embeddings."""
    import timm
    from lightly_train._models import package_helpers
    from lightly_train._models.dinov2_vit.dinov2_vit_src.models.vision_transformer import DinoVisionTransformer
    from lightly_train._models.embedding_model import EmbeddingModel

    sizes = {"img_size": 56, "patch_size": 14, "embed_dim": 128, "depth": 2, "num_heads": 2, "init_values": 0.1}
    for kind, model, size in (
        ("ResNet", timm.create_model("resnet18", channels=(8, 16, 32, 64)), 64),
        ("ViT", timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64), 64),
        ("its DINOv2", DinoVisionTransformer(**sizes, block_chunks=0), 56),
    ):
        package = package_helpers.get_package_from_model(stirred(model), include_custom=True, fallback_custom=True)
        embedding = EmbeddingModel(package.get_model_wrapper(model)).eval()
        state = under("embedding_model.", embedding)
        entries = lightning(state) | {"lightly_train": {"version": importlib.metadata.version("lightly-train")}}
        embed = torch.nn.Sequential(embedding, torch.nn.Flatten())
        yield Modern("lightly-train", f"class, {kind}", entries, embed, "", "lightly-train", size)


OPTIONAL = {
    "lightly": lightly,
    "dinov2": dinov2,
    "open_clip": open_clip,
    "stable_pretraining": stable_pretraining,
    "lightly_train": lightly_train,
}


def outputs(found: ForeignBackbone, images: Tensor) -> Tensor:
    spec = found.spec
    size = images.shape[-1]
    network, _ = build_backbone(spec.arch, stem=spec.stem, image_size=size)
    network.load_state_dict(found.weights)
    out: Tensor = network.eval()(images)
    return out


def row(case: Modern) -> str:
    """A line of the table."""
    found = find_backbone("file.pth", case.entries)
    images = noise(case.size, seed=5)
    with torch.inference_mode():
        expected = case.outputs(images)
        error = float((outputs(found, images) - expected).norm() / expected.norm())
    made = case.source if case.source == "layout" else f"{case.source} {importlib.metadata.version(case.source)}"
    where = f"`{found.layout.prefix}`" if found.layout.prefix else "no prefix"
    arch = found.spec.arch.partition(",")[0]
    return f"| {case.program} | {case.file} | {made} | {_reference(case)} | {where}, `{arch}` | {error:.0e} |"


def _reference(case: Modern) -> str:
    """The package whose class computes the expected outputs, or the paper."""
    if not isinstance(case.outputs, torch.nn.Module):
        return "timm" if "features" in getattr(case.outputs, "__qualname__", "") else "the paper"
    classes = (base for module in case.outputs.modules() for base in type(module).__mro__)
    packages = (base.__module__.partition(".")[0] for base in classes)
    own = ("ssltool", "torch", "builtins", "modern_checkpoints")
    return next((name for name in packages if name not in own), "the paper")


def table() -> list[str]:
    """The whole table; packages that are not installed are reported on stderr."""
    cases = list(published())
    for package, make in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed; its files are left out", file=sys.stderr)
        else:
            cases += make()
    rows = sorted({row(case) for case in cases}, key=str.lower)
    return [HEADER, "|---|---|---|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the table in docs/checkpoints.md")
    write = parser.parse_args().write
    lines = "\n".join(table())
    if not write:
        print(lines)
        return
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
