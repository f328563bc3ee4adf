"""Targets that are recorded programs, which need no library of networks: TorchScript and ONNX."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.errors import SSLToolError, first_line
from ssltool.files.writing import to_json, write_atomically
from ssltool.stages.export.exported import Exported, NoCounterpart, Plan

RECORDED = 2
"""Number of images with which a program is recorded."""

INPUT, OUTPUT = "images", "representations"
"""Names of the input and the output of an ONNX model."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writes ONNX models, and runs them to compare their outputs."""


def torchscript(network: Exported, path: Path) -> Plan:
    """A program that ``torch.jit.load`` runs."""
    load = f"import torch\nmodel = torch.jit.load({str(path)!r}).eval()"
    return Plan(lambda: _write_torchscript(network, path), load)


def onnx(network: Exported, path: Path) -> Plan:
    """A model that ONNX Runtime runs."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SSLToolError(f"--to onnx needs the package {name}: pip install 'ssltool[onnx]'") from error
    load = (
        f"import onnxruntime, torch\nsession = onnxruntime.InferenceSession({str(path)!r})\n"
        f"def model(images):\n    return torch.from_numpy(session.run(None, {{'{INPUT}': images.numpy()}})[0])"
    )
    return Plan(lambda: _write_onnx(network, path), load)


def _write_torchscript(network: Exported, path: Path) -> None:
    with _silent(), torch.no_grad():
        try:
            program = torch.jit.trace(network.backbone, network.images(RECORDED), check_trace=False)
            buffer = io.BytesIO()
            torch.jit.save(program, buffer)
            buffer.seek(0)
            read = torch.jit.load(buffer)
        except Exception as error:  # the recorder raises errors of many kinds
            raise NoCounterpart(f"torch cannot record {network.name} as TorchScript: {_cause(error)}") from error
        network.check_same(read, "the TorchScript program")
    write_atomically(path, lambda stream: stream.write(buffer.getbuffer()))


def _write_onnx(network: Exported, path: Path) -> None:
    with _silent(), torch.no_grad():
        try:
            contents = _onnx_model(network)
        except Exception as error:  # the exporter raises errors of many kinds
            raise NoCounterpart(f"torch cannot export {network.name} to ONNX: {_cause(error)}") from error
        session = importlib.import_module("onnxruntime").InferenceSession(contents)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

        network.check_same(run, "the ONNX model")
    write_atomically(path, lambda stream: stream.write(contents))


def _onnx_model(network: Exported) -> bytes:
    """The model for any number of images, with facts about the network as metadata."""
    program: Any = torch.onnx.export(
        network.backbone,
        (network.images(RECORDED),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    model = program.model_proto
    facts = {"arch": network.arch, "method": network.method, "preprocessing": to_json(network.preprocessing.record())}
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    contents: bytes = model.SerializeToString()
    return contents


def _cause(error: BaseException) -> str:
    """The first line of the error that caused ``error``."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Suppresses what the recorders print, log and warn of."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
