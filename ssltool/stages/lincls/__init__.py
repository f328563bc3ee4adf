"""The linear probe: what a linear classifier makes of features that stay as they are.

``stage`` is the command; ``sources`` are where features come from, ``heads`` learns by SGD, several rates at once,
``logistic`` goes to the optimum.
"""

from ssltool.stages.lincls.lincls import run
from ssltool.stages.lincls.logistic import Logistic, logistic_regression

__all__ = ["Logistic", "logistic_regression", "run"]
