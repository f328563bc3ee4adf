"""On what the advice of findings was tested: trainings with the fault and as advised, with the same seed.

``benchmarks/advice.py`` makes them, and docs/diagnose.md has the results. Advice that is not here was not tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TRAININGS = "resnet18_w8 on the bundled images, 250 steps, one seed (docs/diagnose.md)"

OWN_CODE = "by their own code, 48 steps on 128 images (docs/diagnose.md)"

RATE = f"the lower learning rate, SimSiam and BYOL with 5 and 0.2, {TRAININGS}"

MOMENTUM = f"BYOL with a momentum of 0 and of 0.98, {TRAININGS}"

PARTS = {
    "stop_grad=false": "SimSiam",
    "predictor=none": "SimSiam, BYOL and DirectPred",
    "std=0": "VICReg",
    "cov=0": "VICReg",
    "gamma=0": "SimDINO",
    "rho=0": "TiCo",
    "norm=frobenius": "MMCR",
    "frobenius=0": "FroSSL",
    "tcr=0": "EMP-SSL",
}
"""Settings that leave out a part, and the methods that collapsed without it and did not with it."""

SETTING = re.compile(r"\((\w+=[^(),]+)\)$")
"""The setting at the end of a clause of ``Method.collapse_causes``."""


def on_parts(causes: Iterable[str]) -> str:
    """On what it was tested to train with the parts that the settings in ``causes`` leave out; empty if for one of them
    it was not, or did not help."""
    settings = [found[1] if (found := SETTING.search(cause)) else "" for cause in causes]
    if not settings or not PARTS.keys() >= {*settings}:
        return ""
    return f"{'; '.join(f'{PARTS[one]} with and without {one}' for one in settings)}; {TRAININGS}"
