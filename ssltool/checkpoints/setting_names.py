"""What the names of saved settings tell, without torch: the stage that wrote them, and which follow from others."""

from __future__ import annotations

from ssltool.settings import Settings

SSLTOOL = "ssltool"

PROGRAM = "program"
"""The key of the program that wrote the network. Only settings of a backbone without a run have it."""

STAGE_KEYS = {"origin": "lincls", "arm": "finetune", "phase": "scan"}
"""Keys that only one stage writes; they identify the stage of settings that do not name it."""

MONITOR = "monitor"
"""The stage of the folder of a monitor in another program's training."""

HASHES = (
    *("fingerprint", "val_fingerprint", "index_hash", "idx_path_hash", "labels_hash", "order_hash", "second_hash"),
    *("support_hash", "start_hash", "neighbours_hash"),
)
"""The hashes of what a run reads."""


def stage_of(settings: Settings) -> str | None:
    """The stage that wrote ``settings``; None for a backbone without a run."""
    if PROGRAM in settings:
        return None
    if "stage" in settings:
        return str(settings["stage"])
    return next((stage for key, stage in STAGE_KEYS.items() if key in settings), "pretrain")
