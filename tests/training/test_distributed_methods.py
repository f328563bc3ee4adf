"""Every method on two ranks: the losses, gradients and state of one process with the same global batch.

One launch for all. In it ``Tensor.float`` makes float64, as does every layer, so that what is left between one process
and two ranks is the rounding of float64 and never a nearest neighbour that rounding decides.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import run_ranks

from helpers import records, slow_but
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.methods import METHODS
from ssltool.methods.regularisers import REGULARISERS
from ssltool.stages.pretrain import run as pretrain
from ssltool.training.distributed import broadcast, gather, local_rows
from tiny_methods import MASKED, NO_EFFECT, OF_PATCHES, QUICK, TINY_METHODS, tiny_config, tiny_options

pytestmark = pytest.mark.xdist_group("every method on two ranks")  # they share one launch, which takes half a minute

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "moco, symmetric": ("moco", {"symmetric": True}),
    "moco, symmetric with two queues": ("moco", {"symmetric": True, "queued": "separate"}),
    "simsiam without stop-gradient": ("simsiam", {"stop_grad": False}),
    "simsiam by cross-entropy, one way": ("simsiam", {"similarity": "cross_entropy", "symmetric": False}),
    "vicreg with regularisers": ("vicreg", {}),
    "wmse, shrunk": ("wmse", {"eps": 0.1}),
    "swav with its queue in use": ("swav", {"queue": 32}),
    "teacher by the gradient": ("teacher", {"update": "sgd"}),
    "teacher as a copy": ("teacher", {"update": "copy"}),
    "ressl in micro-batches": ("ressl", {}),
    "ibot in micro-batches": ("ibot", {}),
    "dinov2 with Gram anchoring": ("dinov2", {"gram": 1.0, "gram_start": 0.5}),
    "mae in micro-batches": ("mae", {}),
    "ijepa in micro-batches": ("ijepa", {}),
    "distill with recomputed activations": ("distill", {}),
}
CASES = {name: (name, {}) for name in METHODS} | VARIANTS
NOT_SLOW = (*QUICK, *(name for name in VARIANTS if "micro-batches" not in name), "ressl in micro-batches")

VIT = OF_PATCHES | {"zero_init_residual": True}
SETTINGS = {
    "ressl in micro-batches": {"accumulate": 4} | VIT,
    "vicreg with regularisers": {"regularise": tuple(f"{name}=0.1" for name in REGULARISERS)},
    "ibot in micro-batches": {"accumulate": 4},
    "mae in micro-batches": {"accumulate": 4},
    "ijepa in micro-batches": {"accumulate": 4},
    "distill with recomputed activations": {"checkpoint_activations": True},
}
"""Other settings of a case. The one process neither accumulates, which without batch norm changes nothing, nor
recomputes."""

ONE_STEP = ("simsiam", "simclr", "barlow", "vicreg", "wmse", "mmcr", "frossl", "empssl", "lejepa", "visreg")
ONE_STEP += ("mae", "paws", "supervised")
"""Methods whose only state is weights; the others run two steps, in two epochs."""

IN_FLOAT32 = {"swav": {"queue": 32}, "deepcluster": {"prototypes": 4, "heads": 1, "kmeans_iters": 2}}
"""Trained once more as users do; few clusters, lest rounding decide between two."""

PROGRAM = '''
"""What both ranks run; see the test file. One process group, before which each computes as one process."""

import dataclasses
import os
import sys
from pathlib import Path

import torch

from ssltool.config import PretrainConfig
from ssltool.data.shard import Shard
from ssltool.files.stored import weights_hash
from ssltool.stages.pretrain.pretrain import Pretraining
from ssltool.training import distributed
from ssltool.training.distributed import broadcast, gather, local_rows

torch.set_num_threads(1)
out, cpu = Path(sys.argv[1]), torch.device("cpu")
found = {"apart": {}, "hash": {}}


def configs(kind):
    """The settings of a dict of runs."""
    return {
        name: PretrainConfig(**(settings | {"options": tuple(settings["options"])}))
        for name, settings in torch.load(out / kind, weights_only=True).items()
    }


def trained(config, shard):
    """The gradients of each step, the losses of each epoch, and the state at the end."""
    run, gradients = Pretraining(config, cpu, shard), []
    method = run.state.method
    update = method.before_update

    def spy():
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad})
        update()

    method.before_update = spy
    run.train()
    return {
        "gradients": gradients,
        "losses": [record["loss"] for record in run.state.history],
        "state": {name: tensor.clone() for name, tensor in method.state_dict().items()},
    }


def apart(ours, theirs):
    """For each tensor the largest difference, and the largest number of the reference."""
    assert ours.keys() == theirs.keys()
    return {
        name: [float((ours[name].double() - other.double()).abs().max()), float(other.double().abs().max())]
        for name, other in theirs.items()
    }


def collectives(shard):
    rank = shard.rank
    made = torch.arange(6.0).view(3, 2) + 10 * rank
    weights = torch.arange(12.0).view(6, 2) * (rank + 1) ** 2  # a different loss per rank

    rows = made.clone().requires_grad_()
    gathered = gather(rows)
    (gathered * weights).sum().backward()
    found["gather"] = {"made": gathered.detach(), "gradient": rows.grad}

    rows = made.clone().requires_grad_()
    both = [made.clone().requires_grad_() for _ in range(2)]
    ((gather(both[0]) + gather(both[1])) * weights).sum().backward()
    found["gather twice"] = [part.grad for part in both]

    part = local_rows(gather(rows))
    (part * weights[:3]).sum().backward()
    found["local rows"] = {"made": part.detach(), "gradient": rows.grad}

    found["gather of numbers"] = gather(torch.tensor([rank, 7 + rank]))
    found["gather of columns"] = gather(made.mT[:, ::2])

    tensor = made.clone()
    same = broadcast(tensor)
    found["broadcast"] = {"made": tensor, "in place": same is tensor}


def main():
    as_float = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    cases = configs("cases.pt")
    single_process_cases = list(cases)[int(os.environ["RANK"]) :: 2]  # the ranks split the single-process runs
    plain = {"accumulate": 1, "checkpoint_activations": False}
    alone = {name: trained(dataclasses.replace(cases[name], **plain), Shard()) for name in single_process_cases}
    with distributed.process_group(cpu, "auto") as shard:
        for name, config in cases.items():
            pair = trained(config, shard)
            gradients = {f"{step} {key}": g for step, found in enumerate(pair["gradients"]) for key, g in found.items()}
            found["hash"][name] = weights_hash(pair["state"] | gradients)
            if name in alone:
                one = alone.pop(name)
                found["apart"][name] = {
                    "losses": [pair["losses"], one["losses"]],
                    "gradients": [apart(*both) for both in zip(pair["gradients"], one["gradients"], strict=True)],
                    "state": apart(pair["state"], one["state"]),
                }
        torch.Tensor.float = as_float
        torch.set_default_dtype(torch.float32)
        collectives(shard)
        for config in configs("float32.pt").values():
            Pretraining(config, cpu, shard).train()
    torch.save(found, out / f"rank{shard.rank}.pt")


main()
'''

CLOSE = 1e-9
"""Share of a tensor's largest number that rounding may cost: sums over the batch are taken in another order, which
batch norm and whitening enlarge."""

NOTHING = 1e-12
"""Absolute tolerance."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The working folder of the two ranks."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(request, folder, trained, server) -> list[dict[str, Any]]:
    """The results of each of two ranks, in the cases of which a test was selected."""
    tests = [one for one in request.session.items if one.module is request.module and hasattr(one, "callspec")]
    selected = {value for one in tests for value in one.callspec.params.values()}
    # Residual branches start at random: where they start at zero, most of the first step's gradients are zero.
    common = {"steps_per_epoch": 1, "zero_init_residual": False, "overwrite": True, "monitor_every": 0}
    cases = {}
    for name, (method, options) in CASES.items():
        if method in TINY_METHODS and name in selected:
            out = folder / "double" / str(len(cases))
            settings = common | {"epochs": steps_of(method)} | SETTINGS.get(name, {})
            settings |= {"zero_init_residual": True} if method in MASKED else {}
            cases[name] = tiny_config(method, out, trained, options=options, **settings)
    save(cases, folder / "cases.pt")
    save({method: in_float32(method, folder / "two", trained) for method in IN_FLOAT32}, folder / "float32.pt")
    (folder / "program.py").write_text(PROGRAM)
    ran = run_ranks(server, folder / "program.py", folder)
    assert ran.returncode == 0, ran.stderr
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def steps_of(method: str) -> int:
    return 1 if method in ONE_STEP else 2


def save(configs: dict[str, PretrainConfig], path: Path) -> None:
    torch.save({name: dataclasses.asdict(config) for name, config in configs.items()}, path)


def in_float32(method: str, folder: Path, trained: Path) -> PretrainConfig:
    return tiny_config(method, folder / method, trained, options=IN_FLOAT32[method], epochs=1, steps_per_epoch=3)


@pytest.fixture(params=slow_but(NOT_SLOW, CASES))
def case(request, ranks) -> tuple[str, dict[str, Any]]:
    """A method, and the results of one of its cases on two ranks and in one process."""
    method, _ = CASES[request.param]
    tiny_options(method)  # or there is no such case
    (found,) = (found["apart"][request.param] for found in ranks if request.param in found["apart"])
    return method, found


def test_losses_on_two_ranks_are_those_of_one_process(case):
    method, found = case
    pair, one = found["losses"]
    assert len(one) == steps_of(method)
    assert pair == pytest.approx(one, rel=CLOSE)


def test_gradients_on_two_ranks_are_those_of_one_process(case):
    method, found = case
    assert len(found["gradients"]) == steps_of(method)
    for step in found["gradients"]:
        off = {name: (apart, size) for name, (apart, size) in step.items() if apart > CLOSE * size + NOTHING}
        assert not off


def test_compared_gradients_are_not_zero(case):
    """Otherwise two zeros would have been compared."""
    method, found = case
    for step in found["gradients"]:
        assert {name for name, (_, size) in step.items() if size < 1e-9} == set(NO_EFFECT.get(method, ()))


def test_weights_and_buffers_on_two_ranks_are_those_of_one_process(case):
    _, found = case
    off = {name: (apart, size) for name, (apart, size) in found["state"].items() if apart > CLOSE * size + NOTHING}
    assert not off


@pytest.mark.parametrize("name", slow_but(NOT_SLOW, CASES))
def test_ranks_have_the_same_bits(ranks, name):
    tiny_options(CASES[name][0])
    first, second = (found["hash"][name] for found in ranks)
    assert first == second


@pytest.mark.parametrize("method", IN_FLOAT32)
def test_run_on_two_ranks_ends_near_that_of_one_process(folder, ranks, trained, method):
    """In float32 rounding is about 1e-7 at the first step and grows with each; a step moves the weights by 1e-3."""
    two, one = folder / "two" / method, pretrain(in_float32(method, folder / "one", trained))
    single, double = (Checkpoint.load(run / "checkpoint.pt") for run in (one, two))
    assert single.step == double.step == 3
    torch.testing.assert_close(double.state_dict, single.state_dict, rtol=1e-4, atol=2e-5)
    before, after = (records(run) for run in (one, two))
    assert [r["loss"] for r in after] == pytest.approx([r["loss"] for r in before], rel=1e-4)


ROWS = [torch.arange(6.0).view(3, 2) + 10 * rank for rank in range(2)]
WEIGHTS = torch.arange(12.0).view(6, 2)
"""Weights of each rank's loss, times the square of the rank counted from 1."""


def test_gathered_rows_are_concatenated_by_rank(ranks):
    for found in ranks:
        assert torch.equal(found["gather"]["made"], torch.cat(ROWS))
        assert found["gather of numbers"].tolist() == [0, 7, 1, 8]
        assert torch.equal(found["gather of columns"], torch.cat([rows.mT[:, ::2] for rows in ROWS]))


def test_gradient_of_gathered_rows_is_the_sum_over_the_ranks_losses(ranks):
    for found, part in zip(ranks, WEIGHTS.split(3), strict=True):
        assert torch.equal(found["gather"]["gradient"], (1 + 4) * part)


def test_two_gathers_that_share_a_gradient_tensor_are_independent(ranks):
    for found, part in zip(ranks, WEIGHTS.chunk(2), strict=True):
        assert all(torch.equal(gradient, (1 + 4) * part) for gradient in found["gather twice"])


def test_local_rows_of_gathered_rows_are_the_input_with_its_own_gradient(ranks):
    for rank, found in enumerate(ranks):
        assert torch.equal(found["local rows"]["made"], ROWS[rank])
        assert torch.equal(found["local rows"]["gradient"], (rank + 1) ** 2 * WEIGHTS[:3])


def test_broadcast_copies_the_tensor_of_rank_0_in_place(ranks):
    for found in ranks:
        assert torch.equal(found["broadcast"]["made"], ROWS[0])
        assert found["broadcast"]["in place"]


def test_collectives_are_the_identity_on_one_process():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather(rows) is local_rows(rows) is broadcast(rows) is rows
