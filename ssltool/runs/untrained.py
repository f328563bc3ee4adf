"""The network of a run before its training, rebuilt from the seed, and what the monitor would have recorded of it."""

from __future__ import annotations

from pathlib import Path

import torch

from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.config import NetworkSettings, SaveReprsConfig
from ssltool.data.workers import killed_workers
from ssltool.diagnosis.layer_metrics import knn_accuracy, measured_layer
from ssltool.files.writing import finite
from ssltool.reprs.extract import extract_all
from ssltool.runs.history import FinishedRun, restore_setup
from ssltool.settings import Record


def untrained_network(checkpoint: Path, device: torch.device) -> Pretrained:
    """The network of ``checkpoint`` with the weights that its run started from.

    Raises:
        SSLToolError: if the checkpoint cannot be read.
    """
    return load_pretrained(NetworkSettings(pretrained=str(checkpoint), random=True), device)


@killed_workers()
def untrained_record(run: FinishedRun, checkpoint: Path, device: torch.device) -> Record:
    """The metrics and the kNN accuracy of the untrained network, by the names of a record.

    They are measured as the monitor of the run measures, on the same images. There is no verdict: the outputs of an
    untrained network may be far from spread. ``checkpoint`` is one of the run.

    Raises:
        SSLToolError: if the images cannot be opened or are not those of the run, or the checkpoint cannot be read.
    """
    setup = restore_setup(run)
    network = untrained_network(checkpoint, device)
    images = setup.images.select(setup.monitored_rows())
    record: Record = {}
    for name in network.method.measured_layers:
        saved = extract_all(network, images, SaveReprsConfig(layer=name), device)
        values, _ = measured_layer(saved.representations, saved.meta.get("directions"))
        accuracy = knn_accuracy(saved.representations, saved.targets) if not record else {}
        record |= {f"{name}_{key}": value for key, value in (values | accuracy).items()}
    measured: Record = finite(record)
    return measured
