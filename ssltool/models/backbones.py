"""Builds backbones by name: modules that map images (N, 3, S, S) to representations (N, D)."""

from __future__ import annotations

import warnings

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ssltool.errors import SSLToolError, UsageError, unknown
from ssltool.models import ARCHITECTURES
from ssltool.models.family import SMALL_IMAGE, Family, Single, TokenLayout
from ssltool.models.masking import NOTHING, Masking


def families() -> dict[str, Family]:
    """All registered families by the names of their entries; a single backbone is a family of one."""
    targets = {name: ARCHITECTURES.load(name) for name in ARCHITECTURES}
    return {
        name: target if isinstance(target, Family) else Single(name, target, ARCHITECTURES[name])
        for name, target in targets.items()
    }


def plugin_of(arch: str) -> str | None:
    """The plug-in that registered the architecture, or None."""
    entry = next((name for name, family in families().items() if family.matches(arch)), None)
    return None if entry is None else ARCHITECTURES.plugin(entry)


def family_of(arch: str) -> Family:
    """The family that builds ``arch``.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    family = next((family for family in families().values() if family.matches(arch)), None)
    if family is not None:
        return family
    meant = [name for family in families().values() for name in family.meant_by(arch)]
    if meant:
        raise UsageError(f"unknown architecture '{arch}'; did you mean {' or '.join(meant)}?")
    raise unknown("architecture", arch, architectures())


def is_known(arch: str) -> bool:
    """Whether an architecture of this name is registered."""
    return any(family.matches(arch) for family in families().values())


def architectures() -> list[str]:
    """The names to list. Others are valid too: other even widths in ``resnet18_w16``, other depths and widths in
    ``wide_resnet28w2``, and a ViT's name followed by its heads (``_h6``), patch size (``_p8``) and registers
    (``_r4``)."""
    return [name for family in families().values() for name in family.names()]


def completions(start: str) -> list[str]:
    """The architectures that begin with ``start``, with the models of other libraries after the library's name."""
    return [name for family in families().values() for name in family.completions(start)]


def resolve_stem(arch: str, stem: str, image_size: int) -> str:
    """The stem that ``auto`` means at this image size; an architecture without stems takes only ``auto``.

    Raises:
        UsageError: for any other stem of an architecture without stems.
    """
    if "stem" not in family_of(arch).settings:
        if stem != "auto":
            raise UsageError(f"--stem {stem} has no effect with {arch}, which has no stem; leave it out")
        return stem
    if stem != "auto":
        return stem
    return "small" if image_size <= SMALL_IMAGE else "imagenet"


def build_backbone(
    arch: str,
    *,
    stem: str = "auto",
    image_size: int = 224,
    stop_grad_conv1: bool = False,
    zero_init_residual: bool = True,
) -> tuple[nn.Module, int]:
    """Builds a backbone, initialised from torch's global generator; returns it and the width D of its output.

    Raises:
        UsageError: for an unknown name, with the nearest ones, or settings that have no effect with it.
        SSLToolError: if the family cannot build it, or a layer would have no weights.
    """
    family = family_of(arch)
    if stop_grad_conv1 and "stop_grad_conv1" not in family.settings:
        raise UsageError(f"--stop-grad-conv1 has no effect with {arch}; it freezes the patch embedding of a ViT")
    if not zero_init_residual and "zero_init_residual" not in family.settings:
        raise UsageError(
            f"--no-zero-init-residual has no effect with {arch}; it is for residual blocks that end with a norm"
        )
    stem = resolve_stem(arch, stem, image_size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # an error below
        backbone, dim = family.build(
            arch,
            stem=stem,
            image_size=image_size,
            stop_grad_conv1=stop_grad_conv1,
            zero_init_residual=zero_init_residual,
        )
    for name, parameter in backbone.named_parameters():
        if name.endswith(".weight") and not is_lazy(parameter) and not parameter.numel():  # registers may be none
            raise SSLToolError(f"{arch}: {name} has the shape {tuple(parameter.shape)}; widths must be at least 1")
    return backbone, dim


def family_of_backbone(backbone: nn.Module) -> Family | None:
    """The family that built ``backbone``; None if it is unknown."""
    return next((family for family in families().values() if family.owns(backbone)), None)


def token_layout(backbone: nn.Module) -> TokenLayout | None:
    """The order of the tokens of a transformer; None for other backbones."""
    family = family_of_backbone(backbone)
    return None if family is None else family.token_layout(backbone)


def patch_grid(backbone: nn.Module, patches: int) -> tuple[int, int] | None:
    """The numbers of rows and columns of the ``patches`` of a square image; None if they are not known."""
    family = family_of_backbone(backbone)
    return None if family is None else family.grid(backbone, patches)


def channels_last(backbone: nn.Module) -> bool:
    """Whether feature maps inside ``backbone`` are (N, H, W, D) instead of (N, D, H, W)."""
    family = family_of_backbone(backbone)
    return family is not None and family.channels_last(backbone)


def last_width(backbone: nn.Module, dim: int) -> int:
    """The width of the ``patch_tokens`` of a backbone whose output is ``dim`` wide."""
    family = family_of_backbone(backbone)
    return dim if family is None else family.last_width(backbone, dim)


def depends_on_size(backbone: nn.Module, size: int) -> bool:
    """Whether parameters of ``backbone``, such as positional embeddings, have another shape for images of ``size``
    pixels."""
    family = family_of_backbone(backbone)
    return family is not None and family.depends_on_size(backbone, size)


def check_size(backbone: nn.Module, size: int, flag: str = "--image-size") -> None:
    """Checks that ``backbone`` takes images of ``size`` pixels, which ``flag`` gives.

    Raises:
        SSLToolError: if not; the message names sizes that it takes.
    """
    family = family_of_backbone(backbone)
    if family is not None:
        family.check_size(backbone, size, flag)


def patch_of(backbone: nn.Module) -> int | None:
    """The side of a patch in pixels; None if the backbone has none."""
    family = family_of_backbone(backbone)
    return None if family is None else family.patch_size(backbone)


def last_layer(backbone: nn.Module, images: Tensor) -> Tensor:
    """The output of the last layer before it is pooled: the tokens (N, T, D) of a transformer, in the order of its
    ``token_layout``, or a feature map (N, D, H, W).

    Raises:
        SSLToolError: if the backbone's family is unknown or does not define it.
    """
    family = family_of_backbone(backbone)
    if family is None:
        raise SSLToolError(f"a {type(backbone).__name__} has no patch tokens; use a ViT or a ResNet")
    return family.last_layer(backbone, images)


def patch_tokens(backbone: nn.Module, images: Tensor) -> Tensor:
    """The representation of each position, (N, P, D): a transformer's patch tokens, or the last feature map.

    Raises:
        SSLToolError: if the backbone's family is unknown or does not define them.
    """
    out, layout = last_layer(backbone, images), token_layout(backbone)
    return out.flatten(2).mT if layout is None else out[:, layout.prefix :]


def output_and_positions(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The output (N, D) of ``backbone`` and its ``patch_tokens`` (N, P, D), in one forward pass.

    Raises:
        SSLToolError: for a network that ``check_positions`` refuses.
    """
    family = family_of_backbone(backbone)
    if family is None or not family.pools_last_layer:
        raise SSLToolError(f"how a {type(backbone).__name__} pools its last layer is not known; use a ResNet or a ViT")
    out, layout = family.last_layer(backbone, images), family.token_layout(backbone)
    if layout is not None:
        return out[:, 0], out[:, layout.prefix :]
    positions = out.flatten(2).mT
    return positions.mean(dim=1), positions


def check_positions(backbone: nn.Module, arch: str, method: str) -> None:
    """Checks that ``output_and_positions`` is known for ``backbone``, which ``arch`` names, for the method ``method``.

    Raises:
        UsageError: if not.
    """
    family = family_of_backbone(backbone)
    if family is None or not family.pools_last_layer:
        raise UsageError(
            f"{method} compares the positions of a feature map, which {arch} does not give beside its output; choose a "
            "ResNet, a wide ResNet or a ViT with -a, such as resnet50 or vit_small"
        )


def masking_family(backbone: nn.Module) -> Family:
    """The family of a ViT whose patches can be masked.

    Raises:
        SSLToolError: for another network; ``check_masks`` says so before training.
    """
    family = family_of_backbone(backbone)
    if family is None or not family.takes_masks(backbone):
        raise SSLToolError(f"the patches of a {type(backbone).__name__} cannot be masked; use a ViT")
    return family


def masked_tokens(backbone: nn.Module, images: Tensor, masking: Masking = NOTHING) -> Tensor:
    """The tokens of a ViT's last layer for ``images`` (N, 3, S, S), if it sees the patches that ``masking`` describes:
    (N, prefix + P, D) in the order of its ``token_layout``, or (N, prefix + K, D) if only K patches are kept. With
    ``NOTHING`` this is ``last_layer``.

    Raises:
        SSLToolError: if the patches of ``backbone`` cannot be masked.
    """
    return masking_family(backbone).masked_tokens(backbone, images, masking)


def check_masks(backbone: nn.Module, arch: str, method: str) -> None:
    """Checks that the patches of ``backbone``, which ``arch`` names, can be masked, for the method ``method``.

    Raises:
        UsageError: if not.
    """
    try:
        masking_family(backbone)
    except SSLToolError as error:
        raise UsageError(
            f"{method} masks the patches of a ViT, which {arch} does not allow; choose a ViT with -a, such as "
            "vit_small, vit_base_p8 or timm:vit_small_patch16_224"
        ) from error
