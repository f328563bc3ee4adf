"""Records of a run: what was logged comes back; a line that was cut off is left out, a damaged one is named."""

from __future__ import annotations

import json

import pytest

from helpers import records as records_of
from ssltool.errors import SSLToolError
from ssltool.runs.records import read_records

LINES = ['{"epoch": 0, "loss": 0.5, "strategy": "iid"}', '{"epoch": 1, "loss": null, "verdict": "healthy"}']
LINES.append('{"epoch": 2, "backbone_auc": null, "verdict": null}')  # outputs that are not finite have no verdict
RECORDS = [json.loads(line) for line in LINES]


@pytest.fixture
def write(tmp_path):
    def write(data: bytes | str):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write


def test_records_come_back(write):
    assert read_records(write("\n".join(LINES) + "\n")) == RECORDS
    assert read_records(write("\r\n".join(LINES))) == RECORDS
    assert read_records(write("\n\n" + "\n\n".join(LINES) + "\n\n")) == RECORDS
    assert read_records(write(b"\xef\xbb\xbf" + "\n".join(LINES).encode())) == RECORDS
    assert read_records(write("")) == []
    assert read_records(write("").with_name("none.jsonl")) == []


@pytest.mark.parametrize(
    "tail",
    [
        b'{"epoch": 2, "tried": [{"lr": 1}',
        b'{"epoch": 2, "tried": {"lr": 1}',
        b'{"epo',
        b"\0" * 512,
        b"\xff\xfe\x80",
        b"{" * 5000,
    ],
    ids=["a list", "an inner brace", "a key", "zeros", "bytes", "nested"],
)
def test_a_last_line_that_is_cut_off_is_left_out_with_a_note(write, tail, capsys):
    path = write("\n".join(LINES).encode() + b"\n" + tail)
    assert read_records(path) == RECORDS
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"epoch": 2', "line 2"),
        (b"\0\0\0", "line 2"),
        (b"\xff", "line 2"),
        (b"[" * 100_000, "line 2: it is nested too deeply"),
        (b"[1]", "line 2"),
        (b'{"loss": 1}', "line 2 lacks epoch"),
        (b'{"epoch": [1]}', "epoch is a list"),
        (b'{"epoch": 1e30}', "epoch is 1e"),
        (b'{"epoch": ' + b"1" * 31 + b"}", "epoch is 1111"),
        (b'{"epoch": -1}', "epoch is -1"),
        (b'{"epoch": true}', "epoch is True"),
        (b'{"epoch": 1, "loss": "low"}', "loss is 'low'"),
        (b'{"epoch": 1, "backbone_auc": [1]}', "backbone_auc is a list"),
        (b'{"epoch": 1, "verdict": 3}', "verdict is 3"),
    ],
)
def test_a_damaged_line_is_named(write, line, words):
    path = write(LINES[0].encode() + b"\n" + line + b"\n" + LINES[1].encode() + b"\n")
    with pytest.raises(SSLToolError, match=r"metrics\.jsonl, line 2") as caught:
        read_records(path)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_utf_16_is_refused(write):
    with pytest.raises(SSLToolError, match="UTF-16"):
        read_records(write("\n".join(LINES).encode("utf-16")))


def test_a_run_whose_last_record_was_torn_resumes(ssltool, tiny, tmp_path):
    from ssltool.stages.pretrain import run

    run(tiny(epochs=2))
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole[: whole.rindex("}") - 20])
    run(tiny(epochs=2, resume="auto"))
    assert [record["epoch"] for record in records_of(tmp_path / "run")] == [0, 1]
    for command in (["rank"], ["plot", "curves", "-o", tmp_path / "c.svg"]):
        assert ssltool(*command[:2], tmp_path / "run", *command[2:]).code == 0
