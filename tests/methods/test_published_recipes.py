"""The numbers of every recipe, defaults included, against those of the published configurations.

``cifar``: solo-learn 9187ea3, scripts/pretrain/cifar and the defaults in its code; suncet's CIFAR-10 configuration for
PAWS; the student/teacher study's notebook; kuangliu/pytorch-cifar. ``imagenet``: the released code of each method.
Rates are for 256 images.
"""

from __future__ import annotations

from typing import Any

import pytest

from ssltool.config import PretrainConfig
from ssltool.methods import method_options
from ssltool.methods.options import gather_options
from ssltool.methods.recipes import RECIPES
from ssltool.stages.pretrain.recipe import apply_recipe

SOLO = {"epochs": 1000, "batch_size": 256, "warmup_epochs": 10, "lr_schedule": "step", "final_lr": 0.0, "jitter_p": 0.8}
SOLO |= {"gray_p": 0.2, "flip_p": 0.5, "solarize_p": 0.0, "final_weight_decay": None, "fix_all_lr": False}
SGD = SOLO | {"optimizer": "sgd", "momentum": 0.9}
LARS = SOLO | {"optimizer": "lars", "momentum": 0.9, "lars_trust": 0.02, "lars_clip": True}
WEAK = {"crop_min": 0.08, "jitter": 1.0, "blur_p": 0.5}  # augmentations/symmetric_weak.yaml
STRONG = {"crop_min": 0.08, "jitter": 2.0, "blur_p": 0.5}  # symmetric.yaml: 0.8, 0.8, 0.8, 0.2
UNBLURRED = {"crop_min": 0.08, "jitter": 1.0, "blur_p": 0.0}  # asymmetric.yaml

RELEASED = {"momentum": 0.9, "jitter_p": 0.8, "gray_p": 0.2, "flip_p": 0.5, "solarize_p": 0.0, "blur_p": 0.5}
RELEASED |= {"final_weight_decay": None, "fix_all_lr": False}
STEP = RELEASED | {"lr_schedule": "step", "warmup_epochs": 10}
BIG = STEP | {"optimizer": "lars", "lars_trust": 0.001, "lars_clip": False, "batch_size": 4096, "final_lr": 0.0}
BIG |= {"crop_min": 0.08, "jitter": 1.0}
SMALL = RELEASED | {"optimizer": "sgd", "lr_schedule": "epoch", "warmup_epochs": 0, "weight_decay": 1e-4}
SMALL |= {"final_lr": 0.0, "crop_min": 0.2, "jitter": 1.0}
CLUSTERING = BIG | {"lr": 0.3, "final_lr": 3e-4, "weight_decay": 1e-6, "epochs": 800, "crop_min": 0.14, "jitter": 2.0}
PLAIN = {"jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0, "solarize_p": 0.0, "flip_p": 0.5}

Wanted = tuple[dict[str, Any], dict[str, Any]]

CIFAR: dict[str, Wanted] = {
    "simsiam": (
        SGD | WEAK | {"lr": 0.5, "weight_decay": 1e-5},
        {"dim": 2048, "pred_dim": 512, "fix_pred_lr": True, "n_augs": 2},
    ),
    "byol": (
        LARS | UNBLURRED | {"lr": 1.0, "weight_decay": 1e-5},
        {"dim": 256, "hidden": 4096, "momentum": 0.99, "momentum_final": 1.0, "asymmetric": True},
    ),
    "simclr": (
        LARS | STRONG | {"lr": 0.4, "weight_decay": 1e-4},
        {"dim": 256, "hidden": 2048, "temperature": 0.2},
    ),
    "moco": (
        SGD | WEAK | {"lr": 0.3, "weight_decay": 1e-4},
        {"dim": 256, "hidden": 2048, "temperature": 0.2, "queue": 32768, "momentum": 0.99, "momentum_final": 0.999}
        | {"symmetric": True, "queued": "separate"},  # one queue for each view
    ),
    "mocov3": (
        LARS | UNBLURRED | {"lr": 0.3, "weight_decay": 1e-6},
        {"dim": 256, "hidden": 4096, "temperature": 0.2, "momentum": 0.99, "momentum_final": 1.0, "asymmetric": True},
    ),
    "barlow": (
        LARS | UNBLURRED | {"lr": 0.3, "weight_decay": 1e-4},
        {"dim": 2048, "hidden": 2048, "lambd": 0.0051, "scale": 0.1, "asymmetric": True},
    ),
    "vicreg": (  # solo-learn does not halve the variance term
        LARS | UNBLURRED | {"lr": 0.3, "weight_decay": 1e-4, "crop_min": 0.2, "solarize_p": 0.1},
        {"dim": 2048, "hidden": 2048, "sim": 25.0, "std": 2 * 25.0, "cov": 1.0, "asymmetric": False},
    ),
    "wmse": (
        SOLO | UNBLURRED | {"optimizer": "adam", "lr": 2e-3, "weight_decay": 1e-6, "crop_min": 0.2, "jitter": 2.0},
        {"dim": 64, "hidden": 1024, "w_size": 128, "w_iter": 1, "eps": 0.0, "n_augs": 2},
    ),
    "mmcr": (  # pretrain_cifar_stl.py: Adam, 1e-3 for a batch of 32, and no schedule
        UNBLURRED | {"optimizer": "adam", "lr": 1e-3 * 256 / 32, "fix_all_lr": True, "weight_decay": 1e-6}
        | {"batch_size": 32, "epochs": 500},
        {"dim": 128, "hidden": 512, "lambd": 0.0, "norm": "nuclear", "n_augs": 40},
    ),
    "frossl": (  # scripts/pretrain/cifar/frossl.yaml, with random crops
        LARS | STRONG | {"lr": 0.3, "weight_decay": 1e-4},
        {"dim": 1024, "hidden": 2048, "sim": 1.0, "frobenius": 1.0, "n_augs": 2},
    ),
    "directpred": (  # ssl/real-dataset, README and config/byol_config.yaml: 0.03 for a batch of 128, constant
        UNBLURRED | {"optimizer": "sgd", "momentum": 0.9, "lr": 0.03 * 256 / 128, "fix_all_lr": True}
        | {"weight_decay": 4e-4, "batch_size": 128, "epochs": 100, "flip_p": 0.5, "gray_p": 0.2, "jitter_p": 0.8},
        {"dim": 128, "hidden": 512, "predictor": "directpred", "eps": 0.01, "rho": 0.3, "freq": 1, "momentum": 0.996}
        | {"momentum_final": None, "asymmetric": False},
    ),
    "empssl": (  # main.py --data cifar10 --epoch 30 --num_patches 20 --lr 0.3, of a batch of 100, without a warm-up
        LARS
        | {"lars_trust": 0.005, "lr": 0.3 * 256 / 100, "batch_size": 100, "epochs": 30, "warmup_epochs": 0}
        | {"weight_decay": 1e-4, "crop_min": 0.25, "jitter": 1.0, "blur_p": 0.1, "solarize_p": 0.1},
        {"dim": 1024, "hidden": 4096, "n_patches": 20, "sim": 200.0, "tcr": 1.0, "eps2": 0.2},
    ),
    "swav": (  # frozen for 2 epochs of 50000 // 256 steps
        LARS | STRONG | {"lr": 0.6, "weight_decay": 1e-6},
        {"dim": 128, "hidden": 2048, "prototypes": 3000, "temperature": 0.1, "epsilon": 0.05, "iterations": 3}
        | {"queue": 3840, "queue_start": 50, "freeze": 2 * (50000 // 256), "local_crops": 0},
    ),
    "deepcluster": (
        LARS | STRONG | {"lr": 0.6, "final_lr": 6e-4, "weight_decay": 1e-6, "warmup_epochs": 11},
        {"dim": 128, "hidden": 2048, "prototypes": 3000, "heads": 3, "temperature": 0.1, "kmeans_iters": 10}
        | {"local_crops": 0},
    ),
    "dino": (
        LARS | UNBLURRED | {"lr": 0.3, "weight_decay": 1e-6},
        {"dim": 256, "hidden": 2048, "prototypes": 4096, "student_temp": 0.1, "teacher_temp": 0.07}
        | {"warmup_teacher_temp_epochs": 0, "center_momentum": 0.9, "momentum": 0.9995, "momentum_final": 1.0}
        | {"freeze": 1, "clip_grad": 0.0, "head_bn": False, "local_crops": 0, "asymmetric": True},
    ),
    "nnclr": (
        LARS | UNBLURRED | {"lr": 0.4, "weight_decay": 1e-5},
        {"dim": 256, "hidden": 2048, "pred_hidden": 4096, "temperature": 0.2, "queue": 65536, "last_bn_affine": True},
    ),
    "nnsiam": (
        SGD | UNBLURRED | {"lr": 0.5, "weight_decay": 1e-5},
        {"dim": 2048, "pred_dim": 4096, "queue": 65536, "fix_pred_lr": True},
    ),
    "ressl": (
        SGD | WEAK | {"lr": 0.05, "weight_decay": 1e-4},
        {"dim": 256, "hidden": 4096, "student_temp": 0.1, "teacher_temp": 0.04, "queue": 65536, "momentum": 0.99}
        | {"momentum_final": 1.0},
    ),
    "paws": (  # 4000 labels of 50000
        LARS
        | {"lars_trust": 0.001, "lars_clip": False, "lr": 3.2, "final_lr": 0.032, "weight_decay": 1e-6, "epochs": 600}
        | {"crop_min": 0.75, "jitter": 1.0, "gray_p": 0.0, "blur_p": 0.0, "solarize_p": 0.2},
        {"dim": 128, "predictor": False, "temperature": 0.1, "sharpening": 0.25, "label_smoothing": 0.1, "me_max": True}
        | {"support_per_class": 64, "labels_fraction": 4000 / 50000, "local_crops": 6},
    ),
    "teacher": (  # the study's notebook: AdamW with torch's weight decay, 0.001 for a batch of 128
        {"optimizer": "adamw", "lr": 0.001 * 256 / 128, "batch_size": 128, "epochs": 10, "weight_decay": 0.01}
        | {"fix_all_lr": True, "crop_min": 0.8, "flip_p": 0.5, "jitter_p": 0.0, "gray_p": 0.0, "blur_p": 0.0}
        | {"arch": "vit_notebook"},
        {"dim": 128, "hidden": 2048, "dropout": 0.1, "second_relu": False, "momentum": 0.996, "momentum_final": 1.0},
    ),
    "supervised": (  # 0.1 for a batch of 128
        PLAIN | {"optimizer": "sgd", "lr": 0.1 * 256 / 128, "batch_size": 128, "epochs": 200, "weight_decay": 5e-4}
        | {"momentum": 0.9, "warmup_epochs": 0, "final_lr": 0.0, "lr_schedule": "epoch"},
        {"label_smoothing": 0.0},
    ),
}  # fmt: skip

IMAGENET: dict[str, Wanted] = {
    "simsiam": (
        SMALL | {"lr": 0.05, "batch_size": 512, "epochs": 100},
        {"dim": 2048, "pred_dim": 512, "fix_pred_lr": True},
    ),
    "byol": (
        BIG | {"lr": 0.2, "weight_decay": 1.5e-6, "epochs": 1000},
        {"dim": 256, "hidden": 4096, "momentum": 0.996, "momentum_final": 1.0, "asymmetric": True}
        | {"independent_teacher": True},
    ),
    "simclr": (
        BIG | {"lr": 0.3, "weight_decay": 1e-6, "epochs": 100, "jitter": 2.0},
        {"dim": 128, "hidden": 2048, "temperature": 0.1},
    ),
    "moco": (
        SMALL | {"lr": 0.03, "batch_size": 256, "epochs": 200},
        {"dim": 128, "hidden": None, "temperature": 0.2, "queue": 65536, "momentum": 0.999, "momentum_final": None}
        | {"symmetric": False},
    ),
    "mocov3": (
        BIG | {"lr": 0.6, "weight_decay": 1e-6, "epochs": 100, "crop_min": 0.2},
        {"dim": 256, "hidden": 4096, "temperature": 1.0, "momentum": 0.99, "momentum_final": 1.0, "asymmetric": True},
    ),
    "directclr": (
        BIG | {"lr": 4.8 / 16, "final_lr": 4.8e-3 / 16, "weight_decay": 1e-6, "epochs": 100},
        {"dim": None, "temperature": 0.1, "asymmetric": True},
    ),
    "barlow": (
        BIG | {"lr": 0.2, "final_lr": 2e-4, "weight_decay": 1e-6, "batch_size": 2048, "epochs": 1000},
        {"dim": 8192, "hidden": 8192, "lambd": 0.0051, "scale": 1.0, "asymmetric": True},
    ),
    "vicreg": (
        BIG | {"lr": 0.2, "final_lr": 2e-4, "weight_decay": 1e-6, "batch_size": 2048, "epochs": 1000},
        {"dim": 8192, "hidden": 8192, "sim": 25.0, "std": 25.0, "cov": 1.0, "asymmetric": True},
    ),
    "vicregl": (  # README's command for a ResNet-50, and the code's defaults: --end-lr-ratio 0.001, --maps-mlp
        BIG | {"lr": 0.3, "final_lr": 0.3 * 0.001, "weight_decay": 1e-6, "batch_size": 512, "epochs": 100},
        {"dim": 8192, "hidden": 8192, "map_dim": 512, "map_hidden": 512, "alpha": 0.75, "matches": 20}
        | {"matches_back": 4, "all_l2": True, "sim": 25.0, "std": 25.0, "cov": 1.0, "asymmetric": True},
    ),
    "swav": (
        CLUSTERING,
        {"dim": 128, "hidden": 2048, "prototypes": 3000, "temperature": 0.1, "epsilon": 0.05, "iterations": 3}
        | {"queue": 0, "freeze": 313, "local_crops": 6},
    ),
    "deepcluster": (
        CLUSTERING,
        {"dim": 128, "hidden": 2048, "prototypes": 3000, "heads": 3, "temperature": 0.1, "kmeans_iters": 10}
        | {"local_crops": 6},
    ),
    "dino": (  # README's command for a ResNet-50: SGD, 0.03, min_lr 1e-6 at batch 512
        STEP
        | {"optimizer": "sgd", "lr": 0.03, "final_lr": 1e-6 * 256 / 512, "batch_size": 512, "epochs": 100}
        | {"weight_decay": 1e-4, "crop_min": 0.14, "jitter": 1.0},
        {"dim": 256, "hidden": 2048, "prototypes": 65536, "student_temp": 0.1, "teacher_temp": 0.04, "momentum": 0.996}
        | {"warmup_teacher_temp_epochs": 0, "center_momentum": 0.9, "momentum_final": 1.0, "freeze": 1}
        | {"clip_grad": 3.0, "head_bn": False, "local_crops": 8, "asymmetric": True},
    ),
    "simdino": (  # README's command for a ViT-B/16 on 8 GPUs, and its code's defaults: min_lr 1e-6 at batch 8 x 64
        STEP
        | {"arch": "vit_base", "optimizer": "adamw", "lr": 0.0005, "final_lr": 1e-6 * 256 / 512, "batch_size": 8 * 64}
        | {"epochs": 100}
        | {"weight_decay": 0.04, "final_weight_decay": 0.4, "crop_min": 0.4, "jitter": 1.0},
        {"dim": 256, "hidden": 2048, "gamma": 1.0, "rate_of": "mean", "momentum": 0.996, "momentum_final": 1.0}
        | {"eps": round(0.05**0.5, 4), "clip_grad": 3.0, "head_bn": False, "drop_path": 0.1, "local_crops": 10}
        | {"asymmetric": True},
    ),
    "ibot": (  # README's command for a ViT-S/16 on 16 GPUs, and its code's defaults: min_lr 1e-6 at batch 1024
        STEP
        | {"arch": "vit_small_h6", "optimizer": "adamw", "lr": 0.0005, "final_lr": 1e-6 * 256 / 1024}
        | {"batch_size": 16 * 64, "epochs": 800}
        | {"weight_decay": 0.04, "final_weight_decay": 0.4, "crop_min": 0.25, "jitter": 1.0},
        {"dim": 256, "hidden": 2048, "prototypes": 8192, "student_temp": 0.1, "teacher_temp": 0.07, "momentum": 0.996}
        | {"warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 30, "center_momentum": 0.9, "momentum_final": 1.0}
        | {"freeze": 1, "clip_grad": 3.0, "norm_last_layer": False, "drop_path": 0.1, "local_crops": 10}
        | {"mask_p": 0.5, "mask_min": 0.3 - 0.2, "mask_max": 0.3 + 0.2, "centering": "ema", "asymmetric": True},
    ),
    "dinov2": (  # configs/train/vitl16_short.yaml and the default configuration, on 4 nodes of 8 GPUs
        STEP
        | {"arch": "vit_large", "optimizer": "adamw", "lr": 0.004 * (32 * 64 / 1024) ** 0.5 * 256 / (32 * 64)}
        | {"final_lr": 1e-6 * 256 / (32 * 64), "batch_size": 32 * 64, "epochs": 100}
        | {"weight_decay": 0.04, "final_weight_decay": 0.4, "crop_min": 0.32, "jitter": 1.0},
        {"dim": 384, "hidden": 2048, "prototypes": 131072, "student_temp": 0.1, "teacher_temp": 0.07, "momentum": 0.992}
        | {"warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 30, "center_momentum": 0.9, "momentum_final": 1.0}
        | {"freeze": 1, "clip_grad": 3.0, "norm_last_layer": False, "drop_path": 0.3, "local_crops": 8, "koleo": 0.1}
        | {"mask_p": 0.5, "mask_min": 0.1, "mask_max": 0.5, "centering": "ema", "asymmetric": True},
    ),
    "nnclr": (
        BIG | {"lr": 0.3, "weight_decay": 1e-6, "epochs": 1000},
        {"dim": 256, "hidden": 2048, "pred_hidden": 4096, "temperature": 0.1, "queue": 98304, "last_bn_affine": True},
    ),
    "nnsiam": (
        SMALL | {"lr": 0.05, "batch_size": 512, "epochs": 100},
        {"dim": 2048, "pred_dim": 512, "queue": 2 * 12800, "fix_pred_lr": True},
    ),
    "ressl": (
        STEP
        | {"optimizer": "sgd", "lr": 0.05, "final_lr": 0.0, "batch_size": 256, "epochs": 200, "warmup_epochs": 5}
        | {"weight_decay": 1e-4, "crop_min": 0.2, "jitter": 1.0},
        {"dim": 512, "hidden": 4096, "student_temp": 0.1, "teacher_temp": 0.04, "queue": 131072, "momentum": 0.999}
        | {"momentum_final": None},
    ),
    "paws": (  # 6.4 and 0.064 at batch 4096
        BIG
        | {"lr": 6.4 * 256 / 4096, "final_lr": 0.064 * 256 / 4096, "weight_decay": 1e-6, "epochs": 100}
        | {"crop_min": 0.14, "jitter": 2.0},
        {"dim": 2048, "predictor": True, "temperature": 0.1, "sharpening": 0.25, "label_smoothing": 0.1, "me_max": True}
        | {"support_per_class": 7, "labels_fraction": 0.1, "local_crops": 6},
    ),
    "mae": (  # PRETRAIN.md; blr is for 256 images
        PLAIN | {"arch": "vit_base"}
        | {"optimizer": "adamw", "lr": 1.5e-4, "final_lr": 0.0, "weight_decay": 0.05, "final_weight_decay": None}
        | {"batch_size": 64 * 8 * 8, "epochs": 800, "warmup_epochs": 40, "crop_min": 0.2, "lr_schedule": "step"},
        {"mask_ratio": 0.75, "norm_pix": True, "width": 512, "depth": 8, "heads": 16},
    ),
    "ijepa": (  # configs/in1k_vith14_ep300.yaml: 128 images on each of 16 GPUs
        PLAIN | {"arch": "vit_huge_p14"}
        | {"optimizer": "adamw", "lr": 1e-3 * 256 / 2048, "final_lr": 1e-6 * 256 / 2048, "weight_decay": 0.04}
        | {"final_weight_decay": 0.4, "batch_size": 128 * 16, "epochs": 300, "warmup_epochs": 40, "crop_min": 0.3}
        | {"flip_p": 0.0, "lr_schedule": "step"},
        {"width": 384, "depth": 12, "heads": 16, "momentum": 0.996, "momentum_final": 1.0, "targets": 4}
        | {"min_context": 10},
    ),
    "supervised": (
        PLAIN | {"optimizer": "sgd", "lr": 0.1, "batch_size": 256, "epochs": 90, "weight_decay": 1e-4}
        | {"momentum": 0.9, "warmup_epochs": 0, "crop_min": 0.08, "lr_schedule": "epoch"},
        {"label_smoothing": 0.0},
    ),
    "lejepa": (  # the README's recommendations for a ResNet, 5e-4 for a batch of 512; the warm-up of MINIMAL.md
        RELEASED | {"optimizer": "adamw", "lr": 5e-4 * 256 / 512, "final_lr": 5e-4 / 1000 * 256 / 512}
        | {"weight_decay": 5e-4, "batch_size": 512, "epochs": 100, "warmup_epochs": 1, "lr_schedule": "step"}
        | {"crop_min": 0.3, "solarize_p": 0.2, "jitter": 1.0},
        {"dim": 512, "hidden": 2048, "lambd": 0.05, "slices": 1024, "global_views": 2, "local_crops": 6},
    ),
    "visreg": (  # 074fb51, configs/default.yaml and train.py: 16 images on each of 8 GPUs, as in the README
        RELEASED | {"arch": "vit_base", "optimizer": "adamw", "lr": 9e-4 * 256 / (8 * 16)}
        | {"final_lr": 9e-4 / 1000 * 256 / (8 * 16), "weight_decay": 5e-2, "batch_size": 8 * 16, "epochs": 100}
        | {"warmup_epochs": 5, "lr_schedule": "step", "crop_min": 0.3, "solarize_p": 0.2, "jitter": 1.0},
        {"dim": 256, "lambd": 0.9, "slices": 4096, "global_views": 4, "local_crops": 6},
    ),
}  # fmt: skip

PUBLISHED = {("cifar", name): wanted for name, wanted in CIFAR.items()}
PUBLISHED |= {("imagenet", name): wanted for name, wanted in IMAGENET.items()}


NOT_ZERO = {("cifar", method) for method in CIFAR.keys() - {"teacher"}}  # torchvision's default; the study has a ViT
NOT_ZERO |= {("imagenet", method) for method in ("moco", "swav", "deepcluster", "dino", "ressl")}
NOT_ZERO |= {("imagenet", method) for method in ("paws", "supervised")}
ZERO = {("imagenet", method) for method in ("simsiam", "simclr", "mocov3", "directclr", "barlow", "vicreg", "nnsiam")}
ZERO |= {("imagenet", "vicregl")}
ZERO |= {("imagenet", "lejepa")}  # timm's networks
ZERO |= {("imagenet", "byol")}  # Haiku's blocks: scale_init of the last norm is zeros
"""Where the last batch norm of each residual branch starts at 1, and where at 0."""


@pytest.mark.parametrize(("recipe", "method"), sorted(NOT_ZERO | ZERO))
def test_residual_branches_start_as_in_the_published_code(recipe, method):
    config = apply_recipe(PretrainConfig(method=method), recipe)
    assert config.zero_init_residual is ((recipe, method) in ZERO)


def test_every_recipe_with_released_code_for_a_resnet_names_the_start_of_its_residual_branches():
    assert not NOT_ZERO & ZERO
    unknown = {("cifar", "teacher"), ("imagenet", "ibot"), ("imagenet", "dinov2"), ("imagenet", "simdino")}  # ViTs
    unknown |= {("imagenet", "visreg")}
    unknown |= {("imagenet", "nnclr")}  # NNCLR has no released code
    unknown |= {("imagenet", "mae"), ("imagenet", "ijepa")}
    assert NOT_ZERO | ZERO | unknown == PUBLISHED.keys()


@pytest.mark.parametrize("arch", ["vit_small", "timm:vit_tiny_patch16_224"])
def test_a_recipe_leaves_out_the_start_of_residual_branches_for_a_network_without_it(arch):
    assert apply_recipe(PretrainConfig(method="dino", arch=arch), "imagenet").zero_init_residual is True


@pytest.mark.parametrize(("arch", "rate"), [("vit_small", 0.1), ("vit_tiny_p8", 0.1), ("resnet50", 0.0)])
def test_dino_on_imagenet_has_drop_path_for_a_vit_only(arch, rate):
    config = apply_recipe(PretrainConfig(method="dino", arch=arch), "imagenet")
    assert method_options("dino", gather_options(config.options, {})).drop_path == rate


def test_the_study_standardises_with_cifars_own_means():
    config = apply_recipe(PretrainConfig(method="teacher"), "cifar")
    assert (config.mean, config.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def test_an_explicit_architecture_overrides_that_of_the_recipe():
    config = apply_recipe(PretrainConfig(method="teacher", arch="vit_small"), "cifar", ("arch",))
    assert config.arch == "vit_small"


def test_an_explicit_start_of_residual_branches_overrides_the_recipe():
    config = apply_recipe(PretrainConfig(method="moco"), "cifar", ("zero_init_residual",))
    assert config.zero_init_residual is True


@pytest.mark.parametrize(("recipe", "method"), list(PUBLISHED))
def test_a_recipes_numbers_are_the_published_ones(recipe, method):
    settings, options = PUBLISHED[recipe, method]
    config = apply_recipe(PretrainConfig(method=method), recipe)
    found = method_options(method, gather_options(config.options, {}))
    assert {key: getattr(config, key) for key in settings} == pytest.approx(settings)
    assert {key: getattr(found, key) for key in options} == pytest.approx(options)


def test_every_recipe_that_has_a_published_configuration_is_compared():
    unpublished = {("imagenet", "distill")}
    assert PUBLISHED.keys() | unpublished == {(name, method) for name, methods in RECIPES.items() for method in methods}
