"""Published training settings, for ``--recipe``.

``cifar``: solo-learn's settings for CIFAR-10 with a ResNet-18 (JMLR 2022, scripts/pretrain/cifar), or else those of the
method's own code. ``imagenet``: the settings of each method's released code for a ResNet-50, or for the ViT that
``arch`` names. Learning rates are per 256 images. ``zero_init_residual`` is named where it is off in the source, and
``arch`` where it is the method's own. Augmentations that ``ssltool.data.views`` does not support are replaced by the
closest ones; docs/method-notes.md lists them.
"""

from __future__ import annotations

from ssltool.errors import UsageError, unknown
from ssltool.methods import METHODS
from ssltool.settings import Settings

_NOT_ZERO = {"zero_init_residual": False}  # torchvision's default

_CIFAR = _NOT_ZERO | {"epochs": 1000, "batch_size": 256, "warmup_epochs": 10, "lr_schedule": "step", "crop_min": 0.08}
_CIFAR_SGD = _CIFAR | {"optimizer": "sgd"}
_CIFAR_LARS = _CIFAR | {"optimizer": "lars", "lars_trust": 0.02, "lars_clip": True}
_WEAK: Settings = {"blur_p": 0.5}
_STRONG = {"jitter": 2.0, "blur_p": 0.5}
_UNBLURRED = {"blur_p": 0.0}

_IMAGENET = {"batch_size": 4096, "warmup_epochs": 10, "lr_schedule": "step", "crop_min": 0.08, "blur_p": 0.5}
_IMAGENET_LARS = _IMAGENET | {"optimizer": "lars"}
_IMAGENET_SGD = _IMAGENET | {"optimizer": "sgd", "weight_decay": 1e-4, "crop_min": 0.2}
_SIMSIAM = _IMAGENET_SGD | {"lr": 0.05, "batch_size": 512, "epochs": 100, "warmup_epochs": 0, "lr_schedule": "epoch"}
_SWAV = _IMAGENET_LARS | {
    **_NOT_ZERO,
    "lr": 0.3,
    "final_lr": 3e-4,
    "weight_decay": 1e-6,
    "epochs": 800,
    "crop_min": 0.14,
    "jitter": 2.0,
}
_CROPS_ONLY: Settings = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
_TWO_CROPS = {"local_crops": 0}
_ASYMMETRIC = {"asymmetric": True}

_BARLOW = _IMAGENET_LARS | {
    "lr": 0.2,
    "final_lr": 2e-4,
    "weight_decay": 1e-6,
    "batch_size": 2048,
    "epochs": 1000,
    "options": _ASYMMETRIC,
}

RECIPES: dict[str, dict[str, Settings]] = {
    "cifar": {
        "simsiam": _CIFAR_SGD | _WEAK | {"lr": 0.5, "weight_decay": 1e-5, "options": {"fix_pred_lr": True}},
        "byol": _CIFAR_LARS
        | _UNBLURRED
        | {"lr": 1.0, "weight_decay": 1e-5, "options": {"momentum": 0.99, **_ASYMMETRIC}},
        "simclr": _CIFAR_LARS
        | _STRONG
        | {"lr": 0.4, "weight_decay": 1e-4, "options": {"dim": 256, "temperature": 0.2}},
        "moco": _CIFAR_SGD
        | _WEAK
        | {
            "lr": 0.3,
            "weight_decay": 1e-4,
            "options": {
                "dim": 256,
                "hidden": 2048,
                "queue": 32768,
                "momentum": 0.99,
                "momentum_final": 0.999,
                "symmetric": True,
                "queued": "separate",
            },
        },
        "mocov3": _CIFAR_LARS
        | _UNBLURRED
        | {"lr": 0.3, "weight_decay": 1e-6, "options": {"temperature": 0.2, **_ASYMMETRIC}},
        "barlow": _CIFAR_LARS
        | _UNBLURRED
        | {"lr": 0.3, "weight_decay": 1e-4, "options": {"dim": 2048, "hidden": 2048, "scale": 0.1, **_ASYMMETRIC}},
        # solo-learn does not halve the variance term: its 25 is 50 here.
        "vicreg": _CIFAR_LARS
        | _UNBLURRED
        | {
            "lr": 0.3,
            "weight_decay": 1e-4,
            "crop_min": 0.2,
            "solarize_p": 0.1,
            "options": {"dim": 2048, "hidden": 2048, "std": 50.0},
        },
        "wmse": _CIFAR
        | _UNBLURRED
        | {"optimizer": "adam", "lr": 2e-3, "weight_decay": 1e-6, "crop_min": 0.2, "jitter": 2.0},
        "mmcr": _NOT_ZERO
        | _UNBLURRED
        | {
            "optimizer": "adam",
            "lr": 8e-3,  # 1e-3 for the batch of 32
            "fix_all_lr": True,
            "weight_decay": 1e-6,
            "batch_size": 32,
            "epochs": 500,
            "crop_min": 0.08,
            "options": {"n_augs": 40},
        },
        "frossl": _CIFAR_LARS | _STRONG | {"lr": 0.3, "weight_decay": 1e-4},
        "directpred": _NOT_ZERO
        | {
            "optimizer": "sgd",
            "lr": 0.06,  # 0.03 for the batch of 128
            "fix_all_lr": True,
            "weight_decay": 4e-4,
            "batch_size": 128,
            "epochs": 100,
            "crop_min": 0.08,
            "blur_p": 0.0,
        },
        "empssl": _CIFAR_LARS
        | {
            "lr": 0.768,  # 0.3 for the batch of 100
            "weight_decay": 1e-4,
            "lars_trust": 0.005,
            "batch_size": 100,
            "epochs": 30,
            "warmup_epochs": 0,
            "crop_min": 0.25,
            "blur_p": 0.1,
            "solarize_p": 0.1,
        },
        "swav": _CIFAR_LARS
        | _STRONG
        | {"lr": 0.6, "weight_decay": 1e-6, "options": {"queue_start": 50, "freeze": 390, **_TWO_CROPS}},
        "deepcluster": _CIFAR_LARS
        | _STRONG
        | {"lr": 0.6, "final_lr": 6e-4, "weight_decay": 1e-6, "warmup_epochs": 11, "options": _TWO_CROPS},
        "dino": _CIFAR_LARS
        | _UNBLURRED
        | {
            "lr": 0.3,
            "weight_decay": 1e-6,
            "options": {
                "prototypes": 4096,
                "teacher_temp": 0.07,
                "momentum": 0.9995,
                "clip_grad": 0.0,
                **_TWO_CROPS,
                **_ASYMMETRIC,
            },
        },
        "nnclr": _CIFAR_LARS
        | _UNBLURRED
        | {
            "lr": 0.4,
            "weight_decay": 1e-5,
            "options": {"temperature": 0.2, "queue": 65536, "last_bn_affine": True, **_ASYMMETRIC},
        },
        "nnsiam": _CIFAR_SGD
        | _UNBLURRED
        | {"lr": 0.5, "weight_decay": 1e-5, "options": {"pred_dim": 4096, "queue": 65536, "fix_pred_lr": True}},
        "ressl": _CIFAR_SGD
        | _WEAK
        | {
            "lr": 0.05,
            "weight_decay": 1e-4,
            "options": {"dim": 256, "queue": 65536, "momentum": 0.99, "momentum_final": 1.0},
        },
        "paws": _CIFAR_LARS
        | _UNBLURRED
        | {
            "lr": 3.2,
            "final_lr": 0.032,
            "weight_decay": 1e-6,
            "lars_trust": 0.001,
            "lars_clip": False,
            "epochs": 600,
            "crop_min": 0.75,
            "gray_p": 0.0,
            "solarize_p": 0.2,
            "options": {
                "dim": 128,
                "predictor": False,
                "support_per_class": 64,
                "labels_fraction": 0.08,
                "local_size": 18,
            },
        },
        "teacher": {
            "arch": "vit_notebook",
            "mean": (0.4914, 0.4822, 0.4465),
            "std": (0.2023, 0.1994, 0.2010),
            "optimizer": "adamw",
            "lr": 2e-3,  # 0.001 for the batch of 128
            "batch_size": 128,
            "epochs": 10,
            "weight_decay": 0.01,
            "fix_all_lr": True,
            "crop_min": 0.8,
            "jitter_p": 0.0,
            "gray_p": 0.0,
            "blur_p": 0.0,
        },
        "supervised": {
            **_NOT_ZERO,
            "optimizer": "sgd",
            "lr": 0.2,
            "weight_decay": 5e-4,
            "batch_size": 128,
            "epochs": 200,
            "crop_min": 0.5,
            "jitter_p": 0.0,
            "gray_p": 0.0,
            "blur_p": 0.0,
        },
    },
    "imagenet": {
        "simsiam": _SIMSIAM | {"options": {"fix_pred_lr": True}},
        "byol": _IMAGENET_LARS
        | {"lr": 0.2, "weight_decay": 1.5e-6, "epochs": 1000, "options": {"independent_teacher": True, **_ASYMMETRIC}},
        "simclr": _IMAGENET_LARS
        | {"lr": 0.3, "weight_decay": 1e-6, "epochs": 100, "jitter": 2.0, "options": {"temperature": 0.1}},
        "moco": _SIMSIAM | _NOT_ZERO | {"lr": 0.03, "batch_size": 256, "epochs": 200},
        "mocov3": _IMAGENET_LARS
        | {"lr": 0.6, "weight_decay": 1e-6, "epochs": 100, "crop_min": 0.2, "options": _ASYMMETRIC},
        "directclr": _IMAGENET_LARS
        | {"lr": 0.3, "final_lr": 3e-4, "weight_decay": 1e-6, "epochs": 100, "options": _ASYMMETRIC},
        "barlow": _BARLOW,
        "vicreg": _BARLOW,
        "vicregl": _IMAGENET_LARS
        | {
            "lr": 0.3,
            "final_lr": 3e-4,
            "weight_decay": 1e-6,
            "batch_size": 512,
            "epochs": 100,
            "options": _ASYMMETRIC,
        },
        "swav": _SWAV | {"options": {"queue": 0}},
        "deepcluster": _SWAV,
        "dino": _IMAGENET_SGD
        | _NOT_ZERO
        | {
            "lr": 0.03,
            "final_lr": 5e-7,
            "batch_size": 512,
            "epochs": 100,
            "crop_min": 0.14,
            "options": _ASYMMETRIC,
        },
        "simdino": _IMAGENET
        | {
            "arch": "vit_base",
            "optimizer": "adamw",
            "lr": 5e-4,
            "final_lr": 5e-7,
            "weight_decay": 0.04,
            "final_weight_decay": 0.4,
            "batch_size": 512,
            "epochs": 100,
            "crop_min": 0.4,
            "options": {"local_crops": 10, **_ASYMMETRIC},
        },
        "ibot": _IMAGENET
        | {
            "arch": "vit_small_h6",
            "optimizer": "adamw",
            "lr": 5e-4,
            "final_lr": 2.5e-7,
            "weight_decay": 0.04,
            "final_weight_decay": 0.4,
            "batch_size": 1024,
            "epochs": 800,
            "crop_min": 0.25,
            "options": _ASYMMETRIC,
        },
        "dinov2": _IMAGENET
        | {
            "arch": "vit_large",
            "optimizer": "adamw",
            "lr": 2**0.5 * 5e-4,  # 0.004 for a batch of 1024, and by its square root: 0.004 sqrt(2) for that of 2048
            "final_lr": 1.25e-7,
            "weight_decay": 0.04,
            "final_weight_decay": 0.4,
            "batch_size": 2048,
            "epochs": 100,
            "crop_min": 0.32,
            "options": {"momentum": 0.992, "centering": "ema", **_ASYMMETRIC},
        },
        "nnclr": _IMAGENET_LARS
        | {"lr": 0.3, "weight_decay": 1e-6, "epochs": 1000, "options": {"last_bn_affine": True, **_ASYMMETRIC}},
        "nnsiam": _SIMSIAM | {"options": {"fix_pred_lr": True}},
        "ressl": _IMAGENET_SGD | _NOT_ZERO | {"lr": 0.05, "batch_size": 256, "epochs": 200, "warmup_epochs": 5},
        "paws": _IMAGENET_LARS
        | _NOT_ZERO
        | {
            "lr": 0.4,
            "final_lr": 4e-3,
            "weight_decay": 1e-6,
            "epochs": 100,
            "crop_min": 0.14,
            "jitter": 2.0,
            "options": {"support_classes": 960},
        },
        "lejepa": {
            "optimizer": "adamw",
            "lr": 2.5e-4,  # 5e-4 for the batch of 512
            "final_lr": 2.5e-7,
            "weight_decay": 5e-4,
            "batch_size": 512,
            "epochs": 100,
            "warmup_epochs": 1,
            "lr_schedule": "step",
            "crop_min": 0.3,
            "blur_p": 0.5,
            "solarize_p": 0.2,
        },
        "visreg": _IMAGENET
        | {
            "arch": "vit_base",
            "optimizer": "adamw",
            "lr": 1.8e-3,  # 9e-4 for the batch of 128
            "final_lr": 1.8e-6,
            "weight_decay": 0.05,
            "batch_size": 128,
            "epochs": 100,
            "warmup_epochs": 5,
            "crop_min": 0.3,
            "solarize_p": 0.2,
        },
        "mae": _IMAGENET
        | _CROPS_ONLY
        | {
            "arch": "vit_base",
            "optimizer": "adamw",
            "lr": 1.5e-4,
            "weight_decay": 0.05,
            "epochs": 800,
            "warmup_epochs": 40,
            "crop_min": 0.2,
        },
        "ijepa": _IMAGENET
        | _CROPS_ONLY
        | {
            "arch": "vit_huge_p14",
            "optimizer": "adamw",
            "lr": 1.25e-4,  # 0.001 for the batch of 2048
            "final_lr": 1.25e-7,
            "weight_decay": 0.04,
            "final_weight_decay": 0.4,
            "batch_size": 2048,
            "epochs": 300,
            "warmup_epochs": 40,
            "crop_min": 0.3,
            "flip_p": 0.0,
            "options": {"depth": 12, "heads": 16},
        },
        "distill": _SIMSIAM,
        "supervised": _SIMSIAM
        | _NOT_ZERO
        | {
            "lr": 0.1,
            "batch_size": 256,
            "epochs": 90,
            "crop_min": 0.08,
            "jitter_p": 0.0,
            "gray_p": 0.0,
            "blur_p": 0.0,
        },
    },
}

VIT_OPTIONS: dict[str, dict[str, Settings]] = {
    "imagenet": {name: {"drop_path": 0.1} for name in ("dino", "simdino", "ibot")} | {"dinov2": {"drop_path": 0.3}}
}
"""Options that a recipe has for ssltool's ViTs only."""


def recipes_of(method: str) -> list[str]:
    """Names of the recipes available for a method."""
    return [name for name, methods in RECIPES.items() if method in methods]


def published(method: str, name: str, *, vit: bool = False) -> Settings:
    """The recipe ``name`` of a method: settings of ``PretrainConfig``, and the method's options under "options".

    ``vit``: whether it is for one of ssltool's ViTs.

    Raises:
        SSLToolError: for an unknown recipe, or a recipe that is not available for the method.
    """
    METHODS[method]
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if method not in RECIPES[name]:
        available = " and ".join(recipes_of(method)) or "none"
        raise UsageError(f"--recipe {name} is not available for {method}; available: {available}")
    recipe = RECIPES[name][method]
    more = VIT_OPTIONS.get(name, {}).get(method, {}) if vit else {}
    return recipe | {"options": recipe.get("options", {}) | more}
