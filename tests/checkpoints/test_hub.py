"""Published networks by name, from caches that the tests lay out as the hub and torch do. Nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hub_helpers import COMMIT, PIXELS, cache, close, folder, network, timm_folder

from ssltool.checkpoints.load import Pretrained, default_run_name, load_pretrained
from ssltool.config import SaveReprsConfig
from ssltool.errors import SSLToolError, UsageError

NAME = "owner/tiny-vit"
TAGGED = "resnet10t.c3_in1k"
"""A small network of timm with published weights."""


@pytest.fixture
def home(monkeypatch, tmp_path):
    """The hub's cache in an empty folder, without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path / "hub"


def load(name: str, **settings) -> Pretrained:
    return load_pretrained(SaveReprsConfig(pretrained=name, device="cpu", **settings), torch.device("cpu"))


@torch.no_grad()
def test_a_repository_is_read_from_the_cache(home, tmp_path, capsys):
    cache(home, NAME, folder(tmp_path / "vit"))
    for name in (f"hf-hub:{NAME}", f"hf-hub:{NAME}@main", f"hf-hub:{NAME}@{COMMIT}"):
        found = load(name)
        close(found.method.backbone(PIXELS), network("ViTModel")(PIXELS).last_hidden_state[:, 0])
        assert (found.origin["checkpoint"], found.origin["revision"]) == (name, COMMIT)
    assert "transformers checkpoint" in capsys.readouterr().err


@torch.no_grad()
def test_shards_and_pickled_tensors_of_a_repository_are_read(home, tmp_path):
    sharded = tmp_path / "sharded"
    network("ViTModel").save_pretrained(sharded, max_shard_size="10KB")
    cache(home, "owner/sharded", sharded)
    path, _ = timm_folder(tmp_path / "timm", safe=False)
    cache(home, "owner/timm", path, "v1")
    expected = network("ViTModel")(PIXELS).last_hidden_state[:, 0]
    close(load("hf-hub:owner/sharded").method.backbone(PIXELS), expected)
    assert load("hf-hub:owner/timm@v1").run.backbone.arch == "timm:resnet18"


def test_a_shard_that_is_not_in_the_cache_is_an_error(home, tmp_path):
    sharded = tmp_path / "sharded"
    network("ViTModel").save_pretrained(sharded, max_shard_size="10KB")
    snapshot = cache(home, NAME, sharded)
    next(snapshot.glob("model-00002*")).unlink()
    with pytest.raises(SSLToolError, match=NAME):
        load(f"hf-hub:{NAME}")


@pytest.mark.parametrize("cached", [True, False])
def test_without_cache_and_network_the_error_says_what_to_do(home, tmp_path, cached):
    if cached:  # the repository, but no weights
        source = folder(tmp_path / "vit")
        (source / "model.safetensors").unlink()
        cache(home, NAME, source)
    with pytest.raises(SSLToolError) as error:
        load(f"hf-hub:{NAME}")
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in (f"hf download {NAME}", str(home), "--pretrained"))


@pytest.mark.parametrize("name", ["", "tiny", "a/b/c", "../x", "a/b@", "/a/b", "a/b@c@d"])
def test_names_of_another_form_are_mistakes_on_the_command_line(home, name):
    with pytest.raises(UsageError, match="OWNER/NAME"):
        load(f"hf-hub:{name}")


def test_without_the_library_the_error_names_an_extra(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"ssltool\["):
        load(f"hf-hub:{NAME}")


def published(path: Path, home: Path, *, old: bool) -> torch.nn.Module:
    """A network of timm with random weights, in the hub's cache or, as older versions of timm have it, in torch's."""
    timm = pytest.importorskip("timm")
    path, model = timm_folder(path, TAGGED)
    if old:
        url = timm.get_pretrained_cfg(TAGGED).url
        file = home.parent / "torch" / "checkpoints" / url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        torch.save({"state_dict": model.state_dict()}, file)
    else:
        cache(home, f"timm/{TAGGED}", path)
    return model


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", [TAGGED, TAGGED.partition(".")[0]])
@torch.no_grad()
def test_weights_that_timm_publishes_are_read_from_either_cache(home, tmp_path, old, name):
    model = published(tmp_path / "timm", home, old=old)
    found = load(f"timm:{name}")
    assert found.run.backbone.arch == "timm:resnet10t"
    assert found.origin.get("revision") == (None if old else COMMIT)
    assert found.preprocessing.size == model.pretrained_cfg["input_size"][-1] == found.image_size
    expected = model.forward_head(model.forward_features(PIXELS), pre_logits=True)
    close(found.method.backbone(PIXELS), expected)
    assert load(f"timm:{name}", arch="timm:resnet10t").origin == found.origin
    with pytest.raises(SSLToolError, match="--arch"):
        load(f"timm:{name}", arch="timm:resnet18")


def test_weights_of_another_network_under_a_name_of_timm_are_refused(home, tmp_path):
    path, model = timm_folder(tmp_path / "timm", TAGGED)
    weights = {f"{name}_": tensor for name, tensor in model.state_dict().items()}
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    cache(home, f"timm/{TAGGED}", path)
    with pytest.raises(SSLToolError, match="Missing key") as error:
        load(f"timm:{TAGGED}")
    assert "\n" not in str(error.value)


def test_weights_that_timm_does_not_have_are_one_line(home):
    pytest.importorskip("timm")
    for name in ("resnet10t.unknown", "resnet10"):
        with pytest.raises(UsageError, match="resnet10t"):
            load(f"timm:{name}")
    with pytest.raises(SSLToolError, match=f"hf download timm/{TAGGED}"):
        load(f"timm:{TAGGED}")


def test_the_run_is_named_after_the_published_network(tmp_path):
    names = {"timm:resnet10t.c3_in1k": "timm-resnet10t.c3_in1k", f"hf-hub:{NAME}": "hf-hub-owner-tiny-vit"}
    for source, name in names.items():
        assert default_run_name("scan", SaveReprsConfig(pretrained=source)) == f"scan-{name}"
    assert default_run_name("scan", SaveReprsConfig(pretrained=str(tmp_path))) == f"scan-{tmp_path.name}"
