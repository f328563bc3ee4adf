"""The settings of the probe beside one another: which contradict, and which do nothing."""

from __future__ import annotations

from pathlib import Path

from ssltool.checkpoints.load import run_name
from ssltool.config import LinclsConfig
from ssltool.errors import SSLToolError
from ssltool.settings import Rule, ineffective, numbers, refuse_ineffective
from ssltool.training import distributed, optimizer_rule

OF_IMAGES = (
    *("data", "dataset_type", "idx_path", "download", "small", "skip_corrupt", "image_size", "workers"),
    *("pretrained", "arch", "stem", "random"),
)
OF_SGD = ("optimizer", "lars", "epochs", "batch_size", "lr", "lr_sweep", "momentum", "weight_decay")
OF_LBFGS = ("c", "c_grid", "max_iter")
OF_TRAINING = (*OF_SGD, *OF_LBFGS, "solver", "standardise", "labels_fraction", "holdout", "idx_path", "overwrite")
OF_THE_FOLDER = ("out", "exp_name", "exp_id")


def check(config: LinclsConfig) -> None:
    """Refuses settings that contradict one another or do nothing.

    Raises:
        SSLToolError: naming the first.
    """
    if config.lars and config.optimizer not in (None, "larc"):
        raise SSLToolError(f"--lars is LARC, as in the paper, and --optimizer is {config.optimizer}; keep one of them")
    for name in ("lr_sweep", "c_grid"):
        if getattr(config, name) is not None:
            numbers(getattr(config, name), name)
    refuse_ineffective(ineffective(config, _rules(config)))


def _rules(config: LinclsConfig) -> list[Rule]:
    files, lbfgs = config.reprs is not None, config.solver == "lbfgs"
    return [
        (("evaluate",), config.resume is None, "without --resume, which names the probe to score"),
        (OF_TRAINING, config.evaluate, "with --evaluate, which trains nothing"),
        (OF_THE_FOLDER, config.evaluate and config.resume != "auto", "with --evaluate, which writes nothing"),
        (OF_IMAGES, files, "with --reprs, whose files hold what a network made of the images"),
        (("solver", "standardise"), not files, "without --reprs"),
        ((*OF_SGD, "resume"), lbfgs, "with --solver lbfgs"),
        optimizer_rule(config, optimizer(config)),
        (OF_LBFGS, not lbfgs, "without --solver lbfgs"),
        (("lr",), config.lr_sweep is not None, "with --lr-sweep"),
        (("c",), config.c_grid is not None, "with --c-grid"),
        (("holdout",), not chooses(config), "without --lr-sweep or --c-grid"),
        (("overwrite",), config.resume == "auto", "with --resume auto"),
    ]


def optimizer(config: LinclsConfig) -> str:
    """The optimizer of SGD: ``--lars`` stands for LARC, as in the paper."""
    return "larc" if config.lars else config.optimizer or "sgd"


def chooses(config: LinclsConfig) -> bool:
    """Whether something is chosen on held-out training rows."""
    return config.lr_sweep is not None or config.c_grid is not None


def rates(config: LinclsConfig) -> tuple[float, ...]:
    """The learning rates that are tried, for a batch of 256."""
    return (config.lr,) if config.lr_sweep is None else numbers(config.lr_sweep, "lr_sweep")


def penalties(config: LinclsConfig) -> tuple[float, ...]:
    """The C that are tried, in increasing order, so that each may begin from the one before it."""
    return (config.c,) if config.c_grid is None else tuple(sorted(numbers(config.c_grid, "c_grid")))


def best(values: tuple[float, ...], scores: list[float | None]) -> int:
    """The place of the best score, of the smallest value among equals; None is no score.

    Raises:
        ValueError: if there is no score at all.
    """
    scored = enumerate(zip(scores, values, strict=True))
    return max((score, -value, place) for place, (score, value) in scored if score is not None)[2]


def note_edge(flag: str, values: tuple[float, ...], chosen: int) -> None:
    """Says where the best is the first or the last of those that were tried."""
    edge = {min(values): "smallest", max(values): "largest"}.get(values[chosen])
    if edge and len(values) > 1:
        distributed.rank_zero_info(
            f"note: the best of {flag} is its {edge}, {values[chosen]:g}; beyond it may be a better one"
        )


def default_name(config: LinclsConfig) -> str:
    """The run folder's name: of the run that was pretrained, or of the file that is learnt from."""
    if config.reprs is not None:
        path = Path(config.reprs[0]).resolve()
        return f"lincls-{path.parent.name}-{path.stem}"
    return run_name("lincls", config)
