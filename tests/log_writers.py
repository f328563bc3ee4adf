"""Writes logs as other programs write them: the same keys, order and formats, with made-up values.

Each function follows the code that it names, of the repository at the time of writing; no line of a real log is copied.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

Values = Sequence[float]


def json_lines(path: Path, rows: list[dict[str, float]], first: str | None = None) -> Path:
    lines = ([first] if first else []) + [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def dino(path: Path, losses: Values, rates: Values) -> Path:
    """facebookresearch/dino, main_dino.py, train_dino: ``log_stats``, the averages of the meters loss, lr and wd."""
    rows = [
        {"train_loss": loss, "train_lr": rate, "train_wd": 0.04, "epoch": epoch}
        for epoch, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]
    return json_lines(path, rows)


def mae(path: Path, losses: Values, rates: Values) -> Path:
    """facebookresearch/mae, main_pretrain.py, main: ``log_stats``; the meter lr is added before loss."""
    rows = [
        {"train_lr": rate, "train_loss": loss, "epoch": epoch}
        for epoch, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]
    return json_lines(path, rows)


def dinov2(path: Path, crops: Values, ibot: Values, koleo: Values, rates: Values) -> Path:
    """facebookresearch/dinov2, dinov2/logging/helpers.py, dump_in_output_file, called in dinov2/train/train.py.

    ``crops`` is the mean over all pairs of crops; with 8 local and 2 global crops 16 of the 18 pairs are local.
    """
    rows = [
        {
            "iteration": 10 * i,
            "iter_time": 0.5,
            "data_time": 0.01,
            "lr": rate,
            "wd": 0.04,
            "mom": 0.992,
            "last_layer_lr": rate,
            "current_batch_size": 64.0,
            "total_loss": crop + patch + distance,
            "dino_local_crops_loss": crop * 16 / 18,
            "dino_global_crops_loss": crop * 2 / 18,
            "koleo_loss": distance,
            "ibot_loss": patch,
        }
        for i, (crop, patch, distance, rate) in enumerate(zip(crops, ibot, koleo, rates, strict=True))
    ]
    return json_lines(path, rows)


def barlow_twins(path: Path, losses: Values, rates: Values) -> Path:
    """facebookresearch/barlowtwins, main.py, main_worker: the command line, then ``stats`` every 100 steps."""
    rows = [
        {"epoch": i // 10, "step": 100 * i, "lr_weights": rate, "lr_biases": rate / 40, "loss": loss, "time": 30 * i}
        for i, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]
    return json_lines(path, rows, "main.py /data/images/ --workers 16 --checkpoint-dir run")


def vicreg(path: Path, losses: Values, rates: Values) -> Path:
    """facebookresearch/vicreg, main_vicreg.py, main: the command line, then ``stats`` about once a minute."""
    rows = [
        {"epoch": i // 10, "step": 97 * i, "loss": loss, "time": 61 * i, "lr": rate}
        for i, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]
    return json_lines(path, rows, "main_vicreg.py --data-dir /data/images/ --exp-dir run")


def lightly_train(path: Path, losses: Values) -> Path:
    """lightly-ai/lightly-train, src/lightly_train/_loggers/jsonl.py, save; the keys of _methods/method.py."""
    rows = [
        {"train_loss": loss, "profiling/batch_time": 0.2, "epoch": i // 10, "step": 50 * i + 49}
        for i, loss in enumerate(losses)
    ]
    return json_lines(path, rows)


class AverageMeter:
    """facebookresearch/moco-v3, main_moco.py, and facebookresearch/simsiam, main_simsiam.py."""

    def __init__(self, name: str, fmt: str) -> None:
        self.name, self.fmt, self.value, self.total, self.count = name, fmt, 0.0, 0.0, 0

    def update(self, value: float) -> None:
        self.value, self.total, self.count = value, self.total + value, self.count + 1

    def __str__(self) -> str:
        return f"{self.name} {self.value:{self.fmt}} ({self.total / self.count:{self.fmt}})"


def progress_meter(path: Path, losses: Values, rates: Values | None = None, *, steps: int = 40) -> Path:
    """What MoCo v3 prints, which has the ``rates``, or SimSiam, which has not: a line every ten of ``steps`` steps."""
    lines, each = ["Use GPU: 0 for training", "=> creating model 'resnet50'"], steps // 10
    for i, loss in enumerate(losses):
        epoch, step = i // each, i % each * 10
        meters = [AverageMeter("Time", "6.3f"), AverageMeter("Data", "6.3f")]
        meters += [AverageMeter("LR", ".4e")] if rates is not None else []
        meters += [AverageMeter("Loss", ".4f" if rates is None else ".4e")]
        for meter, value in zip(meters, [0.1, 0.01, *([] if rates is None else [rates[i]]), loss], strict=True):
            meter.update(value)
        width = len(str(steps))
        lines.append("\t".join([f"Epoch: [{epoch}][{step:{width}d}/{steps:{width}d}]", *map(str, meters)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def metric_logger(path: Path, losses: Values, rates: Values, *, steps: int = 50, stopped: str | None = None) -> Path:
    """What DINO prints: facebookresearch/dino, utils.py, MetricLogger.log_every, and main_dino.py if it ``stopped``."""
    lines, each = ["git:", "  sha: 0, status: clean, branch: main", ""], steps // 10
    for i, (loss, rate) in enumerate(zip(losses, rates, strict=True)):
        epoch, step = i // each, i % each * 10
        meters = "  ".join(f"{name}: {x:.6f} ({x:.6f})" for name, x in (("loss", loss), ("lr", rate), ("wd", 0.04)))
        head = f"Epoch: [{epoch}/100]  [{step:2d}/{steps}]  eta: 0:01:40"
        lines.append(f"{head}  {meters}  time: 0.100000  data: 0.010000  max mem: 5000")
    lines += [f"Loss is {stopped}, stopping training"] if stopped else []
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | float | str | bytes, *, double: bool = False) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | (1 if double else 5)) + struct.pack("<d" if double else "<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def crc32c(data: bytes) -> int:
    """CRC-32C by polynomial division, the bits in reflected order."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def tensorboard(path: Path, scalars: dict[str, Values], *, tensors: bool = False) -> Path:
    """tensorboard's record_writer.py and event.proto; with ``tensors`` as TensorFlow 2 and ``new_style`` write."""

    def record(data: bytes) -> bytes:
        length = struct.pack("<Q", len(data))
        sums = [((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF for c in map(crc32c, (length, data))]
        return length + struct.pack("<I", sums[0]) + data + struct.pack("<I", sums[1])

    out = record(field(1, 1.0, double=True) + field(3, "brain.Event:2"))
    for step, row in enumerate(zip(*scalars.values(), strict=True)):
        for tag, value in zip(scalars, row, strict=True):
            tensor = field(1, 1) + field(2, b"") + field(5, struct.pack("<f", value))
            held = field(8, tensor) if tensors else field(2, float(value))
            summary = field(1, field(1, tag) + held)
            out += record(field(1, 1.0, double=True) + (field(2, step) if step else b"") + field(5, summary))
    path.write_bytes(out)
    return path


def wandb(path: Path, rows: list[dict[str, float]]) -> Path:
    """wandb, sdk/internal/datastore.py, _write_data, with the history of wandb_internal.proto."""
    out = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))

    def part(data: bytes, kind: int) -> bytes:
        return struct.pack("<IHB", zlib.crc32(data, zlib.crc32(bytes([kind]))), len(data), kind) + data

    for number, row in enumerate(rows):
        items = b"".join(field(1, field(1, key) + field(16, json.dumps(value))) for key, value in row.items())
        data = field(1, number + 1) + field(2, items + field(2, field(1, number)))
        left = 32768 - len(out) % 32768
        if left < 7:
            out += bytes(left)
            left = 32768
        if len(data) + 7 <= left:
            out += part(data, 1)
            continue
        out += part(data[: left - 7], 2)
        data = data[left - 7 :]
        while len(data) > 32768 - 7:
            out += part(data[: 32768 - 7], 3)
            data = data[32768 - 7 :]
        out += part(data, 4)
    path.write_bytes(out)
    return path
