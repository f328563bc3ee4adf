"""Which of SCAN's settings do nothing beside the others."""

from __future__ import annotations

from ssltool.config import ScanConfig
from ssltool.settings import ineffective, refuse_ineffective

OF_TRAINING = ("crop_min", "erase_p", "weight_decay", "precision")
OF_CLUSTERING = ("heads", "entropy_weight", "epochs", "batch_size", "lr")
OF_LABELLING = ("threshold", "selflabel_epochs", "selflabel_batch_size", "selflabel_lr")
OF_NETWORK = ("pretrained", "arch", "stem", "random")


def refuse_ineffective_settings(config: ScanConfig) -> None:
    """Refuses settings that do nothing with the steps asked for.

    Raises:
        SSLToolError: naming the first flag and why it has no effect.
    """
    step = config.step
    why = f"with --step {step}"
    rules = [
        (("neighbours",), step not in ("mine", "all"), why),
        (("reprs",), step not in ("mine", "all") and not config.kmeans, why),
        (OF_CLUSTERING, step not in ("cluster", "all"), why),
        (OF_LABELLING, step not in ("selflabel", "all"), why),
        (OF_TRAINING, step == "mine", why),
        (("clusters", "seed"), step == "mine" and not config.kmeans, why),
        (("clusters", "kmeans", *OF_NETWORK), step == "selflabel", f"{why}, which reads clusters.pt"),
        (OF_NETWORK, step == "mine" and config.reprs is not None, "with --step mine and --reprs"),
        (("overwrite",), config.resume is not None, "with --resume auto"),
    ]
    refuse_ineffective(ineffective(config, rules))
