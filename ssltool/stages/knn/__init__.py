"""The knn stage: k-nearest-neighbour classification of representations."""

from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import knn_predict, predicted_classes
from ssltool.stages.knn.knn import run

__all__ = ["knn_predict", "neighbours", "predicted_classes", "run"]
