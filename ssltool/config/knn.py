"""The settings of ``ssltool knn``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import DeviceSettings
from ssltool.config.fields import (
    labels_by,
    output,
    pool_rows,
    precision,
    same_images,
    search_memory,
    seed,
    wrong_suffix,
)
from ssltool.errors import UsageError
from ssltool.settings import Rule, flag, setting

MOST_K = 1_000_000
"""The largest ``--k-max``, which gives as many values of k."""


@dataclass(frozen=True)
class KnnConfig(DeviceSettings):
    """Settings of ``ssltool knn``."""

    bank: str | None = setting(None, "representations with labels, the neighbours")
    queries: str | None = setting(None, "representations to classify")
    k: str | int = setting("20", "neighbours that vote; several values as in 1,5,20,200", "-k", metavar="LIST")
    k_max: int | None = setting(None, "all k from 1 to this, instead of -k", minimum=1, maximum=MOST_K)
    select_k: str | None = setting(
        None,
        "choose k among several: on a held-out part of the bank (holdout), or by the paper's rule on the evaluation "
        "labels themselves (eval), which is optimistic",
        choices=("holdout", "eval"),
    )
    holdout: float = setting(
        0.1, "fraction of each class's bank rows that --select-k holdout holds out", above=0, maximum=0.9
    )
    seed: int = seed("the held-out rows")
    metric: str = setting("cos", "cosine similarity or Euclidean distance", choices=("cos", "l2"))
    weighted: bool = setting(False, "weight votes by exp(similarity / temperature) instead of counting them")
    temperature: float = setting(0.07, "temperature of the weighted vote", above=0)
    labels_by: str = labels_by()
    same_images: str = same_images("which images of VAL are in TRAIN too and do not vote on themselves")
    pool: str | None = pool_rows()

    precision: str = precision("precision of the search; candidates are ranked in float32", ("fp32", "bf16"))
    memory: int = search_memory()
    chunk: int | None = setting(
        None, "maximum number of queries per block [default: set by --memory]", section="Hardware", minimum=1
    )

    per_class: bool = setting(False, "also print the accuracy of each class", section="Output")
    confusion: bool = setting(False, "also print the confusion matrix", section="Output")
    neighbours: str | None = setting(
        None,
        "write the neighbours of all queries and their distances to this file",
        section="Output",
        metavar="FILE",
        writes=True,
    )
    out: str | None = output("write what --json prints to this .json file, with classes and confusion matrix")
    folder: str | None = setting(
        None,
        "folder of --source and --target; the paper's output files are written there",
        section="Output",
        metavar="DIR",
        alias=True,
    )
    source: str | None = setting(None, "bank file in --folder", section="Output", metavar="FILE", alias=True)
    target: str | None = setting(None, "query file in --folder", section="Output", metavar="FILE", alias=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ks  # noqa: B018 - raises for a wrong -k

    @property
    def ks(self) -> tuple[int, ...]:
        """The values of k, in increasing order.

        Raises:
            UsageError: if ``k`` is not a list of positive integers.
        """
        if self.k_max is not None:
            return tuple(range(1, self.k_max + 1))
        parts = str(self.k).split(",")
        if not all(re.fullmatch(r"\s*[0-9]{1,18}\s*", part) and int(part) for part in parts):
            raise UsageError(f"-k is '{self.k}'; it must be a number above 0, or several as in 1,5,20,200")
        return tuple(sorted({int(part) for part in parts}))

    def conflicts(self) -> list[Rule]:
        return [
            *super().conflicts(),
            (("k",), self.k_max is not None, "with --k-max"),
            (("holdout", "seed"), self.select_k != "holdout", "without --select-k holdout"),
            (("temperature",), not self.weighted, "without --weighted"),
        ]

    def mistakes(self) -> Iterator[str]:
        if self.folder is not None:
            if self.bank is not None or not (self.source and self.target):
                yield "--folder needs --source and --target, and replaces the two file names"
        elif self.bank is None or self.queries is None or self.source or self.target:
            yield "name two files, the bank and the queries, or use --folder with --source and --target"
        several = len(self.ks) > 1
        if self.select_k is not None and not several:
            yield "--select-k chooses among several k; give them, as in -k 1,5,20,200 or --k-max 200"
        for name in ("per_class", "confusion", "folder"):
            if getattr(self, name) and several and self.select_k is None:
                yield f"{flag(name)} needs a single k; give one, or add --select-k"
        yield from wrong_suffix("out", self.out, ".json")
