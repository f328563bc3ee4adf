"""Distributed training: two ranks give the results of one process with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run_ranks
from torch import nn

from helpers import TINY, records, same_run
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.data.shard import Shard
from ssltool.errors import SSLToolError
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.pretrain import Pretraining
from ssltool.training import data_parallel, distributed

pytestmark = pytest.mark.xdist_group("two ranks")  # most tests share one launch

CPU = torch.device("cpu")

PROGRAM = '''
"""What both ranks run: batch statistics, numbers over the ranks, and a run that is interrupted and goes on.

All of it in one process group: a second one would meet the first one's addresses in its store.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from ssltool.config import PretrainConfig
from ssltool.errors import Interrupted, SSLToolError
from ssltool.runs.folder import RunFolder
from ssltool.runs.lock import RunLock
from ssltool.stages.pretrain.pretrain import Pretraining
from ssltool.training import data_parallel, distributed

torch.set_num_threads(1)
out = Path(sys.argv[1])
cpu = torch.device("cpu")
found = {}


def batch_statistics(shard):
    for name, (layer, batch, weight) in torch.load(out / "layers.pt", weights_only=False).items():
        model = data_parallel.wrap_ddp(layer, cpu)
        share = batch[shard.slice(len(batch))].requires_grad_()
        made = model(share)
        (made * weight[shard.slice(len(batch))]).sum(dim=tuple(range(1, made.dim()))).mean().backward()
        found[name] = {"made": made.detach(), "input": share.grad, "buffers": dict(layer.named_buffers())}
        found[name]["parameters"] = {key: p.grad for key, p in layer.named_parameters()}


def unused_parameter(shard):
    model = torch.nn.Linear(2, 1)
    model.mask = torch.nn.Parameter(torch.ones(1))
    wrapped = data_parallel.wrap_ddp(model, cpu, some_unused=True)
    for step in range(2):
        model.zero_grad()
        wrapped(torch.full((1, 2), 1.0 + shard.rank)).sum().backward()
    found["gradient of weight"], found["gradient of mask"] = model.weight.grad, model.mask.grad


def numbers(shard):
    found["shard"] = [shard.rank, shard.world]
    sums = torch.tensor([1.0, 2.0]) * (shard.rank + 1), torch.full((2, 1), 10.0 ** shard.rank)
    distributed.all_reduce_sum(*sums)
    found["sums"] = list(sums)
    found["from zero"] = distributed.from_rank_zero(lambda: f"of rank {shard.rank}")
    found["together"] = list(distributed.together(iter([shard.rank, 7])))
    found["mean"] = distributed.all_reduce_mean(torch.tensor([1.0, 10.0]) * (shard.rank + 1))
    found["largest"] = distributed.all_reduce_max([15, 0][shard.rank])
    try:
        with distributed.raise_on_all_ranks():
            if shard.rank == 1:
                raise SSLToolError("only here")
    except SSLToolError as error:
        found["error"] = str(error)


def locked_folder(shard):
    """What a stage does on each rank while another process writes the run folder."""
    (out / "locked").mkdir(exist_ok=True)
    with RunLock(out / "locked") if shard.rank == 1 else contextlib.nullcontext():
        distributed.all_reduce_max(0)
        try:
            with RunFolder(out / "locked").locked():
                found["locked"] = ""
        except SSLToolError as error:
            found["locked"] = str(error)


def interrupted_run(shard):
    network = dict(arch="resnet18_w8", stem="small-stride2", image_size=16, dim=16, pred_dim=8, precision="fp32")
    whole = PretrainConfig(**network, epochs=2, steps_per_epoch=3, batch_size=16, device="cpu", out=str(out / "whole"))
    stopped = dataclasses.replace(whole, out=str(out / "stopped"))
    Pretraining(whole, cpu, shard).train()
    step = Pretraining.step

    def stepping(run, batch):
        if run.state.step == 3 and shard.rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(run, batch)

    Pretraining.step = stepping
    try:
        Pretraining(stopped, cpu, shard).train()
    except Interrupted as stop:
        found["stopped by"] = stop.number
    Pretraining.step = step
    Pretraining(dataclasses.replace(stopped, resume="auto"), cpu, shard).train()


with distributed.process_group(cpu, "auto") as shard:
    batch_statistics(shard)
    unused_parameter(shard)
    numbers(shard)
    locked_folder(shard)
    interrupted_run(shard)
torch.save(found, out / f"rank{shard.rank}.pt")
'''


def layers() -> dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """Layers with batch statistics, each with a global batch and the weights of a loss over its output."""
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False))
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3))
    return {
        "flat": (flat, torch.randn(8, 5), torch.randn(8, 4)),
        "image": (image, 3 + 2 * torch.randn(6, 3, 5, 5), torch.randn(6, 4, 3, 3)),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, server) -> tuple[Path, list[dict[str, Any]]]:
    """The folder in which two ranks ran ``PROGRAM``, and the results of each."""
    out = tmp_path_factory.mktemp("ranks")
    (out / "program.py").write_text(PROGRAM)
    torch.save(layers(), out / "layers.pt")
    ran = run_ranks(server, out / "program.py", out)
    assert ran.returncode == 0, ran.stderr
    return out, [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", ["flat", "image"])
def test_batch_statistics_and_their_gradients_are_those_of_the_whole_batch(ranks, name):
    """The reference is torch's own BatchNorm on the ranks' shares put together, under the mean loss over all images."""
    layer, batch, weight = layers()[name]
    batch.requires_grad_()
    made = layer(batch)
    (made * weight).sum(dim=tuple(range(1, made.dim()))).mean().backward()
    parts = [found[name] for found in ranks[1]]
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(torch.cat([part["made"] for part in parts]), made.detach(), **close)
    # Each rank's loss is the mean over its own share, so its input's gradient is larger by the number of ranks.
    torch.testing.assert_close(torch.cat([part["input"] for part in parts]) / 2, batch.grad, **close)
    for part in parts:
        torch.testing.assert_close(part["buffers"], dict(layer.named_buffers()), **close)
        torch.testing.assert_close(part["parameters"], {key: p.grad for key, p in layer.named_parameters()}, **close)


def test_parameter_without_gradient_does_not_stop_the_ranks(ranks):
    for found in ranks[1]:
        assert found["gradient of weight"].tolist() == [[1.5, 1.5]]  # the mean over the ranks
        assert found["gradient of mask"] is None


def test_shards_and_reductions_over_ranks(ranks):
    for rank, found in enumerate(ranks[1]):
        assert found["shard"] == [rank, 2]
        assert found["mean"].tolist() == [1.5, 15.0]
        assert [one.tolist() for one in found["sums"]] == [[3.0, 6.0], [[11.0], [11.0]]]
        assert found["from zero"] == "of rank 0"
        assert found["together"] == [rank, 7]
        assert found["largest"] == 15


def test_error_on_one_rank_is_raised_on_all(ranks):
    first, second = (found["error"] for found in ranks[1])
    assert "another rank" in first and second == "only here"


def test_run_folder_in_use_stops_all_ranks(ranks):
    first, second = (found["locked"] for found in ranks[1])
    assert "locked is in use by process" in first and "another rank" in second


def test_signal_to_one_rank_stops_all_and_the_run_resumes_bit_identically(ranks):
    out, found = ranks
    assert [f["stopped by"] for f in found] == [10, 10]
    assert same_run(out / "whole", out / "stopped")


def test_two_ranks_of_torchrun_equal_one_process_for_the_same_global_batch(tiny, tmp_path):
    """Sums over the batch are taken in another order, so the first step differs by about 1e-7, and training amplifies
    that: a run whose first weights are multiplied by 1 + 1e-7 noise ends these six steps up to 5e-6 away. A step moves
    the weights by 1e-3."""
    one, two = pretrain(tiny("one", save_every=1)), tmp_path / "two"
    schedule = ["--epochs", 2, "--steps-per-epoch", 3, "-b", 16, "--device", "cpu", "--precision", "fp32"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ssltool"]
    command = [*launcher, "pretrain", *TINY, *schedule, "--out", two]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{two}\n"
    assert ran.stderr.count("epoch 2/2: loss") == 1
    assert "Warning" not in ran.stderr  # of a library
    single, double = (Checkpoint.load(run / "checkpoint.pt") for run in (one, two))
    assert single.step == double.step == 6
    torch.testing.assert_close(double.state_dict, single.state_dict, rtol=1e-4, atol=2e-5)
    halfway = Checkpoint.load(one / "checkpoint_0000.pt").state_dict
    moved = [(tensor - halfway[name]).abs().max() for name, tensor in single.state_dict.items() if "0.weight" in name]
    assert min(moved) > 10 * 2e-5
    before, after = (records(run) for run in (one, two))
    assert [record["epoch"] for record in after] == [0, 1]
    assert [r["loss"] for r in after] == pytest.approx([r["loss"] for r in before], rel=1e-4, abs=1e-5)


def test_batch_size_not_divisible_by_the_number_of_ranks_is_refused(tiny, tmp_path):
    with pytest.raises(SSLToolError, match=r"--batch-size 16 .*3"):
        Pretraining(tiny(), CPU, Shard(0, 3))
    assert not (tmp_path / "run").exists()


def test_shards_partition_the_batch_in_order():
    rows = list(range(12))
    assert [rows[Shard(rank, 3).slice(12)] for rank in range(3)] == [rows[:4], rows[4:8], rows[8:]]
    assert rows[Shard().slice(12)] == rows


@pytest.mark.parametrize(("count", "world"), [(5, 4), (1, 3), (7, 2), (12, 3), (0, 2)])
def test_shards_of_any_number_of_rows_have_each_row_once_and_pad_to_equal_sizes(count, world):
    shards = [Shard(rank, world) for rank in range(world)]
    assert [row for shard in shards for row in range(count)[shard.slice(count)]] == list(range(count))
    assert len({len(shard.padded(count)) for shard in shards}) == 1
    for shard in shards:
        own = len(shard.padded(count)) - shard.padding(count)
        assert shard.padded(count)[:own].tolist() == list(range(count)[shard.slice(count)])


def test_one_process_is_the_identity(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    model = nn.BatchNorm1d(3)
    with distributed.process_group(CPU, "auto") as shard:
        assert shard == Shard(0, 1)
        assert data_parallel.wrap_ddp(model, CPU) is model and type(model) is nn.BatchNorm1d
        assert distributed.all_reduce_max(7) == 7
        assert distributed.all_reduce_mean(torch.tensor([1.5, 2.5])).tolist() == [1.5, 2.5]
        assert distributed.is_main() and not distributed.under_torchrun()
    with pytest.raises(SSLToolError, match="local error"), distributed.raise_on_all_ranks():
        raise SSLToolError("local error")


def test_nccl_without_cuda_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(SSLToolError, match=r"--dist-backend nccl .*--device cuda"),
        distributed.process_group(CPU, "nccl"),
    ):
        pass
