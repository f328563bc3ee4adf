"""The k-nearest-neighbour stage: labelled representations vote on the classes of others."""

from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import knn_predict, votes
from ssltool.stages.knn.knn import run

__all__ = ["knn_predict", "neighbours", "run", "votes"]
