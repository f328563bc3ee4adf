"""``--config FILE.csv:ROW``: a run with the settings in a row of a table."""

from __future__ import annotations

import json

import pytest

from helpers import TINY
from ssltool.config import PretrainConfig
from ssltool.errors import SSLToolError
from ssltool.runs.table_row import read_row, row_of


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("runs.csv:3", ("runs.csv", 3)),
        ("a:b/runs.csv:12", ("a:b/runs.csv", 12)),
        ("runs.csv", None),
        ("runs.csv:", None),
        ("runs.csv:-1", None),
        ("config.json", None),
        ("run:3", None),
    ],
)
def test_a_path_names_a_row_if_it_ends_with_the_number_of_one_in_a_csv_file(path, found):
    assert row_of(path) == found


@pytest.fixture
def table(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "runs.csv"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_cells_have_the_types_of_the_settings_and_empty_ones_are_left_out(table):
    path = table(
        "run,arch,lr,batch_size,cos,mean,fix_all_lr,strategy\n"
        'a,resnet18_w8,0.1,64.0,,"[0.1, 0.2, 0.3]",True,\n'
        "b,,1e-3,32,,,False,current\n"
    )
    assert read_row(path, 1, PretrainConfig) == {
        "arch": "resnet18_w8",
        "lr": 0.1,
        "batch_size": 64,
        "mean": [0.1, 0.2, 0.3],
        "fix_all_lr": True,
    }
    assert read_row(path, 2, PretrainConfig) == {
        "lr": 0.001,
        "batch_size": 32,
        "fix_all_lr": False,
        "strategy": "current",
    }


def test_options_of_the_method_stand_apart(table):
    path = table("method,dim (option),std (option)\nvicreg,64,0\n")
    assert read_row(path, 1, PretrainConfig) == {"method": "vicreg", "method_options": {"dim": "64", "std": "0"}}


def test_columns_that_are_no_settings_are_named(table, capsys):
    read_row(table("run,lr,loss,verdict\na,0.1,2.5,healthy\n"), 1, PretrainConfig)
    (line,) = capsys.readouterr().err.splitlines()
    assert "loss, verdict" in line and "lr" not in line.split(":")[-1]


@pytest.mark.parametrize("row", [0, 3, 10**8])
def test_a_row_that_the_table_does_not_have_is_refused(table, row):
    with pytest.raises(SSLToolError, match=f"row {row} "):
        read_row(table("lr\n0.1\n0.2\n"), row, PretrainConfig)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SSLToolError, match=r"runs\.csv"):
        read_row(str(tmp_path / "runs.csv"), 1, PretrainConfig)


def test_the_rows_of_a_written_table_give_the_runs_again(ssltool, tmp_path):
    network = [*TINY[:6], "--epochs", 1, "--steps-per-epoch", 1, "-b", 16, "--device", "cpu", "--monitor-every", 0]
    flags = {
        "a": ["--lr", 0.2, "--set", "n_augs=3", "--set", "dim=16"],
        "b": ["--method", "byol", "--set", "hidden=16", "--strategy", "current"],
    }
    for name, more in flags.items():
        ran = ssltool("pretrain", *network, *more, "-o", tmp_path / name)
        assert ran.code == 0, ran.err
    runs = tmp_path / "runs.csv"
    assert ssltool("table", tmp_path / "a", tmp_path / "b", "--out", runs).code == 0
    for number, name in enumerate(flags, start=1):
        out = tmp_path / f"{name}-again"
        ran = ssltool("pretrain", "--config", f"{runs}:{number}", *network, "-o", out)
        assert ran.code == 0, ran.err
        first, again = (json.loads((tmp_path / one / "config.json").read_text()) for one in (name, out.name))
        for key in ("method", "lr", "strategy", "method_options"):
            assert first[key] == again[key]


def test_a_wrong_value_is_one_line_and_no_run_begins(ssltool, table, tmp_path):
    ran = ssltool("pretrain", "--config", table("lr\nfast\n") + ":1", "-o", tmp_path / "run")
    assert ran.code == 1 and len(ran.err.strip().splitlines()) == 1 and "lr" in ran.err
    assert not (tmp_path / "run").exists()
