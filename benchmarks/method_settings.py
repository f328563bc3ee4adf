"""The settings of the runs of ``methods.py``: of each method, and of the ablations."""

from __future__ import annotations

from typing import Any

METHOD_OF = {"untrained": "simsiam", "untrained vit": "simsiam"}
"""The method of a row that is not named after it."""

NO_PROJECTOR = ("mae", "ijepa", "directclr")
"""Methods that train the backbone without a projector."""

SHARED = {
    "arch": "resnet18_w16",
    "stem": "imagenet",
    "zero_init_residual": False,
    "batch_size": 64,
    "lr": 0.2,
    "warmup_epochs": 0,
    "crop_min": 0.5,
    "precision": "fp32",
}

HEADS = {"dim": 256, "hidden": 512}
CROPS = {"local_crops": 4}
VIT = {"arch": "vit_w64_depth2", "stem": "auto", "zero_init_residual": True}
MASKED = VIT | {"optimizer": "adamw", "weight_decay": 0.05, "jitter_p": 0.0, "gray_p": 0.0}

NAMES: dict[str, dict[str, Any]] = {
    "untrained": {},
    "untrained vit": VIT,
    "simsiam": {"set": {"dim": 512, "pred_dim": 128, "fix_pred_lr": True}},
    "byol": {"set": HEADS | {"momentum": 0.98, "fix_pred_lr": True}},
    "simclr": {"set": {"dim": 128, "hidden": 512}},
    "moco": {
        "set": {"dim": 128, "hidden": 512, "queue": 2048, "momentum": 0.98, "symmetric": True, "queued": "second"}
    },
    "mocov3": {"set": HEADS | {"momentum": 0.98, "temperature": 0.2}},
    "barlow": {"lr": 0.02, "set": {"dim": 512, "hidden": 512, "scale": 0.1}},
    "vicreg": {"lr": 0.05, "set": {"dim": 512, "hidden": 512}},
    "vicregl": {
        "stem": "small-stride2",
        "lr": 0.05,
        "set": {"dim": 512, "hidden": 512, "map_dim": 128, "map_hidden": 128},
    },
    "wmse": {"optimizer": "adam", "lr": 4e-3, "set": {"dim": 16, "hidden": 512, "w_size": 64}},
    "tico": {"set": HEADS | {"momentum": 0.98}},
    "mmcr": {"optimizer": "adam", "lr": 4e-3, "set": {"dim": 128, "hidden": 512}},
    "frossl": {"optimizer": "adam", "lr": 4e-3, "set": HEADS},
    "empssl": {"optimizer": "adam", "lr": 4e-3, "crop_min": 0.25, "set": HEADS | {"n_patches": 8}},
    "swav": {
        "set": {"dim": 128, "hidden": 512, "prototypes": 128, "queue": 1024, "queue_start": 2, "freeze": 125, **CROPS}
    },
    "deepcluster": {"set": {"dim": 128, "hidden": 512, "prototypes": 128, "heads": 2, **CROPS}},
    "dino": {
        "optimizer": "adamw",
        "lr": 4e-3,
        "set": HEADS | {"prototypes": 1024, "momentum": 0.98, "head_bn": True, **CROPS},
    },
    "simdino": {
        "optimizer": "adamw",
        "lr": 0.012,
        "set": HEADS | {"gamma": 0.2, "momentum": 0.98, "head_bn": True, **CROPS},
    },
    "ibot": VIT | {"optimizer": "adamw", "lr": 4e-3, "set": HEADS | {"prototypes": 1024, "momentum": 0.98, **CROPS}},
    "dinov2": VIT | {"optimizer": "adamw", "lr": 4e-3, "set": HEADS | {"prototypes": 1024, "momentum": 0.98, **CROPS}},
    "mae": MASKED | {"lr": 8e-3, "set": {"width": 64, "depth": 1, "heads": 4}},
    "ijepa": MASKED | {"lr": 4e-3, "set": {"width": 64, "depth": 2, "heads": 4, "momentum": 0.98}},
    "nnclr": {"set": HEADS | {"pred_hidden": 512, "queue": 2048}},
    "directclr": {},
    "directpred": {"set": {"dim": 128, "hidden": 512, "momentum": 0.98}},
    "nnsiam": {"set": {"dim": 512, "pred_dim": 128, "fix_pred_lr": True, "queue": 2048}},
    "ressl": {"set": HEADS | {"queue": 2048, "momentum": 0.98}},
    "lejepa": {"optimizer": "adamw", "lr": 4e-3, "set": {"dim": 64, "hidden": 512, **CROPS}},
    "visreg": {
        "optimizer": "adamw",
        "lr": 4e-3,
        "set": {"dim": 64, "hidden": 512, "slices": 1024, "global_views": 2, **CROPS},
    },
    "paws": {"set": {"dim": 256, **CROPS}},
    "distill": {"teacher": "supervised"},
    "teacher": {"optimizer": "adamw", "lr": 2e-3, "set": {"dim": 128, "hidden": 512}},
    "supervised": {},
}
"""The settings of each method in addition to the shared ones: heads for a small network, and the learning rate."""

SEARCHED = {
    "simsiam": (0.6, 0),
    "byol": (0.6, 1),
    "simclr": (0.2, 1),
    "moco": (0.6, 1),
    "mocov3": (0.2, 1),
    "barlow": (0.02, 1),
    "vicreg": (0.15, 1),
    "vicregl": (0.15, 1),
    "wmse": (0.012, 1),
    "tico": (0.6, 0),
    "mmcr": (0.012, 0),
    "frossl": (0.012, 1),
    "empssl": (0.012, 0),
    "swav": (0.6, 1),
    "deepcluster": (0.6, 1),
    "dino": (0.004, 1),
    "simdino": (0.036, 1),
    "ibot": (0.004, 1),
    "dinov2": (0.012, 1),
    "mae": (0.0027, 1),
    "ijepa": (0.004, 1),
    "nnclr": (0.2, 1),
    "directclr": (0.2, 0),
    "directpred": (0.2, 1),
    "nnsiam": (0.6, 1),
    "ressl": (0.067, 1),
    "lejepa": (0.012, 0),
    "visreg": (0.012, 1),
}
"""The learning rate and the epochs of warm-up that ``methods.py --search`` found, for the comparison of the methods.
The ablations and other benchmarks keep the rates above."""

NO_PREDICTOR = {"pred_dim": 512, "fix_pred_lr": False}
ABLATIONS: dict[str, dict[str, Any]] = {
    "simsiam": {},
    "simsiam stop_grad=false": {},
    "simsiam stop_grad=false lr=0.8": {},
    "simsiam predictor=none": NO_PREDICTOR,
    "simsiam predictor=none lr=0.8": NO_PREDICTOR,
    "simsiam predictor=none symmetric=false": NO_PREDICTOR,
    "simsiam predictor=none symmetric=false lr=0.8": NO_PREDICTOR,
    "simsiam lr=0.8": {},
    "simsiam predictor=fixed": {"fix_pred_lr": False},
    "simsiam symmetric=false": {},
    "simsiam bn=none": {},
    "simsiam bn=hidden": {},
    "simsiam bn=all": {},
    "simsiam similarity=cross_entropy": {},
    "simclr": {},
    "simclr negatives=false": {},
    "moco": {},
    "moco negatives=false": {"queue": 65536},
    "moco momentum=0": {},
    "mocov3": {},
    "mocov3 negatives=false": {},
    "mocov3 momentum=0": {"momentum_final": 0},
    "nnclr": {},
    "nnclr negatives=false": {},
    "directclr": {},
    "directclr dim=128": {},
    "directclr negatives=false": {},
    "directpred": {},
    "directpred predictor=none": {},
    "directpred predictor=directcopy": {},
    "directpred eps=0": {},
    "directpred momentum=0": {},
    "nnsiam": {},
    "nnsiam predictor=none": NO_PREDICTOR,
    "nnsiam predictor=fixed": {"fix_pred_lr": False},
    "ressl": {},
    "ressl teacher_temp=0.1": {},
    "ressl momentum=0": {},
    "byol": {},
    "byol predictor=none": {"fix_pred_lr": False},
    "byol momentum=0": {"momentum_final": 0},
    "byol momentum=1": {},
    "barlow": {},
    "barlow lambd=0": {},
    "wmse": {},
    "wmse eps=1": {},
    "swav": {},
    "swav iterations=0": {"queue": 3840, "queue_start": 15},
    "swav epsilon=1": {},
    "paws": {},
    "paws me_max=false": {},
    "paws sharpening=1": {},
    "vicreg": {},
    "vicreg std=0": {},
    "vicreg cov=0": {},
    "vicregl": {},
    "vicregl std=0": {},
    "vicregl cov=0": {},
    "vicregl alpha=1": {},
    "tico": {},
    "tico rho=0": {},
    "tico beta=1": {},
    "tico momentum=0": {"momentum_final": 0},
    "mmcr": {},
    "mmcr norm=frobenius": {},
    "frossl": {},
    "frossl frobenius=0": {},
    "empssl": {},
    "empssl tcr=0": {},
    "dino": {},
    "dino centering=false": {},
    "dino teacher_temp=1": {},
    "dino momentum=0": {"momentum_final": 0},
    "lejepa": {},
    "lejepa lambd=0": {},
    "visreg": {},
    "visreg lambd=0": {},
    "visreg scale=0": {},
    "visreg shape=0": {"slices": 4096},
    "visreg center=0": {},
    "ibot": {},
    "ibot centering=none": {},
    "ibot mask_p=0": {},
    "ibot momentum=0": {"momentum_final": 0},
    "dinov2": {},
    "dinov2 koleo=0": {},
    "dinov2 centering=none": {},
    "dinov2 mask_p=0": {},
    "dinov2 momentum=0": {"momentum_final": 0},
    "simdino": {},
    "simdino gamma=0": {},
    "simdino momentum=0": {"momentum_final": 0},
    "ijepa": {},
    "ijepa stop_grad=false": {"momentum": 0.996},
    "ijepa momentum=0": {"momentum_final": 0},
    "teacher update=ema": {},
    "teacher update=sgd": {},
    "teacher update=frozen": {},
    "teacher update=copy": {},
    "deepcluster": {},
    "mae": {},
    "supervised": {},
    "distill": {},
}
"""The method and the options of each row, as its name has them, and further options that must change with them."""

Row = tuple[str, dict[str, Any], dict[str, Any]]
"""The method of a run, its settings, and options that take precedence."""


def rows_of_methods() -> dict[str, Row]:
    """A row for each method, and the untrained network."""
    return {name: (METHOD_OF.get(name, name), given, {}) for name, given in NAMES.items()}


def rows_after_search() -> dict[str, Row]:
    """``rows_of_methods`` with the learning rates and warm-ups that the search found."""
    return {
        name: (method, given | dict(zip(("lr", "warmup_epochs"), SEARCHED[name], strict=True)), options)
        if name in SEARCHED
        else (method, given, options)
        for name, (method, given, options) in rows_of_methods().items()
    }


def rows_of_ablations() -> dict[str, Row]:
    """A row for each ablation."""
    found = {}
    for name, more in ABLATIONS.items():
        method, *changes = name.split()
        options = dict(change.split("=") for change in changes)
        rate = {"lr": float(options.pop("lr"))} if "lr" in options else {}
        found[name] = (method, NAMES[method] | rate, more | options)
    return found
