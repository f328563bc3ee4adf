"""The settings of ``ssltool knn``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.shared import DeviceSettings
from ssltool.settings import setting


@dataclass(frozen=True)
class KnnConfig(DeviceSettings):
    """Settings of ``ssltool knn``."""

    bank: str | None = setting(None, "representations with labels, which vote")
    queries: str | None = setting(None, "representations to classify")
    k: int = setting(20, "neighbours that vote", "-k", minimum=1)
    metric: str = setting("cos", "what near means: cosine similarity or Euclidean distance", choices=("cos", "l2"))
    weighted: bool = setting(False, "weight votes by exp(similarity / temperature) instead of counting them")
    temperature: float = setting(0.07, "temperature of the weighted vote", above=0)
    chunk: int = setting(1024, "queries compared at a time; bounds the memory", minimum=1)
    folder: str | None = setting(
        None, "folder of --source and --target; the paper's output files go there", metavar="DIR"
    )
    source: str | None = setting(None, "file of the bank in --folder", metavar="FILE")
    target: str | None = setting(None, "file of the queries in --folder", metavar="FILE")
