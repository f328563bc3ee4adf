"""Checkpoints of the programs since 2021, as they lay them out, each with the outputs of the program's own network."""

from __future__ import annotations

import copy
import importlib.util
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import vit_reference as vits
import wide_resnet_reference as wide
from torch import Tensor, nn
from vjepa_helpers import release, video_model

from checkpoint_helpers import lightning, linear, resnet, settled, small_resnet, under, vit

Outputs = Callable[[Tensor], Tensor]


@dataclass
class Modern:
    """A checkpoint.

    Attributes:
        program: as ssltool names it.
        file: what the file is.
        outputs: the outputs of the network that the program evaluates.
        arch: the beginning of the architecture that is found.
        source: the package whose classes wrote the file; ``layout`` if it follows the published code.
    """

    program: str
    file: str
    entries: dict[str, Any]
    outputs: Outputs
    arch: str = "timm:"
    source: str = "layout"
    size: int = vits.SIZE


def _outputs(function: vits.Expected, state: vits.State) -> Outputs:
    return lambda images: function(state, images)


def _heads(prefix: str = "") -> vits.State:
    return linear(f"{prefix}dino_head.mlp.", 0, 2) | linear(f"{prefix}ibot_head.mlp.", 0, 2)


def _features(model: nn.Module) -> Outputs:
    return lambda images: model.forward_head(model.forward_features(images), pre_logits=True)


def _mean_of_features(model: nn.Module) -> Outputs:
    return lambda images: model.forward_features(images)[:, 1:].mean(1)


def dinov2() -> list[Modern]:
    plain, registers = vits.weights(mask_token=True), vits.weights(registers="register_tokens", mask_token=True)
    giant = vits.weights(gated="w12", registers="register_tokens")
    teacher = {"teacher": under("backbone.", vits.chunked(plain)) | _heads()}
    run = under("teacher.backbone.", plain) | under("student.backbone.", vits.weights(1)) | _heads("teacher.")
    out = _outputs(vits.class_token, plain)
    with_registers = _outputs(vits.class_token, registers)
    return [
        Modern("DINOv2", "release", plain, out, "timm:vit_small_patch14_dinov2"),
        Modern("DINOv2", "release, registers", registers, with_registers, "timm:vit_small_patch14_reg4_dinov2"),
        Modern("DINOv2", "release, SwiGLU", giant, _outputs(vits.class_token, giant), "timm:vit_giant_patch14_reg4"),
        Modern("DINOv2", "block chunks", vits.chunked(plain, 2), out, "timm:vit_small_patch14_dinov2"),
        Modern("DINOv2", "teacher_checkpoint.pth", teacher, out, "timm:vit_small_patch14_dinov2"),
        Modern("DINOv2", "run", {"model": run}, out, "timm:vit_small_patch14_dinov2"),
    ]


def dinov3() -> list[Modern]:
    def out(state: vits.State) -> Outputs:
        return lambda images: vits.class_token(state, images, 1e-5)

    plain, gated = vits.dinov3(), vits.dinov3(gated="w1, w2")
    unbiased = vits.dinov3(base=50.0, biased=False) | {"local_cls_norm.weight": torch.ones(vits.DIM)}
    gram = under("teacher.backbone.", plain) | under("gram_teacher.backbone.", gated) | _heads("teacher.")
    gram |= under("student.backbone.", vits.dinov3(1))
    torch.manual_seed(0)
    model = settled(timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 2, 1), conv_mlp=False), 0)
    return [
        Modern("DINOv3", "release", plain, out(plain), "timm:vit_small_patch16_dinov3_qkvb"),
        Modern("DINOv3", "release, SwiGLU", gated, out(gated), "timm:vit_small_plus_patch16_dinov3_qkvb"),
        Modern("DINOv3", "no biases, another base", unbiased, out(unbiased), "timm:vit_small_patch16_dinov3,"),
        Modern("DINOv3", "beside a Gram teacher", {"model": gram}, out(plain), "timm:vit_small_patch16_dinov3_qkvb"),
        Modern("DINOv3", "release, ConvNeXt", _meta_convnext(model), _features(model), "timm:convnext_", size=64),
    ]


def _meta_convnext(model: nn.Module) -> vits.State:
    """The weights of timm's ConvNeXt with the names of DINOv3's code."""
    rules = (
        ("stem.", "downsample_layers.0."),
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("head.norm.", "norm."),
    )
    out: vits.State = {}
    for key, tensor in model.state_dict().items():
        name = key
        if ".downsample." in name:
            name = name.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out | {f"norms.3.{part}": out[f"norm.{part}"] for part in ("weight", "bias")}


def masked() -> list[Modern]:
    release = vits.weights(scaled=False)
    decoder = linear("decoder_blocks.0.mlp.fc", 1) | linear("decoder_pred", 0) | {"mask_token": torch.ones(1, 1, 8)}
    decoder |= {"decoder_embed.weight": torch.ones(8, 8), "decoder_pos_embed": torch.ones(1, 17, 8)}
    tuned = vits.weights(scaled=False, last_norm="fc_norm") | {"head.weight": torch.ones(3, vits.DIM)}
    target, context = vits.weights(scaled=False, class_token=False), vits.weights(1, scaled=False, class_token=False)
    jepa = {
        "encoder": under("module.", context),
        "predictor": under("module.", linear("predictor_embed", 0)),
        "target_encoder": under("module.", target),
        "opt": {},
        "epoch": 5,
    }
    ibot = {
        "student": under("module.backbone.", vits.weights(1, scaled=False) | {"masked_embed": torch.ones(1, vits.DIM)}),
        "teacher": under("backbone.", release) | linear("head.mlp.", 0),
        "ibot_loss": {"center": torch.ones(2)},
        "epoch": 5,
    }
    msn = {
        "encoder": under("module.", vits.weights(1, scaled=False)),
        "target_encoder": under("module.", release | linear("fc.fc", 1)),
        "prototypes": torch.ones(3, 3),
        "epoch": 5,
    }
    out = _outputs(vits.class_token, release)
    return [
        Modern("MAE", "with decoder", {"model": release | decoder, "epoch": 4}, out),
        Modern("timm", "MAE, release", {"model": release}, out),
        Modern("timm", "MAE, fine-tuned with global pool", {"model": tuned}, _outputs(vits.normed_mean, tuned)),
        Modern("I-JEPA", "training", jepa, _outputs(vits.mean_of_normed, target)),
        Modern("iBOT", "training", ibot, out),
        Modern("MSN", "training", msn, out),
    ]


def resnets() -> list[Modern]:
    m, other, small = resnet(), resnet(1), small_resnet(padding=1)
    mlp = linear("encoder.1.layer1.", 0) | linear("projector.layer1.", 0)
    hua = under("backbone.", small) | under("encoder.0.", small) | mlp
    paws = {"encoder": under("module.", dict(m.state_dict()) | linear("fc.fc", 1) | linear("pred.fc", 1)), "opt": {}}
    ressl = under("encoder_q.net.", m) | under("encoder_k.net.", other) | linear("encoder_q.head.linear", 1)
    direct = under("backbone.", m) | linear("online_head.", 0) | linear("projector.", 0, bias=False)
    trunk = {"trunk": under("_feature_blocks.", m), "heads": linear("0.clf.", 0)}
    vissl = {"phase_idx": 3, "classy_state_dict": {"base_model": {"model": trunk}, "train": True}}
    mm = {"meta": {"epoch": 3}, "state_dict": under("backbone.", m) | linear("neck.fc", 0)}
    scan = under("backbone.", small) | linear("contrastive_head.", 0, 2)
    hua_simsiam = {"state_dict": hua | linear("predictor.layer1.", 0) | linear("projector.layer2.", 0)}
    stable = lightning(under("backbone.", m) | linear("projector.", 0, 3) | linear("callbacks_modules.probe.", 0))
    train = {"state_dict": under("embedding_model.wrapped_model._features.", m), "lightly_train": {"version": "0.1"}}
    return [
        Modern("ReSSL", "training", {"model": under("module.", ressl), "epoch": 3}, m, "resnet18_w8", size=64),
        Modern("PAWS", "training", paws, m, "resnet18_w8", size=64),
        Modern("DirectCLR", "checkpoint.pth", {"model": direct, "epoch": 3}, m, "resnet18_w8", size=64),
        Modern("VISSL", "training", vissl, m, "resnet18_w8", size=64),
        Modern("OpenMMLab", "training", mm, m, "resnet18_w8", size=64),
        Modern("SCAN", "pretext", scan, small, "resnet18_w8"),
        Modern("PatrickHua/SimSiam", "SimSiam", hua_simsiam, small, "resnet18_w8"),
        Modern("PatrickHua/SimSiam", "SimCLR", {"state_dict": hua | linear("projector.layer2.", 0)}, small, "resnet18"),
        Modern("stable-pretraining", "training", stable, m, "resnet18_w8", size=64),
        Modern("lightly-train", "checkpoint, ResNet", train, m, "resnet18_w8", size=64),
        Modern("timm", "DeepSpeed", {"module": _deep().state_dict()}, _features(_deep()), source="timm", size=64),
    ]


def _deep() -> nn.Module:
    torch.manual_seed(0)
    settings = {"num_classes": 10, "channels": (8, 16, 32, 64), "layers": (1, 1, 1, 1), "stem_width": 8}
    return settled(timm.create_model("resnet18d", **settings), 0)


def transformers() -> list[Modern]:
    """solo-learn's networks, which are timm's."""
    mae = vit(num_heads=12)
    solo = lightning(under("backbone.", mae) | linear("classifier.", 0) | linear("decoder.decoder_embed.", 0))
    torch.manual_seed(0)
    convnext = settled(timm.create_model("convnext_atto", num_classes=0, depths=(1, 1, 1, 1)), 0)
    solo_convnext = lightning(under("backbone.", convnext) | linear("classifier.", 0) | linear("projector.", 0))
    shape = {"img_size": 64, "window_size": 2, "embed_dim": 32, "depths": (1, 2), "num_heads": (1, 2)}
    swin = settled(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **shape), 0)
    solo_swin = lightning(under("backbone.", swin) | linear("classifier.", 0) | linear("projector.", 0))
    return [
        Modern("solo-learn", "MAE", solo, mae, "vit_tiny_h12_p8"),
        Modern("solo-learn", "ConvNeXt", solo_convnext, convnext, "timm:convnext_atto", size=64),
        Modern("solo-learn", "Swin", solo_swin, swin, "timm:swin_tiny", size=64),
    ]


def wide_resnets() -> list[Modern]:
    """CIFAR's wide ResNets, which are WRN-28-2 in both programs."""
    state = wide.paws_weights(blocks=4, widening=2)
    paws = {"encoder": under("module.", state | linear("fc.fc", 1, 2, 3)), "opt": {}, "epoch": 3}
    other = wide.solo_weights(blocks=4, widening=2)
    solo = lightning(under("backbone.", other) | linear("classifier.", 0) | linear("projector.", 0))

    def outputs(forward: Callable[[vits.State, Tensor], Tensor], weights: vits.State) -> Outputs:
        return lambda images: forward(weights, images)

    return [
        Modern("PAWS", "WRN-28-2", paws, outputs(wide.paws, state), "wide_resnet28w2", size=32),
        Modern("solo-learn", "WRN-28-2", solo, outputs(wide.solo, other), "wide_resnet28w2_leaky", size=32),
    ]


class ClipLayer(nn.Module):
    """A layer of CLIP's image encoder, with the names of its code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, dim // 64, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), c_proj=nn.Linear(4 * dim, dim))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Clip(nn.Module):
    """CLIP's image encoder for images of 32 pixels, without its projection."""

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.positional_embedding = nn.Parameter(torch.randn(17, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(ClipLayer(dim), ClipLayer(dim))})

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        out: Tensor = self.ln_post(self.transformer["resblocks"](self.ln_pre(x))[:, 0])
        return out


def clip() -> list[Modern]:
    torch.manual_seed(0)
    plain = settled(Clip(), 0, 32)
    openai = copy.deepcopy(plain)
    for layer in openai.transformer["resblocks"]:
        layer.mlp.gelu = QuickGelu()
    text = {
        "text_projection": torch.ones(2, 2),
        "logit_scale": torch.tensor(1.0),
        "positional_embedding": torch.ones(3, 2),
    }
    both = under("visual.", plain) | {"visual.proj": torch.ones(128, 2)} | text
    numbers = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    image = dict(plain.state_dict()) | {"proj": torch.ones(128, 2)}
    return [
        Modern("open_clip", "training", {"epoch": 3, "state_dict": under("module.", both)}, plain, _CLIP, size=32),
        Modern("open_clip", "image encoder", image, plain, _CLIP, size=32),
        Modern("CLIP", "release", both | numbers, openai, "timm:vit_base_patch32_clip_quickgelu_224", size=32),
    ]


_CLIP = "timm:vit_base_patch32_clip_224"


def small_vit(seed: int = 0, **settings: Any) -> nn.Module:
    return vit(seed, embed_dim=128, depth=2, num_heads=2, **settings)


def beit(**settings: Any) -> nn.Module:
    """timm's small BEiT, whose names are those of the published code."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 0}
    return settled(timm.create_model("beit_base_patch16_224", **shape, **settings), 0, 32)


def frameworks() -> list[Modern]:
    """ViTs in the files of frameworks, around timm's."""
    m, other = small_vit(), small_vit(1)
    tuned, shared = beit(), beit(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, global_pool="token")
    extra = {"mask_token": torch.ones(1, 1, 128), "lm_head.weight": torch.ones(9, 128)}
    ema = {f"backbone.{name}": torch.tensor(0.5) for name in ("base_ema_coefficient", "ema_coefficient")}
    pair = under("backbone.teacher.", m) | under("backbone.student.", other) | ema | linear("projector.", 0)
    masked = under("encoder.vit.", m) | under("encoder.patch_embed.", m.patch_embed) | linear("decoder.blocks.", 0)
    train = {
        "state_dict": under("teacher_embedding_model.wrapped_model._model.", m)
        | under("student_embedding_model.wrapped_model._model.", other),
        "lightly_train": {"version": "0.18.0"},
    }
    mm = {"meta": {"epoch": 3}, "state_dict": under("backbone.", openmmlab(m)) | linear("neck.fc", 0)}
    jepa = small_vit(class_token=False, global_pool="avg", fc_norm=False)
    video = {
        "encoder": under("module.backbone.", small_vit(1, class_token=False, global_pool="avg", fc_norm=False)),
        "target_encoder": under("module.backbone.", jepa),
        "predictor": under("module.backbone.", linear("predictor_embed", 0)),
    }
    settings = {"model": m.state_dict(), "args": {"norm_pix_loss": True, "mask_ratio": 0.75}}
    biases = {"model": shared.state_dict() | extra}
    arch, dim = "timm:vit_small_patch16_224.dino", 32
    return [
        Modern("BEiT", "fine-tuned", {"model": tuned.state_dict()}, _features(tuned), "timm:beit_base", "timm", dim),
        Modern("BEiT", "shared biases", biases, _features(shared), "timm:beit", size=dim),
        Modern("stable-pretraining", "teacher and student", lightning(pair), _features(m), arch, size=dim),
        Modern("stable-pretraining", "MAE", lightning(masked), _features(m), arch, size=dim),
        Modern("lightly-train", "checkpoint, timm's ViT", train, _mean_of_features(m), size=dim),
        Modern("OpenMMLab", "ViT", mm, _features(m), arch, size=dim),
        Modern("V-JEPA", "encoder of images", video, _features(jepa), size=dim),
        Modern("MAE", "encoder, with its settings", settings, _features(m), arch, size=dim),
    ]


def video() -> list[Modern]:
    """V-JEPA 2, around the class of transformers."""
    if importlib.util.find_spec("transformers") is None:
        return []
    model = video_model()
    entries = release(model) | {"args": {"model": {"num_heads": 2}, "data": {"crop_size": 32}}}
    outputs = MeanOfFrames(model)
    return [Modern("V-JEPA", "V-JEPA 2, image as two frames", entries, outputs, "transformers:vjepa2", size=32)]


class MeanOfFrames(nn.Module):
    """The mean token of an image that is repeated to two frames."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        frames = torch.stack([images, images], dim=1)
        out: Tensor = self.model(frames, skip_predictor=True).last_hidden_state.mean(dim=1)
        return out


def openmmlab(model: nn.Module) -> vits.State:
    """The weights of timm's ViT with OpenMMLab's names."""
    rules = (
        ("patch_embed.proj", "patch_embed.projection"),
        ("blocks.", "layers."),
        ("mlp.fc1", "ffn.layers.0.0"),
        ("mlp.fc2", "ffn.layers.1"),
        (".norm", ".ln"),
    )
    out: vits.State = {}
    for key, tensor in model.state_dict().items():
        name = key
        for timms, theirs in rules:
            name = name.replace(timms, theirs)
        out[f"ln1.{name.partition('.')[2]}" if key.startswith("norm.") else name] = tensor
    return out


def all_modern() -> list[Modern]:
    families = [*dinov2(), *dinov3(), *masked(), *resnets(), *wide_resnets(), *transformers()]
    return [*families, *clip(), *frameworks(), *video()]
