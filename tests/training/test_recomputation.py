"""Activations that are computed again in the backward pass: the same training with less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from helpers import error_message, same_bits, same_run
from ssltool.models.backbones import build_backbone
from ssltool.models.vit import ViT
from ssltool.stages.pretrain import run as pretrain
from ssltool.training.recomputation import recompute_blocks
from tiny_methods import tiny_config


def resnet() -> nn.Module:
    return build_backbone("resnet18_w8", stem="small-stride2", image_size=16)[0]


def vit_with_dropout() -> nn.Module:
    vit = ViT(16, 4, 2, 2, hidden_dim=16, mlp_dim=32, dropout=0.3, attention_dropout=0.3)
    vit.heads = nn.Identity()
    return vit


def of_timm() -> nn.Module:
    pytest.importorskip("timm")
    return build_backbone("timm:test_resnet", image_size=32)[0]


NETWORKS = {"resnet": resnet, "vit with dropout": vit_with_dropout, "timm": of_timm}


def network(name: str, recomputed: bool) -> nn.Module:
    torch.manual_seed(0)
    found = NETWORKS[name]().train()
    if recomputed:
        recompute_blocks(found, name)
    return found


def trained(backbone: nn.Module) -> dict[str, Tensor]:
    """The state after three steps, each on two views."""
    optimizer = torch.optim.SGD(backbone.parameters(), 0.1, momentum=0.9)
    size = 32 if type(backbone).__name__ != "ViT" else 16
    for step in range(3):
        torch.manual_seed(step)
        loss = sum(backbone(torch.randn(4, 3, size, size)).square().mean() for _ in range(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return backbone.state_dict()


def saved_bytes(backbone: nn.Module, size: int) -> int:
    """The size of what the backward pass keeps, without the weights."""
    weights, saved = {p.data_ptr() for p in backbone.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        saved[id(tensor)] = tensor  # kept alive, so that no two have one address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = backbone(torch.randn(8, 3, size, size))
    sizes = {t.data_ptr(): t.nbytes for t in saved.values() if t.data_ptr() not in weights}
    assert out.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_running_statistics_are_the_same_bits(name):
    """Dropout draws the same numbers again, and batch norm counts each batch once."""
    plain, recomputed = (trained(network(name, how)) for how in (False, True))
    assert same_bits(recomputed, plain)
    assert not same_bits(plain, network(name, False).state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_less_is_kept_for_the_backward_pass(name):
    size = 16 if name.startswith("vit") else 32
    plain, recomputed = (saved_bytes(network(name, how), size) for how in (False, True))
    assert recomputed < 0.8 * plain


def test_blocks_are_not_run_again_without_gradients_and_in_evaluation_nothing_changes():
    plain, recomputed = (network("resnet", how) for how in (False, True))
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain(images), recomputed(images))
    for one in (plain, recomputed):
        one.eval()(images).sum().backward()
    assert same_bits(recomputed.state_dict(), plain.state_dict())
    gradients = ([p.grad for p in one.parameters()] for one in (plain, recomputed))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_copy_computes_with_its_own_weights():
    original = network("resnet", True)
    other = copy.deepcopy(original)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        for p in original.parameters():
            p.zero_()
        assert float(other.eval()(images).std()) > 0


def test_a_run_ends_with_the_same_bits(tmp_path, trained):
    settings = {"epochs": 1, "steps_per_epoch": 2, "precision": "bf16"}
    runs = [
        pretrain(tiny_config("byol", tmp_path / str(how), trained, checkpoint_activations=how, **settings))
        for how in (False, True)
    ]
    assert same_run(*runs)


def test_a_network_without_blocks_is_refused(ssltool, tmp_path):
    flags = ["-a", "torchvision:alexnet", "--image-size", 64, "--dim", 16, "--device", "cpu", "-o", tmp_path / "run"]
    message = error_message(ssltool("pretrain", "--checkpoint-activations", *flags))
    assert "torchvision:alexnet" in message
    assert not (tmp_path / "run").exists()


def test_the_plan_of_a_run_needs_less_memory(ssltool, tmp_path):
    flags = ["pretrain", "--dry-run", "-a", "resnet18_w16", "--dim", 16, "--image-size", 32, "-b", 64]
    flags += ["--steps-per-epoch", 1, "--epochs", 1, "--device", "cpu", "-o", tmp_path / "run", "--json"]
    whole, recomputed, parts = (
        ssltool(*flags, *more).json["memory_bytes"] for more in ([], ["--checkpoint-activations"], ["--accumulate", 4])
    )
    assert recomputed < 0.8 * whole
    assert parts < 0.5 * whole


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by torch, where a graph ends
@pytest.mark.slow
def test_a_compiled_network_counts_each_batch_once_too():
    compiled, plain = network("resnet", True), network("resnet", False)
    images = torch.randn(4, 3, 16, 16)
    torch._dynamo.reset()
    torch.compile(compiled, backend="aot_eager")(images).square().mean().backward()
    plain(images).square().mean().backward()
    torch._dynamo.reset()
    states = (compiled.state_dict(), plain.state_dict())
    assert int(states[0]["bn1.num_batches_tracked"]) == int(states[0]["layer4.0.bn1.num_batches_tracked"]) == 1
    torch.testing.assert_close(*states)
    gradients = ([p.grad for p in one.parameters()] for one in (compiled, plain))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
