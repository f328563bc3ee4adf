"""SCAN: Van Gansbeke et al., "SCAN: Learning to Classify Images without Labels", ECCV 2020, arXiv:2005.12320.

Each of the three steps reads the file of the previous one: mining finds the nearest neighbours among representations,
clustering trains a classifier to assign neighbours to the same cluster, and self-labelling trains it further on its
most confident predictions.
"""

from ssltool.stages.scan.scan import run

__all__ = ["run"]
