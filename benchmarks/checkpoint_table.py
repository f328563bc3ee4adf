"""The table of programs in docs/checkpoints.md: files of other programs, and how near ssltool's outputs are.

python benchmarks/checkpoint_table.py [--write]

Each file is made with random weights and compared with the outputs of the network that the program evaluates: of the
class of the named package, or, for programs that exist as repositories only (``layout``), of a forward pass that
tests/vit_reference.py has from the paper. A package that is not installed is left out and named. ``--write`` replaces
the table in the page.
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

from checkpoint_helpers import PROGRAMS, lightning, linear, noise, settled, under, vit  # noqa: E402
from ssltool.checkpoints.convert import ForeignBackbone, find_backbone  # noqa: E402
from ssltool.models.backbones import build_backbone  # noqa: E402

PAGE = ROOT / "docs" / "checkpoints.md"
BEGIN, END = "<!-- table of files: begin -->", "<!-- table of files: end -->"


def published() -> Iterator[Modern]:
    """The files of the tests: those until 2021, around networks of torchvision and timm, and those since."""
    for name, make in PROGRAMS.items():
        case = make()
        if case.program != "unknown":
            kind = name.removeprefix(case.program).strip(", ") or "training"
            source = "timm" if "ViT" in name or name == "dino" else "torchvision"
            yield Modern(case.program, kind, case.entries, case.network, "", source, case.size)
    yield from all_modern()


def lightly() -> Iterator[Modern]:
    """The modules of lightly's examples, with lightly's own classes."""
    from lightly.models.modules import MaskedVisionTransformerTIMM

    def wrapped(seed: int, **settings: Any) -> torch.nn.Module:
        network: torch.nn.Module = MaskedVisionTransformerTIMM(vit=vit(seed, **settings))
        return network.eval()

    def cls(model: torch.nn.Module) -> Any:
        return lambda images: model(images)

    mae = wrapped(0)
    yield Modern("lightly", "MAE", lightning(under("backbone.", mae)), cls(mae), "", "lightly", 32)
    teacher, student = wrapped(0, init_values=0.1, reg_tokens=4), wrapped(1, init_values=0.1, reg_tokens=4)
    state = under("teacher_backbone.", teacher) | under("student_backbone.", student)
    yield Modern("lightly", "DINOv2, CAPI", lightning(state), cls(teacher), "", "lightly", 32)
    lejepa = settled(vit(0, depth=3), 0, 32)
    state = under("backbone.", lejepa) | linear("projection_head.layers.", 0, 3)
    yield Modern("lightly", "LeJEPA", lightning(state), lejepa, "", "timm", 32)


OPTIONAL = {"lightly": lightly}


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
    version = case.source if case.source == "layout" else f"{case.source} {importlib.metadata.version(case.source)}"
    where = f"`{found.layout.prefix}`" if found.layout.prefix else "no prefix"
    arch = found.spec.arch.partition(",")[0]
    return f"| {case.program} | {version} | {case.file} | {where}, `{arch}` | {error:.0e} |"


def table() -> list[str]:
    """The whole table; packages that are not installed are reported on stderr."""
    cases = list(published())
    for package, make in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed; its files are left out", file=sys.stderr)
        else:
            cases += make()
    rows = sorted({row(case) for case in cases}, key=str.lower)
    return ["| program | made with | file | taken | largest relative difference |", "|---|---|---|---|---|", *rows]


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
