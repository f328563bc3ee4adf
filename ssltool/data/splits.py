"""Which splits of a dataset a command reads."""

from __future__ import annotations

from ssltool.data.images import parse_type
from ssltool.errors import UsageError


def splits_of(dataset_type: str, split: str | None) -> list[str]:
    """The splits that ``--split`` selects, by default the one that ``--dataset-type`` names, else train.

    Raises:
        UsageError: if the two contradict each other.
    """
    named = parse_type(dataset_type)[1]
    if named is not None and split not in (None, named):
        raise UsageError(
            f"--dataset-type {dataset_type} and --split {split} contradict each other; leave one of them out"
        )
    return ["train", "val"] if split == "both" else [split or named or "train"]
