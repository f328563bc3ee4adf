"""SCAN: Van Gansbeke et al., "SCAN: Learning to Classify Images without Labels", ECCV 2020, arXiv:2005.12320.

Three steps, each of which reads what the one before it wrote: neighbours are mined among representations, a
classifier learns to put neighbours into one cluster, and then learns from its own most confident answers.
"""

from ssltool.stages.scan.scan import run

__all__ = ["run"]
