"""The training stages after pretraining on two ranks give the results of one process."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run_ranks

from helpers import records, same_bits
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.probe import Probe
from ssltool.config import FinetuneConfig, LinclsConfig, ScanConfig
from ssltool.reprs.clusters_file import Clusters
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.representations import Representations
from ssltool.stages import finetune, lincls, scan

pytestmark = pytest.mark.xdist_group("two ranks")  # all tests share one launch

PROGRAM = '''
"""Runs the stages of RUNS on this rank, all in one process group."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from ssltool import config
from ssltool.data import loader
from ssltool.errors import Interrupted, SSLToolError
from ssltool.stages import finetune, lincls, scan
from ssltool.training import distributed
from ssltool.training.progress import Progress

torch.set_num_threads(1)
STAGES = {
    "lincls": (lincls.run, config.LinclsConfig),
    "finetune": (finetune.run, config.FinetuneConfig),
    "scan": (scan.run, config.ScanConfig),
}
update, read = Progress.update, loader.Loader._gather


def unreadable(loader, rows):
    raise SSLToolError("unreadable here")


def ran(rank, stage, settings, stop_at, fails):
    done = 0

    def counting(progress, *args):
        nonlocal done
        done += 1
        if rank == 1 and done == stop_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        update(progress, *args)

    Progress.update = counting
    loader.Loader._gather = unreadable if fails and rank == 1 else read
    run, cls = STAGES[stage]
    try:
        return {"result": run(cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}))}
    except Interrupted as stopped:
        return {"stopped by": stopped.number}
    except SSLToolError as error:
        return {"error": str(error)}


folder = Path(sys.argv[1])
with distributed.process_group(torch.device("cpu"), "auto") as shard:
    found = [ran(shard.rank, *one) for one in json.loads((folder / "runs.json").read_text())]
(folder / f"rank{shard.rank}.json").write_text(json.dumps(found))
'''


TUNED = "finetuned_pretrained_seed10.pt"


@dataclass(frozen=True)
class Run:
    """A run of ``stage``: a signal comes in step ``stop_at`` to rank 1, its images are unreadable there, or two ranks
    cannot share its batches."""

    stage: str
    settings: dict[str, Any]
    stop_at: int = 0
    fails: bool = False
    refused: bool = False


STAGES: dict[str, tuple[Any, Any]] = {
    "lincls": (lincls.run, LinclsConfig),
    "finetune": (finetune.run, FinetuneConfig),
    "scan": (scan.run, ScanConfig),
}


def clouds(count: int, seed: int) -> Representations:
    """Rows of three classes around three points; the first dimension is far from 0."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 3
    rows = torch.randn(count, 5, generator=generator) + 2 * torch.eye(3, 5)[targets]
    rows[:, 0] += 100
    return Representations(rows, targets, torch.arange(count), {"dataset": f"clouds{seed}"})


def runs_in(folder: Path, checkpoint: Path) -> dict[str, Run]:
    """The runs by name, in this order. No number of images or rows is even, and the last batch has one."""
    network = {"device": "cpu", "workers": 0, "pretrained": str(checkpoint), "data": str(folder / "shades")}
    images = network | {"batch_size": 46, "epochs": 2}
    rows = {"device": "cpu", "reprs": [str(folder / "train.pt"), str(folder / "val.pt")]}
    clustering = network | {"neighbours": 5, "kmeans": True, "heads": 2, "epochs": 2, "batch_size": 16}
    clustering |= {"selflabel_epochs": 1, "selflabel_batch_size": 22, "threshold": 0.1}
    sgd = rows | {"batch_size": 50, "epochs": 2, "lr": 1.0}
    return {
        "images": Run("lincls", images | {"lr": 3.0}),
        "sweep": Run("lincls", images | {"lr_sweep": "0.3,3", "holdout": 0.2, "batch_size": 7}),
        "unreadable": Run("lincls", images | {"lr": 3.0}, fails=True),
        "stopped": Run("lincls", images | {"lr": 3.0}, stop_at=3),
        "begun": Run("lincls", images | {"lr": 3.0}, stop_at=3),
        "rows": Run("lincls", sgd | {"standardise": True}),
        "lbfgs": Run("lincls", rows | {"solver": "lbfgs"}),
        "tuned": Run("finetune", network | {"batch_size": 16, "epochs": 2}),
        "tuning stopped": Run("finetune", network | {"batch_size": 16, "epochs": 2}, stop_at=3),
        "tuning unreadable": Run("finetune", network | {"batch_size": 16}, fails=True),
        "tuning by 15": Run("finetune", network | {"batch_size": 15}, refused=True),
        "clustered": Run("scan", clustering),
        "clustering stopped": Run("scan", clustering, stop_at=3),
        "clustering unreadable": Run("scan", clustering, fails=True),
        "clustering by 15": Run("scan", clustering | {"batch_size": 15}, refused=True),
        "grid": Run("lincls", rows | {"solver": "lbfgs", "c_grid": "0.01,1", "standardise": False}),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, server, trained, shades) -> tuple[Path, dict[str, list[Any]]]:
    """The folder of the runs, ``one/NAME`` in one process and ``two/NAME`` on two ranks, and what each rank returned
    for each name."""
    folder = tmp_path_factory.mktemp("stages")
    shutil.copytree(shades, folder / "shades")
    for image in (folder / "shades" / "train" / "dark" / "0.png", folder / "shades" / "val" / "light" / "0.png"):
        image.unlink()
    clouds(151, 0).save(folder / "train.pt")
    clouds(31, 1).save(folder / "val.pt")
    runs = runs_in(folder, trained / "checkpoint.pt")
    on_ranks = {name: replace(run, settings=run.settings | {"out": f"two/{name}"}) for name, run in runs.items()}
    for name in ("stopped", "tuning stopped", "clustering stopped"):
        on_ranks[f"{name}, resumed"] = Run(runs[name].stage, on_ranks[name].settings | {"resume": "auto"})
    trained_probe = {"resume": "two/images/probe.pt", "evaluate": True}
    kept = {
        name: value for name, value in runs["images"].settings.items() if name not in ("batch_size", "epochs", "lr")
    }
    on_ranks["evaluated"] = Run("lincls", kept | trained_probe)
    listed = [[one.stage, one.settings, one.stop_at, one.fails] for one in on_ranks.values()]
    (folder / "runs.json").write_text(json.dumps(listed))
    (folder / "program.py").write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran = run_ranks(server, folder / "program.py", folder)
        assert ran.returncode == 0, ran.stderr
        for name, one in runs.items():
            if not (one.stop_at or one.fails or one.refused):
                run, settings = STAGES[one.stage]
                run(settings(**_tuples(one.settings), out=f"one/{name}"))
    both = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    return folder, {name: list(found) for name, *found in zip(on_ranks, *both, strict=True)}


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


@pytest.mark.parametrize("name", ["images", "sweep", "rows", "lbfgs", "grid"])
def test_probe_of_two_ranks_is_that_of_one_process(finished, name):
    """Sums over a batch or the rows are taken in another order, which moves a weight by about 1e-7 in a step. L-BFGS
    ends where the gradient is below 1e-4, so its optimum is known less well."""
    folder, results = finished
    one, two = (Probe.load(folder / kind / name / "probe.pt") for kind in ("one", "two"))
    near = {"rtol": 1e-3, "atol": 1e-4} if name in ("lbfgs", "grid") else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close((two.weight, two.bias), (one.weight, one.bias), **near)
    assert one.weight.abs().max() > 0.05  # it was trained: it began with weights of 0.01
    for a, b in zip(
        [one.metrics, *one.metrics.get("tried", ())], [two.metrics, *two.metrics.get("tried", ())], strict=True
    ):
        assert numbers_of(b) == pytest.approx(numbers_of(a), rel=1e-4)
    first, second = results[name]
    assert first == second == json.loads(json.dumps({"result": two.metrics}))


def numbers_of(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a result, without that of iterations, which depends on rounding."""
    return {k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "iterations"}


def test_stopped_probe_of_two_ranks_resumes_to_the_same_bits(finished):
    folder, results = finished
    assert results["stopped"] == [{"stopped by": 10}] * 2
    whole, resumed = (Probe.load(folder / "two" / name / "probe.pt") for name in ("images", "stopped"))
    assert same_bits(vars(whole)["state"], vars(resumed)["state"])
    assert same_bits((whole.weight, whole.bias), (resumed.weight, resumed.bias))


def test_probe_that_two_ranks_began_goes_on_in_one_process(finished):
    folder, results = finished
    assert results["begun"] == [{"stopped by": 10}] * 2
    settings = results["images"][0]["result"]["checkpoint"]
    begun = runs_in(folder, Path(settings))["begun"].settings
    lincls.run(LinclsConfig(**begun, out=str(folder / "two" / "begun"), resume="auto"))
    one, two = (Probe.load(folder / path / "probe.pt") for path in ("one/images", "two/begun"))
    torch.testing.assert_close((two.weight, two.bias), (one.weight, one.bias), rtol=1e-4, atol=1e-5)
    assert numbers_of(two.metrics) == pytest.approx(numbers_of(one.metrics), rel=1e-4)


@pytest.mark.parametrize("name", ["unreadable", "tuning unreadable", "clustering unreadable"])
def test_error_on_one_rank_ends_both_and_leaves_no_run(finished, name):
    folder, results = finished
    first, second = results[name]
    assert "another rank" in first["error"] and "unreadable here" in second["error"]
    assert not (folder / "two" / name).exists()


@pytest.mark.parametrize("name", ["tuning by 15", "clustering by 15"])
def test_batches_that_two_ranks_cannot_share_are_refused_in_one_line(finished, name):
    folder, results = finished
    first, second = results[name]
    assert "--batch-size 15" in first["error"] and "\n" not in first["error"]
    assert "another rank" in second["error"]
    assert not (folder / "two" / name).exists()


def test_fine_tuned_network_of_two_ranks_is_that_of_one_process(finished):
    """Batch norm amplifies the rounding of the sums: four steps end about 1e-6 away."""
    folder, results = finished
    one, two = (Checkpoint.load(folder / kind / "tuned" / TUNED) for kind in ("one", "two"))
    torch.testing.assert_close(two.state_dict, one.state_dict, rtol=1e-4, atol=5e-5)
    assert float((one.state_dict["projector.weight"]).abs().max()) > 0.05
    for a, b in zip(records(folder / "one" / "tuned"), records(folder / "two" / "tuned"), strict=True):
        assert numbers_of(b) == pytest.approx(numbers_of(a), rel=1e-3)
    first, second = results["tuned"]
    assert first == second and first["result"]["val_size"] == 23


def test_command_on_two_ranks_prints_one_result(finished, server, monkeypatch):
    folder, results = finished
    monkeypatch.chdir(folder)
    flags = ["--reprs", "train.pt", "val.pt", "--solver", "lbfgs", "--device", "cpu", "-o", "two/printed", "--json"]
    ran = run_ranks(server, "ssltool", "lincls", *flags)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["acc1"] == results["lbfgs"][0]["result"]["acc1"]
    assert ran.stderr.count("151 train representations") == 1


def test_clusters_of_two_ranks_are_those_of_one_process(finished):
    folder, results = finished
    kinds = [folder / kind / "clustered" for kind in ("one", "two")]
    one, two = (Neighbours.load(path / "neighbours.pt") for path in kinds)
    assert torch.equal(one.indices, two.indices) and torch.equal(one.bank_index, two.bank_index)
    torch.testing.assert_close(one.distances, two.distances, rtol=1e-4, atol=1e-6)
    for file in ("clusters.pt", "selflabelled.pt"):
        one, two = (Checkpoint.load(path / file) for path in kinds)
        torch.testing.assert_close(two.state_dict, one.state_dict, rtol=1e-4, atol=5e-5)
    for file in ("assignments_kmeans.pt", "assignments_cluster.pt", "assignments_selflabel.pt"):
        one, two = (Clusters.load(path / file) for path in kinds)
        assert torch.equal(one.assignments, two.assignments)
        assert numbers_of(two.meta) == pytest.approx(numbers_of(one.meta), rel=1e-3)
    before, after = map(records, kinds)
    assert [record["phase"] for record in before] == ["cluster", "cluster", "selflabel"]
    for a, b in zip(before, after, strict=True):
        assert numbers_of(b) == pytest.approx(numbers_of(a), rel=1e-3)
    first, second = results["clustered"]
    assert first == second


@pytest.mark.parametrize(
    ("whole", "stopped", "files"),
    [("tuned", "tuning stopped", [TUNED]), ("clustered", "clustering stopped", ["clusters.pt", "selflabelled.pt"])],
)
def test_stopped_training_of_two_ranks_resumes_to_the_same_bits(finished, whole, stopped, files):
    folder, results = finished
    assert results[stopped] == [{"stopped by": 10}] * 2
    assert "result" in results[f"{stopped}, resumed"][0]
    for file in files:
        a, b = (Checkpoint.load(folder / "two" / name / file) for name in (whole, stopped))
        assert same_bits((a.state_dict, a.optimizer), (b.state_dict, b.optimizer))


def test_evaluation_on_two_ranks_counts_every_image_once(finished):
    _, results = finished
    (first, second), trained = results["evaluated"], results["images"][0]["result"]
    assert first == second
    names = ("acc1", "acc5", "class_acc1", "val_size")
    assert [first["result"][name] for name in names] == [trained[name] for name in names]
    assert trained["val_size"] == 23
