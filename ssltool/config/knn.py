"""The settings of ``ssltool knn``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import DeviceSettings
from ssltool.errors import SSLToolError
from ssltool.settings import setting


@dataclass(frozen=True)
class KnnConfig(DeviceSettings):
    """Settings of ``ssltool knn``."""

    bank: str | None = setting(None, "representations with labels, which vote")
    queries: str | None = setting(None, "representations to classify")
    k: str | int = setting("20", "neighbours that vote; several numbers as in 1,5,20,200", "-k", metavar="LIST")
    k_max: int | None = setting(None, "every number of neighbours from 1 to this, instead of -k", minimum=1)
    select_k: str | None = setting(
        None,
        "choose k among several: on a held-out part of the bank, or by the paper's rule on the evaluation labels "
        "themselves, which flatters",
        choices=("holdout", "eval"),
    )
    holdout: float = setting(
        0.1, "share of the bank's rows of each class that --select-k holdout chooses on", above=0, maximum=0.9
    )
    seed: int = setting(10, "seed of the held-out rows", minimum=0)
    metric: str = setting("cos", "what near means: cosine similarity or Euclidean distance", choices=("cos", "l2"))
    weighted: bool = setting(False, "weight votes by exp(similarity / temperature) instead of counting them")
    temperature: float = setting(0.07, "temperature of the weighted vote", above=0)

    precision: str = setting(
        "fp32",
        "numbers that neighbours are looked for in; they are ranked in float32",
        choices=("fp32", "bf16"),
        section="Hardware",
    )
    memory: int = setting(
        512,
        "most MiB that the search takes, beside mapped files and its result; on a GPU more is quicker",
        section="Hardware",
        minimum=16,
    )
    chunk: int | None = setting(
        None, "most queries compared at a time [default: as --memory allows]", section="Hardware", minimum=1
    )

    per_class: bool = setting(False, "also the accuracy of each class", section="Output")
    confusion: bool = setting(False, "also how often each class was taken for each other", section="Output")
    neighbours: str | None = setting(
        None, "write the nearest rows of all queries and their distances", section="Output", metavar="FILE"
    )
    out: str | None = setting(
        None, "write what --json prints into this .json file, with classes and confusion", "-o", section="Output"
    )
    folder: str | None = setting(
        None, "folder of --source and --target; the paper's output files go there", section="Output", metavar="DIR"
    )
    source: str | None = setting(None, "file of the bank in --folder", section="Output", metavar="FILE")
    target: str | None = setting(None, "file of the queries in --folder", section="Output", metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ks  # noqa: B018 - refused here, before any file is opened

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of neighbours that are asked for, the smallest first."""
        if self.k_max is not None:
            return tuple(range(1, self.k_max + 1))
        parts = str(self.k).split(",")
        if not all(part.strip().isdecimal() and int(part) for part in parts):
            raise SSLToolError(f"-k is '{self.k}'; it must be a number above 0, or several as in 1,5,20,200")
        return tuple(sorted({int(part) for part in parts}))
