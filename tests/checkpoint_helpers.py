"""Checkpoints as other programs lay them out, around small networks made here by torchvision and timm."""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from ssltool.models.backbones import build_backbone

WIDTH = 8
State = dict[str, Tensor]


def noise(size: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


def settled(model: nn.Module, seed: int, size: int = 64) -> nn.Module:
    """``model`` in eval mode, with random weights everywhere and batch norm statistics of random images."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    with torch.no_grad():
        model.train()(noise(size, seed))
    return model.eval()


def resnet(seed: int = 0) -> nn.Module:
    """torchvision's ResNet-18 at an eighth of its width, without a classifier."""
    torch.manual_seed(seed)
    return settled(build_backbone(f"resnet18_w{WIDTH}", stem="imagenet")[0], seed)


def small_resnet(padding: int, seed: int = 0) -> nn.Module:
    """``resnet`` with a 3x3 convolution of stride 1 as its stem."""
    model = resnet(seed)
    model.conv1 = nn.Conv2d(3, WIDTH, 3, 1, padding, bias=False)
    model.maxpool = nn.Identity()
    return settled(model, seed)


def padded_resnet(seed: int = 0) -> nn.Module:
    """``resnet`` as in SwAV and VICReg: padding of one pixel before a first convolution with padding 2."""
    model = resnet(seed)
    model.conv1.padding = (2, 2)
    return nn.Sequential(nn.ConstantPad2d(1, 0.0), model).eval()


def vit(seed: int = 0, **settings: Any) -> nn.Module:
    """timm's ViT for images of 32 pixels; by default a ViT-Ti with patches of 8 pixels."""
    torch.manual_seed(seed)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3, "num_classes": 0}
    return settled(timm.models.VisionTransformer(**(shape | settings)), seed, (shape | settings)["img_size"])


def moco_vit(seed: int = 0) -> nn.Module:
    """A ViT-S with three layers, six heads, and position 0 for the class token, as in MoCo v3."""
    model = vit(seed, embed_dim=384, depth=3, num_heads=6)
    with torch.no_grad():
        model.pos_embed[:, 0] = 0
    return model


def under(prefix: str, model: nn.Module | State) -> State:
    """The weights of a network with a prefix."""
    state = model if isinstance(model, dict) else model.state_dict()
    return {prefix + name: tensor for name, tensor in state.items()}


def linear(prefix: str, *numbers: int, bias: bool = True) -> State:
    """Weights of linear layers with these numbers, as in heads."""
    weights = {f"{prefix}{number}.weight": torch.ones(2, 2) for number in numbers}
    return weights | ({f"{prefix}{number}.bias": torch.ones(2) for number in numbers} if bias else {})


def norm(prefix: str) -> State:
    return {f"{prefix}.running_mean": torch.zeros(2), f"{prefix}.running_var": torch.ones(2)}


@dataclass
class Case:
    """A checkpoint of a program (``entries``), the network that the program evaluates, and the expected results."""

    entries: dict[str, Any]
    network: nn.Module
    program: str
    method: str | None
    epoch: int | None = None
    size: int = 64
    ignored: tuple[str, ...] = ()


def official(state: State, **more: Any) -> dict[str, Any]:
    return {"epoch": 100, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}}} | more


def lightning(state: State) -> dict[str, Any]:
    versions = {"pytorch-lightning_version": "2.1.0", "global_step": 7, "hyper_parameters": {"lr": 0.1}}
    return {"epoch": 99, "state_dict": state, "optimizer_states": [], "loops": {}} | versions


def simsiam(wrapper: str = "module.") -> Case:
    m = resnet()
    state = under("encoder.", m) | linear("encoder.fc.", 0, 3, 6) | linear("predictor.", 0, 3)
    return Case(official(under(wrapper, state)), m, "simsiam", "simsiam", 100, ignored=("encoder.fc", "predictor"))


def simsiam_vit() -> Case:
    m = moco_vit()
    state = under("encoder.", m) | linear("encoder.head.", 0, 3, 6) | linear("predictor.", 0, 3)
    return Case(official(state), m, "simsiam", "simsiam", 100, 32, ("encoder.head", "predictor"))


def nnsiam() -> Case:
    m = resnet()
    state = under("encoder.", m) | linear("encoder.fc.", 0, 3, 6) | linear("predictor.", 0, 3)
    state |= {"queue": torch.ones(4, 2), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return Case(official(state), m, "noncontrastive-ssl", "nnsiam", 100)


def distilled() -> Case:
    m = resnet()
    state = m.state_dict() | {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    statistics = {"teacher_mean": torch.zeros(2), "teacher_std": torch.ones(2)}
    return Case(official(state, **statistics), m, "noncontrastive-ssl", "distill", 100, ignored=("fc",))


def _momentum(m: nn.Module, head: str, other: nn.Module, **heads: tuple[int, ...]) -> State:
    state = under("base_encoder.", m) | under("momentum_encoder.", other) | linear("predictor.", 0, 3)
    for name in ("base_encoder", "momentum_encoder"):
        state |= linear(f"{name}.{head}.", *heads["linear"], bias=False)
        for number in heads["norms"]:
            state |= norm(f"{name}.{head}.{number}")
    return state


def byol() -> Case:
    m = resnet()
    state = _momentum(m, "fc", resnet(1), linear=(0, 3), norms=(1,))
    ignored = ("base_encoder.fc", "momentum_encoder", "predictor")
    return Case(official(state), m, "noncontrastive-ssl", "byol", 100, ignored=ignored)


def mocov3(wrapper: str = "module.") -> Case:
    m = resnet()
    state = _momentum(m, "fc", resnet(1), linear=(0, 3), norms=(1, 4))
    return Case(official(under(wrapper, state), scaler={}), m, "moco-v3", "mocov3", 100)


def mocov3_vit() -> Case:
    m = moco_vit()
    state = _momentum(m, "head", moco_vit(1), linear=(0, 3, 6), norms=(1, 4, 7))
    return Case(official(under("module.", state)), m, "moco-v3", "mocov3", 100, 32)


def moco() -> Case:
    m = resnet()
    state = under("encoder_q.", m) | under("encoder_k.", resnet(1)) | linear("encoder_q.fc.", 0, 2)
    state |= {"queue": torch.ones(2, 4), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    ignored = ("encoder_k", "encoder_q.fc", "queue", "queue_ptr")
    return Case(official(under("module.", state)), m, "moco", "moco", 100, ignored=ignored)


def barlow() -> Case:
    m = resnet()
    state = under("backbone.", m) | linear("projector.", 0, 3, 6, bias=False) | norm("bn")
    return Case({"epoch": 12, "model": under("module.", state), "optimizer": {}}, m, "barlowtwins", "barlow", 12)


def vicreg() -> Case:
    m = padded_resnet()
    state = under("backbone.", m[1]) | linear("projector.", 0, 3) | linear("projector.", 6, bias=False)
    return Case({"epoch": 12, "model": under("module.", state), "optimizer": {}}, m, "vicreg", "vicreg", 12)


def swav() -> Case:
    m = padded_resnet()
    state = m[1].state_dict() | linear("projection_head.", 0, 3) | {"prototypes.weight": torch.ones(3, 2)}
    return Case(under("module.", state), m, "swav", "swav", ignored=("projection_head", "prototypes"))


def deepcluster() -> Case:
    m = padded_resnet()
    state = m[1].state_dict() | linear("projection_head.", 0, 3) | linear("prototypes.prototypes", 0, 1, bias=False)
    return Case(official(under("module.", state)), m, "swav", "deepcluster", 100)


def dino(make: Callable[[int], nn.Module] = vit, size: int = 32) -> Case:
    """A training checkpoint of DINO without ``args``, which is a pickled object; both networks have a head."""
    teacher, student = make(0), make(1)
    heads = linear("head.mlp.", 0, 2, 4) | {"head.last_layer.weight_g": torch.ones(3, 1)}
    entries: dict[str, Any] = {
        "student": under("module.backbone.", student) | under("module.", heads),
        "teacher": under("backbone.", teacher) | heads,
        "epoch": 5,
        "dino_loss": {"center": torch.zeros(1, 3)},
    }
    return Case(entries, teacher, "dino", "dino", 5, size)


def solo(stem: str = "small-padded") -> Case:
    m = small_resnet(padding=2) if stem == "small-padded" else resnet()
    state = under("backbone.", m) | under("momentum_backbone.", resnet(1)) | linear("classifier.", 0)
    state |= linear("projector.", 0, 3) | linear("momentum_projector.", 0, 3) | linear("predictor.", 0, 3)
    return Case(lightning(state), m, "solo-learn", None, 100)


def solo_older() -> Case:
    m = small_resnet(padding=2)
    return Case(lightning(under("encoder.", m) | linear("classifier.", 0)), m, "solo-learn", None, 100)


def lightly_sequential() -> Case:
    m = resnet()
    children = nn.Sequential(*list(m.children())[:-1])
    state = under("backbone.", children) | under("backbone_momentum.", nn.Sequential(*list(resnet(1).children())[:-1]))
    return Case(lightning(state | linear("projection_head.layers.", 0, 3)), m, "lightly", None, 100)


def lightly_generator() -> Case:
    m = small_resnet(padding=1)
    parts = nn.Sequential(m.conv1, m.bn1, m.layer1, m.layer2, m.layer3, m.layer4)
    state = {name.replace("downsample", "shortcut"): tensor for name, tensor in parts.state_dict().items()}
    return Case(lightning(under("backbone.", state) | linear("prediction_head.layers.", 0)), m, "lightly", None, 100)


def lightly_vit() -> Case:
    m = vit()
    state = under("teacher_backbone.vit.", m) | under("student_backbone.vit.", vit(1))
    state |= {"teacher_backbone.mask_token": torch.zeros(1, 1, 192)}
    return Case(lightning(state), m, "lightly", None, 100, 32)


def lightly_byol() -> Case:
    """As lightly's benchmarks save it. They evaluate ``backbone``, which is the student of BYOL."""
    m = resnet()
    state = under("backbone.", m) | under("teacher_backbone.", resnet(1)) | under("student_backbone.", resnet(1))
    return Case(lightning(state | linear("projection_head.layers.", 0, 3)), m, "lightly", None, 100)


def timm_training() -> Case:
    m = vit()
    state = {"epoch": 3, "arch": "vit_tiny", "state_dict": vit(1).state_dict(), "state_dict_ema": m.state_dict()}
    return Case(state, m, "timm", None, 3, 32)


def unknown() -> Case:
    m = resnet()
    return Case(official(under("net.trunk.", m) | linear("net.top.", 0)), m, "unknown", None, 100, ignored=("net",))


def bare() -> Case:
    m = resnet()
    return Case(dict(m.state_dict()), m, "torchvision", None)


def compiled() -> Case:
    m = resnet()
    return Case({"model": under("_orig_mod.module.", m)}, m, "torchvision", None)


PROGRAMS: dict[str, Callable[[], Case]] = {
    "simsiam": simsiam,
    "simsiam in one process": lambda: simsiam(""),
    "simsiam, ViT": simsiam_vit,
    "nnsiam": nnsiam,
    "distilled": distilled,
    "byol": byol,
    "moco": moco,
    "moco-v3": mocov3,
    "moco-v3 in one process": lambda: mocov3(""),
    "moco-v3, ViT": mocov3_vit,
    "barlowtwins": barlow,
    "vicreg": vicreg,
    "swav": swav,
    "deepcluster": deepcluster,
    "dino": dino,
    "dino, ResNet": lambda: dino(resnet, 64),
    "solo-learn, CIFAR": solo,
    "solo-learn, ImageNet": lambda: solo("imagenet"),
    "solo-learn, older": solo_older,
    "lightly, children of a ResNet": lightly_sequential,
    "lightly, its own ResNet": lightly_generator,
    "lightly, ViT": lightly_vit,
    "lightly, BYOL": lightly_byol,
    "timm, training": timm_training,
    "a prefix that nobody has": unknown,
    "bare weights": bare,
    "compiled": compiled,
}


def dino_arguments() -> Namespace:
    """The pickled object in DINO's training checkpoints."""
    return Namespace(arch="vit_small", patch_size=16)


def plain_resnet18(seed: int = 0) -> ResNet:
    """torchvision's ResNet-18 with its classifier."""
    torch.manual_seed(seed)
    model = ResNet(BasicBlock, [2, 2, 2, 2])
    settled(model, seed)
    return model


def headless(model: nn.Module) -> nn.Module:
    """A copy without the classifier."""
    model = copy.deepcopy(model)
    for name in ("fc", "heads", "head"):
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model.eval()
