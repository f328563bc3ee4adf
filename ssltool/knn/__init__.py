"""The k-nearest-neighbour stage: labelled representations vote on the classes of others."""

from ssltool.knn.search import neighbours
from ssltool.knn.stage import run
from ssltool.knn.vote import knn_predict, votes

__all__ = ["knn_predict", "neighbours", "run", "votes"]
