"""The registry of pretraining methods.

A method's module is imported when the method is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.methods.base import Method


CONTRASTIVE = "contrastive"
DISTILLATION = "distillation"
REDUNDANCY = "redundancy reduction"
CLUSTERING = "clustering"
MASKED = "masked"
JEPA = "JEPA"
LABELS = "labels"
FAMILIES = (CONTRASTIVE, DISTILLATION, REDUNDANCY, CLUSTERING, MASKED, JEPA, LABELS)
"""The families of methods in the order of the lists. Those of plug-ins come last."""


@dataclass(frozen=True)
class Entry:
    """A method: its class (``target``), its ``paper`` (arXiv number) and ``year``, the mechanism that ``prevents``
    collapse, the inputs that it ``needs``, and the ``family`` under which it is listed."""

    target: str | type[Method]
    year: int
    paper: str
    prevents: str
    needs: str
    family: str = "other"


METHODS: Registry[Entry] = Registry(
    "method",
    __name__,
    {
        "simclr": Entry(
            ".simclr:SimCLR", 2020, "2002.05709", "negatives in the batch", "two views, a large batch", CONTRASTIVE
        ),
        "moco": Entry(".moco:MoCo", 2020, "2003.04297", "negatives in a queue", "two views", CONTRASTIVE),
        "mocov3": Entry(
            ".mocov3:MoCoV3",
            2021,
            "2104.02057",
            "negatives in the batch, teacher",
            "two views, a large batch",
            CONTRASTIVE,
        ),
        "nnclr": Entry(".nnclr:NNCLR", 2021, "2104.14548", "negatives in the batch", "two views, a queue", CONTRASTIVE),
        "directclr": Entry(
            ".directclr:DirectCLR",
            2021,
            "2110.09348",
            "negatives in the batch",
            "two views, a large batch",
            CONTRASTIVE,
        ),
        "simsiam": Entry(
            ".simsiam:SimSiam", 2020, "2011.10566", "stop-gradient and predictor", "two views", DISTILLATION
        ),
        "nnsiam": Entry(
            ".nnsiam:NNSiam", 2022, "2209.15007", "stop-gradient and predictor", "two views, a queue", DISTILLATION
        ),
        "byol": Entry(".byol:BYOL", 2020, "2006.07733", "momentum teacher and predictor", "two views", DISTILLATION),
        "directpred": Entry(
            ".directpred:DirectPred",
            2021,
            "2102.06810",
            "momentum teacher and a computed predictor",
            "two views",
            DISTILLATION,
        ),
        "ressl": Entry(
            ".ressl:ReSSL",
            2021,
            "2107.09282",
            "a sharpened teacher, a queue",
            "a strong and a weak view",
            DISTILLATION,
        ),
        "dino": Entry(
            ".dino:DINO", 2021, "2104.14294", "centring and sharpening of a teacher", "multi-crop", DISTILLATION
        ),
        "distill": Entry(
            ".distill:Distill",
            2022,
            "2209.15007",
            "a fixed teacher",
            "a trained teacher's checkpoint",
            DISTILLATION,
        ),
        "teacher": Entry(
            ".teacher:Teacher",
            2021,
            "2104.14294",
            "depends on the teacher's update",
            "a plain and a strong view",
            DISTILLATION,
        ),
        "simdino": Entry(
            ".simdino:SimDINO", 2025, "2502.10385", "a coding rate, a momentum teacher", "multi-crop", DISTILLATION
        ),
        "barlow": Entry(".barlow:Barlow", 2021, "2103.03230", "decorrelated dimensions", "two views", REDUNDANCY),
        "vicreg": Entry(".vicreg:VICReg", 2021, "2105.04906", "variance and covariance terms", "two views", REDUNDANCY),
        "vicregl": Entry(
            ".vicregl:VICRegL",
            2022,
            "2210.01571",
            "variance and covariance terms",
            "two views, a feature map",
            REDUNDANCY,
        ),
        "wmse": Entry(
            ".wmse:WMSE", 2020, "2007.06346", "whitening", "two or more views, a batch larger than dim", REDUNDANCY
        ),
        "tico": Entry(
            ".tico:TiCo", 2022, "2206.10698", "covariance of recent embeddings, teacher", "two views", REDUNDANCY
        ),
        "mmcr": Entry(
            ".mmcr:MMCR", 2023, "2303.03307", "nuclear norm of the centroids", "two or more views", REDUNDANCY
        ),
        "frossl": Entry(
            ".frossl:FroSSL", 2023, "2310.02903", "Frobenius norm of covariances", "two or more views", REDUNDANCY
        ),
        "empssl": Entry(".empssl:EMPSSL", 2023, "2304.03977", "coding rate of each view", "many patches", REDUNDANCY),
        "swav": Entry(".swav:SwAV", 2020, "2006.09882", "equal use of prototypes", "multi-crop", CLUSTERING),
        "deepcluster": Entry(
            ".deepcluster:DeepCluster",
            2020,
            "2006.09882",
            "k-means each epoch",
            "multi-crop, image indices",
            CLUSTERING,
        ),
        "ibot": Entry(
            ".ibot:IBOT", 2021, "2111.07832", "centring and sharpening of a teacher", "a ViT, multi-crop", MASKED
        ),
        "mae": Entry(".mae:MAE", 2021, "2111.06377", "pixels as targets", "a ViT, one view", MASKED),
        "dinov2": Entry(
            ".dinov2:DINOv2",
            2023,
            "2304.07193",
            "equal use of prototypes, KoLeo",
            "a ViT, multi-crop",
            MASKED,
        ),
        "ijepa": Entry(
            ".ijepa:IJEPA", 2023, "2301.08243", "stop-gradient, teacher and predictor", "a ViT, one view", JEPA
        ),
        "lejepa": Entry(".lejepa:LeJEPA", 2025, "2511.08544", "a normal distribution of slices", "multi-crop", JEPA),
        "visreg": Entry(".visreg:VISReg", 2026, "2606.02572", "scale of dimensions, normal slices", "multi-crop", JEPA),
        "paws": Entry(
            ".paws:PAWS",
            2021,
            "2104.13963",
            "labelled support, entropy of the mean",
            "multi-crop, some labels",
            LABELS,
        ),
        "supervised": Entry(".supervised:Supervised", 2015, "1512.03385", "labels", "labels", LABELS),
    },
)

CLASSIFIER = "supervised"
"""The method that consists of a backbone and a linear classifier. Later stages train and save it."""


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: for an unknown name; the message suggests similar names.
    """
    cls: type[Method] = METHODS.load(name)
    return cls


def saved_options(name: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The ``saved`` options of a method, of this or an earlier version; see ``MethodOptions.completed``."""
    completed: dict[str, Any] = method_class(name).Options.completed(saved)
    return completed


def method_options(name: str, given: dict[str, Any]) -> Any:
    """The validated options of a method; see ``options.read_options``."""
    from ssltool.methods.options import read_options

    return read_options(name, method_class(name).Options, given)
