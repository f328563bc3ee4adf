"""Published networks by name: ``hf-hub:OWNER/NAME`` and ``timm:NAME``, from the cache or downloaded.

Only configurations and weights are downloaded, to the cache of the Hugging Face hub (``HF_HOME``) or that of torch
(``TORCH_HOME``), which the libraries share. Weights are read by ``read.py``.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from ssltool.checkpoints.find_weights import find_weights
from ssltool.checkpoints.image_processor import FILES
from ssltool.checkpoints.model_folder import CONFIG, INDEX, WEIGHTS, weight_files
from ssltool.checkpoints.named_backbone import NamedBackbone
from ssltool.checkpoints.read import SAFETENSORS, read_entries
from ssltool.checkpoints.timm_weights import select_backbone
from ssltool.checkpoints.torchvision_weights import fetch
from ssltool.errors import SSLToolError, UsageError, first_line, unknown
from ssltool.models.timm_models import timm_package

HUB = "hf-hub:"
TIMM = "timm:"
"""The prefixes, in ``--pretrained``, of names of published networks."""

REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
"""The name of a repository of the hub, and optionally a branch, tag or commit."""


@dataclass(frozen=True)
class Published:
    """Where a published network is: a folder or a file, and the commit of its repository, if it has one."""

    path: Path
    revision: str | None


def hub_folder(name: str) -> Published:
    """The folder of the repository ``hf-hub:OWNER/NAME`` in the hub's cache, with its configuration and weights.

    ``@REVISION`` after the name selects a branch, tag or commit.

    Raises:
        UsageError: if the name has another form, or ``huggingface_hub`` is not installed.
        SSLToolError: if a file is neither in the cache nor can be downloaded.
    """
    match = REPOSITORY.fullmatch(name.removeprefix(HUB))
    if match is None:
        raise UsageError(f"--pretrained {name}: write {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    config = _fetch(name, match[1], match[2], [CONFIG])
    folder, commit = config.parent, config.parent.name
    for optional in FILES:
        if _try(match[1], commit, optional) is not None:
            break
    _fetch(name, match[1], commit, [file for each in WEIGHTS for file in (each, f"{each}{INDEX}")])
    for shard in weight_files(folder):
        _fetch(name, match[1], commit, [shard.name])
    return Published(folder, commit)


def published_timm(name: str) -> tuple[Published, NamedBackbone]:
    """The network whose weights timm publishes under ``timm:NAME`` or ``timm:NAME.TAG``, and where they are.

    Raises:
        UsageError: if timm is not installed or has no such weights.
        SSLToolError: if the weights are neither in a cache nor can be downloaded, or are not read whole.
    """
    timm, model = timm_package(), name.removeprefix(TIMM)
    try:
        config = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:  # for a model or a tag that timm does not have
        raise unknown("weights of timm", model, timm.list_pretrained()) from error
    if not config.has_weights:
        raise UsageError(f"timm publishes no weights of {model}; add a tag, or use --pretrained random -a {name}")
    found = _fetch_timm(name, config)
    entries = read_entries(found.path)
    weights = find_weights(found.path, entries).weights or entries  # timm knows the keys of some files
    return found, select_backbone(model, {}, config.to_dict(), weights, config.num_classes)


def _fetch_timm(name: str, config: Any) -> Published:
    """The file of weights, from the hub or the address in timm's ``pretrained_cfg``."""
    reason: SSLToolError | None = None
    if config.hf_hub_id:
        repository, _, revision = str(config.hf_hub_id).partition("@")
        pickled = config.hf_hub_filename or WEIGHTS[1]
        safe = WEIGHTS[0] if pickled == WEIGHTS[1] else str(Path(pickled).with_suffix(SAFETENSORS))
        try:
            path = _fetch(name, repository, revision or None, [safe, pickled])
            return Published(path, path.parent.name)
        except SSLToolError as error:
            reason = error
    url, file_name = config.url if isinstance(config.url, (list, tuple)) else (config.url, None)
    if not url:
        raise reason or SSLToolError(f"timm gives no address of the weights {name}")
    file_name = file_name or os.path.basename(urlparse(url).path)
    if file_name.endswith(".npz"):
        raise reason or SSLToolError(f"{name} has weights in JAX's format, which ssltool does not read")
    file = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    if not file.is_file() and reason is not None:
        raise reason
    return Published(fetch(url, file), None)


def _fetch(name: str, repository: str, revision: str | None, files: Iterable[str]) -> Path:
    """The first of ``files`` that the repository has.

    Raises:
        SSLToolError: if there is none, in the cache or on the hub; it says what to do.
    """
    reason: Exception | None = None
    for file in files:
        try:
            return _download(repository, revision, file)
        except UsageError:
            raise
        except _hub().errors.EntryNotFoundError as error:
            reason = reason or error
        except Exception as error:  # of the hub, of HTTP, of the system, and of names that the hub does not allow
            reason = error
            break
    command = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
    raise SSLToolError(
        f"cannot get {name}: {first_line(reason or OSError('no file'))[:200]}; without a network, fill the cache "
        f"{_hub().constants.HF_HUB_CACHE} with '{command}' elsewhere, or give the folder of its files to --pretrained"
    ) from reason


def _try(repository: str, revision: str, file: str) -> Path | None:
    """A file of a repository, or None if the repository does not have it, or that cannot be found out."""
    try:
        return _download(repository, revision, file)
    except _hub().errors.EntryNotFoundError:
        return None


def _download(repository: str, revision: str | None, file: str) -> Path:
    return Path(_hub().hf_hub_download(repository, file, revision=revision))


def _hub() -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
        for part in ("constants", "errors"):
            importlib.import_module(f"huggingface_hub.{part}")
    except ImportError as error:
        raise UsageError(
            "names of published networks need huggingface_hub: pip install 'ssltool[transformers]'"
        ) from error
    return hub
