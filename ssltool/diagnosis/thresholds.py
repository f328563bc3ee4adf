"""The thresholds of the verdict, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from ssltool.errors import UsageError, unknown


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the verdict. ``complete_*`` are checked before ``partial_*``; otherwise the verdict is healthy.

    ``*_std`` are values of ``feature_std``. ``complete_rank`` is an effective rank, and ``partial_rank`` an effective
    rank as a fraction of the dimensions. ``partial_dead`` is a fraction of dead directions. ``embedding_rank`` and
    ``embedding_dead`` replace the latter two for projector and predictor, which lose directions in healthy networks
    too. ``line_std`` and ``line_rank`` hold together: a ``feature_std`` of 0.316 is a mean cosine of 0.9 between the
    outputs of two images. ``like_rank`` is an effective rank as a fraction of that of a reference run.

    ``reference_std``, ``scale_variance`` and ``scale_norm`` are fractions of the ``feature_std``, of the total
    variance and of the mean norm of the untrained network. ``cluster_share`` is the share of the clusters in use
    and ``cluster_count`` their number, ``intracluster_nc1`` a value of ``nc1``, and ``local_lid`` one of
    ``local_dimension`` and ``twonn``, whose rule also asks for an effective rank of ``local_ratio`` times the
    larger one. ``dense_cosine`` is a value of ``patch_cosine``. ``teacher_share`` is a change of weights as a
    fraction of that of the student. ``uniform_loss`` is how near a loss must be to that of uniform outputs,
    relative to max(1, that), and ``uniform_looks`` in how many looks.
    """

    complete_std: float = 0.05
    complete_rank: float = 1.2
    partial_std: float = 0.2
    partial_rank: float = 0.1
    partial_dead: float = 0.15
    embedding_rank: float = 0.05
    embedding_dead: float = 0.5
    like_rank: float = 0.5
    reference_std: float = 0.5
    scale_variance: float = 0.15
    scale_norm: float = 0.5
    cluster_share: float = 0.1
    cluster_count: float = 10.0
    intracluster_nc1: float = 0.3
    local_lid: float = 2.2
    local_ratio: float = 3.0
    dense_cosine: float = 0.95
    teacher_share: float = 1e-6
    uniform_loss: float = 1e-3
    uniform_looks: float = 2
    line_std: float = 0.316
    line_rank: float = 2.0

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Thresholds:
        """The default thresholds, overridden by ``NAME=VALUE`` assignments.

        Raises:
            SSLToolError: for an unknown name, or a value that is not a number of at least 0.
        """
        names, changed = {f.name for f in dataclasses.fields(cls)}, {}
        for text in assignments:
            name, _, value = text.partition("=")
            if name not in names:
                raise unknown("threshold", name, names)
            try:
                changed[name] = float(value)
            except ValueError as error:
                raise UsageError(f"--threshold {text}: the value must be a number, such as {name}=0.1") from error
            if not changed[name] >= 0:
                raise UsageError(f"--threshold {text}: the value must be at least 0")
        return cls(**changed)

    def of(self, layer: str) -> Thresholds:
        """The thresholds for the outputs of a ``layer``."""
        if layer == "backbone":
            return self
        return dataclasses.replace(self, partial_rank=self.embedding_rank, partial_dead=self.embedding_dead)


DEFAULT = Thresholds()
