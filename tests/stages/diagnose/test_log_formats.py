"""Logs are recognised by what they hold, and give the values that were written, whatever the file is called."""

from __future__ import annotations

import contextlib
import importlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import log_writers
from ssltool.errors import SSLToolError
from ssltool.stages.diagnose.findings import FINDINGS, Search
from ssltool.stages.diagnose.findings.finding import Finding
from ssltool.stages.diagnose.log_formats import LOG_FORMATS, LogFormat, read_log
from ssltool.stages.diagnose.log_formats.log_columns import loss_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.log_formats.protobuf import Truncated, fields, signed
from ssltool.stages.diagnose.log_formats.tensorboard_events import masked_crc
from ssltool.stages.diagnose.series import Curve, Series

LOSSES = [float(np.float32(2 + 1 / (i + 1))) for i in range(12)]
RATES = [float(np.float32(0.1 * (12 - i))) for i in range(12)]


def read(path, loss=None):
    return read_log(LogFile(path), loss)


def epochs_from(first: int) -> list[float]:
    return [float(first + i) for i in range(12)]


WRITERS = {
    "DINO": (lambda path: log_writers.dino(path, LOSSES, RATES), "epoch", epochs_from(0), True),
    "MAE": (lambda path: log_writers.mae(path, LOSSES, RATES), "epoch", epochs_from(0), True),
    "DINOv2": (
        lambda path: log_writers.dinov2(path, LOSSES, [0.0] * 12, [0.0] * 12, RATES),
        "step",
        [10.0 * i for i in range(12)],
        True,
    ),
    "Barlow": (
        lambda path: log_writers.barlow_twins(path, LOSSES, RATES),
        "step",
        [100.0 * i for i in range(12)],
        True,
    ),
    "VICReg": (lambda path: log_writers.vicreg(path, LOSSES, RATES), "step", [97.0 * i for i in range(12)], True),
    "lightly-train": (
        lambda path: log_writers.lightly_train(path, LOSSES),
        "step",
        [50.0 * i + 49 for i in range(12)],
        False,
    ),
    "MoCo v3": (
        lambda path: log_writers.progress_meter(path, LOSSES, RATES),
        "step",
        [10.0 * i for i in range(12)],
        True,
    ),
    "SimSiam": (lambda path: log_writers.progress_meter(path, LOSSES), "step", [10.0 * i for i in range(12)], False),
    "MetricLogger": (
        lambda path: log_writers.metric_logger(path, LOSSES, RATES),
        "step",
        [10.0 * i for i in range(12)],
        True,
    ),
    "TensorBoard": (
        lambda path: log_writers.tensorboard(path, {"train/loss": LOSSES, "lr": RATES}),
        "step",
        epochs_from(0),
        True,
    ),
    "Weights & Biases": (
        lambda path: log_writers.wandb(
            path,
            [{"loss": a, "lr": b, "_step": i} for i, (a, b) in enumerate(zip(LOSSES, RATES, strict=True))],
        ),
        "step",
        epochs_from(0),
        True,
    ),
}
"""The program that the reader names, a log of it, its unit and steps, and whether it has the learning rate."""


@pytest.mark.parametrize("program", WRITERS)
def test_a_log_gives_the_values_that_were_written_whatever_its_name(tmp_path, program):
    write, unit, steps, has_rate = WRITERS[program]
    series = read(write(tmp_path / "anything.bin"))
    assert program in series.program
    assert series.unit == unit
    assert series.loss.at.tolist() == steps
    np.testing.assert_allclose(series.loss.values, LOSSES, rtol=1e-4)  # texts have four digits or more
    assert (series.rate is not None) == has_rate
    if has_rate:
        np.testing.assert_allclose(series.rate.values, RATES, rtol=1e-4)


@pytest.mark.parametrize("program", WRITERS)
def test_a_log_that_is_cut_off_anywhere_loses_its_end_only(tmp_path, program):
    write, _, steps, _ = WRITERS[program]
    path = write(tmp_path / "log")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.7 * len(whole))])
    series = read(path)
    count = len(series.loss)
    assert 1 <= count < 12
    assert series.loss.at.tolist() == steps[:count]
    np.testing.assert_allclose(series.loss.values[: count - 1], LOSSES[: count - 1], rtol=1e-4)


def test_lightning_writes_the_table_that_is_read(tmp_path):
    loggers = pytest.importorskip("lightning_fabric.loggers.csv_logs")  # Lightning's own logger writes with this one
    logger = loggers.CSVLogger(tmp_path, "run")
    for step, loss in enumerate(LOSSES):
        logger.log_metrics({"train_loss_step": loss, "epoch": 0}, step=step)
        if step % 4 == 3:
            logger.log_metrics({"val_loss": 7.0, "train_loss_epoch": 9.0, "lr-SGD": 0.1, "epoch": 0}, step=step)
    logger.save()
    series = read(tmp_path / "run" / "version_0" / "metrics.csv")
    assert "Lightning" in series.program
    assert series.loss_name == "train_loss_step"
    np.testing.assert_allclose(series.loss.values, LOSSES)
    assert series.rate.values.tolist() == [0.1] * 3
    assert "val_loss" in series.others and "val_loss" not in series.terms


def test_torch_writes_the_event_files_that_are_read(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for new_style in (False, True):
        folder = tmp_path / str(new_style)
        writer = SummaryWriter(str(folder))
        for step, loss in enumerate([*LOSSES, math.nan]):
            writer.add_scalar("loss", loss, step, new_style=new_style)
        writer.close()
        (path,) = folder.iterdir()
        np.testing.assert_array_equal(read(path).loss.values, [*LOSSES, math.nan])


def test_tensors_of_one_element_are_scalars_too(tmp_path):
    path = log_writers.tensorboard(tmp_path / "events", {"loss": LOSSES}, tensors=True)
    np.testing.assert_array_equal(read(path).loss.values, LOSSES)


def test_the_checksum_is_the_one_of_the_standard():
    assert log_writers.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert masked_crc(b"123456789") == (rotated + 0xA282EAD8) & 0xFFFFFFFF


def test_wandb_records_that_span_blocks_are_joined(tmp_path):
    rows = [{"loss": float(i), **{f"column_{n}": 1.5 for n in range(40)}} for i in range(200)]
    path = log_writers.wandb(tmp_path / "run.wandb", rows)
    assert path.stat().st_size > 3 * 32768
    assert read(path).loss.values.tolist() == [float(i) for i in range(200)]


def test_wandb_without_a_history_says_how_to_export_it(tmp_path):
    path = log_writers.wandb(tmp_path / "run.wandb", [{}])
    with pytest.raises(SSLToolError, match="wandb sync"):
        read(path)


def test_a_table_has_the_loss_that_the_user_names(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("epoch,objective,other\n1,0.5,7\n2,,8\n3,nan,9\n4,inf,\n")
    with pytest.raises(SSLToolError, match="--loss"):
        read(path)
    series = read(path, "objective")
    assert series.loss.at.tolist() == [1, 3, 4]  # an empty cell is no value, nan is one
    np.testing.assert_array_equal(series.loss.values, [0.5, math.nan, math.inf])
    with pytest.raises(SSLToolError, match="objective"):
        read(path, "objectives")


def test_a_table_without_steps_counts_its_rows_from_1(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("loss,lr\n3,1\n2,1\n")
    series = read(path)
    assert (series.unit, series.loss.at.tolist()) == ("row", [1, 2])


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_the_cells_of_a_table_may_be_separated_by_other_marks(tmp_path, mark):
    path = tmp_path / "table"
    path.write_text(f"epoch{mark}loss\n1{mark}0.5\n2{mark}0.25\n")
    assert read(path).loss.values.tolist() == [0.5, 0.25]


def test_json_lines_of_any_program_are_read_and_losses_that_are_no_numbers_are_counted(tmp_path):
    path = tmp_path / "log"
    rows = [{"my_loss": loss, "step": 2 * i} for i, loss in enumerate([3.0, "n/a", None, 1.0])]
    path.write_text("\n".join(map(json.dumps, rows)))
    series = read(path)
    assert (series.loss_name, series.loss.at.tolist(), series.loss.values.tolist()) == ("my_loss", [0, 6], [3, 1])
    assert series.notes == ["losses that are no numbers, left out: 2"]


def test_the_state_of_a_trainer_of_transformers_is_read(tmp_path):
    """transformers writes the file itself: TrainerState.save_to_json."""
    callback = pytest.importorskip("transformers.trainer_callback")
    history = [{"loss": loss, "learning_rate": 0.1, "epoch": 0.5 * i, "step": 10 * i} for i, loss in enumerate(LOSSES)]
    callback.TrainerState(log_history=[*history, {"eval_loss": 7.0, "step": 110}]).save_to_json(tmp_path / "state.json")
    series = read(tmp_path / "state.json")
    assert "transformers" in series.program
    assert (series.unit, series.loss.at.tolist(), series.loss.values.tolist()) == (
        "step",
        [10 * i for i in range(12)],
        LOSSES,
    )
    assert series.rate.values.tolist() == [0.1] * 12


@pytest.mark.parametrize("text", ["", "hello\n", "a,b\nc,d\ne,f\n", '{"a": 1}\n', "[1, 2]\n", "1,2\n3,4\n", "\0\0\0\0"])
def test_other_files_are_no_logs(tmp_path, text):
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(SSLToolError):
        read(path)


def test_later_values_of_a_resumed_run_count_and_a_note_says_so(tmp_path):
    path = log_writers.dino(tmp_path / "log.txt", [3.0, 2.0, 1.0], [1.0, 1.0, 1.0])
    again = log_writers.dino(tmp_path / "again.txt", [9.0, 8.0], [1.0, 1.0])
    path.write_text(path.read_text() + again.read_text())
    series = read(path)
    assert series.loss.values.tolist() == [9, 8, 1]
    assert any("goes back 1 time" in note for note in series.notes)


def test_the_line_of_the_command_is_counted_as_no_json(tmp_path):
    series = read(log_writers.vicreg(tmp_path / "stats.txt", LOSSES, RATES))
    assert series.notes == ["lines that are no JSON object, left out: 1"]


def test_dino_that_stops_at_nan_has_nan_as_its_last_loss(tmp_path):
    series = read(log_writers.metric_logger(tmp_path / "out", LOSSES, RATES, stopped="nan"))
    assert math.isnan(series.loss.values[-1])
    assert len(series.loss) == len(LOSSES) + 1


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["val_loss", "loss"], "loss"),
        (["train_loss_epoch", "train_loss_step", "val/loss"], "train_loss_step"),
        (["train/total_loss", "train/inv_loss"], "train/total_loss"),
        (["train_class_loss", "train_neg_cos_sim", "train_acc1"], "train_neg_cos_sim"),
        (["train_class_loss_step", "train_nce_loss_step"], "train_nce_loss_step"),
        (["val_loss", "test_loss", "lr"], None),
    ],
)
def test_the_loss_of_the_training_is_found_by_its_name(names, wanted):
    assert next(iter(loss_columns(names)), None) == wanted


@pytest.mark.parametrize(
    ("header", "counters", "unit", "at"),
    [
        ("epoch,step", [(e, s) for e in range(3) for s in range(4)], "step", range(12)),
        ("epoch,iteration", [(e, s) for e in (1, 2) for s in (1, 11)], "step", (12, 22, 23, 33)),
        ("epoch,batch", [(e, s) for e in range(3) for s in range(4)], "row", range(1, 13)),
        ("epoch,step", [(0, 0), (0, 1), (1, 2), (1, 3), (1, 2), (1, 3)], "step", (0, 1, 2, 3)),  # a resumed run
        ("epoch,step", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 0), (1, 1)], "step", (0, 1, 2, 3)),
        ("epoch,batch", [(0, 9), (1, 9), (1, 9), (2, 9)], "epoch", (0, 1, 2)),
    ],
)
def test_every_value_counts_whatever_counts_the_steps(tmp_path, header, counters, unit, at):
    rows = [",".join(map(str, (*counter, value))) for value, counter in enumerate(counters)]
    (tmp_path / "log.csv").write_text("\n".join([f"{header},loss", *rows]) + "\n")
    found = read(tmp_path / "log.csv")
    assert (found.unit, list(found.loss.at)) == (unit, list(at))
    assert found.loss.values[-1] == len(counters) - 1


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=300))))
def test_messages_of_any_fields_are_read(pairs):
    data = b"".join(log_writers.field(number, value) for number, value in pairs)
    found = [(n, signed(v) if isinstance(v, int) else v) for n, v in fields(data)]
    assert found == pairs


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_truncated(data):
    with contextlib.suppress(Truncated):
        list(fields(data))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_log_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "log"
    for head in (b"", b":W&B\xe1\xbe\0", b"epoch,step,loss\n", b'{"train_loss": 1, "train_lr": 1, "epoch": 0}\n'):
        path.write_bytes(head + data)
        with contextlib.suppress(SSLToolError):
            assert len(read(path).loss)


def test_a_format_and_a_search_of_a_plugin_are_used(ssltool, registries, tmp_path):
    path = tmp_path / "toy.log"
    path.write_text("toy 3 2 1\n")

    def read_toy(log, loss):
        if not (log.text or "").startswith("toy"):
            return None
        values = [float(text) for text in log.text.split()[1:]]
        return Series(log.path, "a toy", "step", Curve.of(range(len(values)), values))

    LOG_FORMATS.add("toy", LogFormat(read_toy, "toy", "toy.log"), first=True)
    FINDINGS.add("toy", Search(lambda series: [Finding("toy", "partial", "it is a toy")], ("toy",), "a toy"))
    (report,) = ssltool("diagnose", path, "--json").json["reports"]
    assert (report["read"], report["kind"], report["values"]) == ("a toy", "toy", 3)


def test_every_format_can_be_imported():
    for name in LOG_FORMATS:
        assert callable(LOG_FORMATS.load(name))
        assert importlib.import_module(LOG_FORMATS.load(name).__module__).__doc__
