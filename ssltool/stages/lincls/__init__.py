"""The linear probe: a linear classifier trained on frozen features.

``lincls`` is the stage. Features come from images (``image_features``) or from files (``saved_features``). The
classifier is trained by SGD (``sgd``) or as logistic regression to the optimum (``lbfgs``).
"""

from ssltool.stages.lincls.lincls import run
from ssltool.stages.lincls.logistic import Logistic, logistic_regression

__all__ = ["Logistic", "logistic_regression", "run"]
