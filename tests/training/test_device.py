"""Selection of the device, autocast and number of workers."""

from __future__ import annotations

import os

import pytest
import torch

from ssltool.config import DeviceSettings
from ssltool.errors import SSLToolError, UsageError
from ssltool.training.device import autocast, pick_device
from ssltool.training.launch import worker_count

CPU = torch.device("cpu")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    """Simulates two CUDA devices and records the selected one."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_the_cpu_is_used_without_a_gpu(name):
    assert pick_device(DeviceSettings(device=name)) == CPU


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("settings", [{"device": "cuda"}, {"gpu": 0}, {"device": "mps"}])
def test_unavailable_device_is_refused(settings):
    with pytest.raises(SSLToolError, match="--device cpu"):
        pick_device(DeviceSettings(**settings))


def test_auto_selects_the_first_gpu_or_that_of_the_local_rank(two_gpus):
    assert pick_device(DeviceSettings()) == torch.device("cuda", 0)
    assert pick_device(DeviceSettings(), local_rank=1) == torch.device("cuda", 1)
    assert two_gpus == [0, 1]


def test_gpu_selects_the_device(two_gpus):
    assert pick_device(DeviceSettings(gpu=1)) == torch.device("cuda", 1)
    assert two_gpus == [1]


def test_unavailable_gpu_index_is_refused(two_gpus):
    with pytest.raises(SSLToolError, match=r"CUDA device 2 .* 2;"):
        pick_device(DeviceSettings(gpu=2))
    assert two_gpus == []


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_gpu_beside_another_device_is_refused(device):
    with pytest.raises(UsageError, match=f"--gpu .* --device {device}"):
        DeviceSettings(device=device, gpu=0).check()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_gpu_beside_cuda_is_accepted(device):
    DeviceSettings(device=device, gpu=0).check()


def test_unknown_device_is_refused_by_the_settings():
    with pytest.raises(SSLToolError, match=r"--device .*tpu.* auto, cpu, cuda, mps"):
        DeviceSettings(device="tpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_uses_the_requested_precision(precision, dtype):
    with autocast(CPU, precision):
        product = torch.ones(2, 3) @ torch.ones(3, 2)
    assert product.dtype == dtype


def test_the_default_number_of_workers_is_at_most_eight():
    assert worker_count(0) == 0
    assert worker_count(12) == 12
    assert 1 <= worker_count(None) <= min(8, os.cpu_count() or 1)
