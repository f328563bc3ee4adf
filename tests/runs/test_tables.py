"""Many runs in one table: groups with means by hand, files that other programs read."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest

from ssltool.errors import SSLToolError
from ssltool.runs.tables import file_rows, means_of_groups, write_table


def result(values: dict[str, float], notes: tuple[str, ...] = (), **origin: object) -> dict[str, Any]:
    """What the stage says of a file."""
    verdict = {"state": "partial", "used": 3.5, "kinds": [{"kind": "dimensional"}, {"kind": "local"}]}
    return {
        "path": f"{len(origin)}.pt",
        "n": 70,
        "d": 8,
        "metrics": values,
        "verdict": verdict,
        "notes": list(notes),
        "origin": origin,
    }


def test_means_and_deviations_are_those_of_each_group_in_the_order_of_the_files():
    results = [
        result({"auc": 0.5, "rankme": 3.0}, arch="b"),
        result({"auc": 0.6, "rankme": 9.0}, arch="a"),
        result({"auc": 0.7, "rankme": 7.0}, arch="b"),
        result({"auc": 0.9, "rankme": 8.0}, arch="b"),
    ]
    b, a = means_of_groups(results, "arch", ["auc", "rankme"])
    assert (b["arch"], b["files"], a["arch"], a["files"]) == ("b", 3, "a", 1)
    assert b["mean"] == pytest.approx({"auc": 0.7, "rankme": 6.0})
    # 0.5, 0.7, 0.9 are 0.2 from their mean twice, and 3, 7, 8 lie -3, 1, 2 from theirs; divided by N - 1.
    assert b["std"] == pytest.approx({"auc": math.sqrt(0.08 / 2), "rankme": math.sqrt(14 / 2)})
    assert a["mean"] == {"auc": 0.6, "rankme": 9.0}
    assert a["std"] == {"auc": 0.0, "rankme": 0.0}


def test_files_that_say_nothing_are_one_group_of_their_own():
    results = [result({"auc": 0.5}), result({"auc": 0.6}, epoch=9), result({"auc": 0.7}, arch="a")]
    groups = means_of_groups(results, "epoch", ["auc"])
    assert [(group["epoch"], group["files"]) for group in groups] == [("unknown", 2), ("9", 1)]
    assert groups[0]["mean"]["auc"] == pytest.approx(0.6)


def test_a_value_that_is_no_number_or_is_not_there_does_not_count():
    results = [result({"auc": 0.5, "lidar": 4.0}), result({"auc": math.nan}), result({"auc": 0.7})]
    (group,) = means_of_groups(results, "arch", ["auc", "lidar"])
    assert group["files"] == 3
    assert group["mean"] == pytest.approx({"auc": 0.6, "lidar": 4.0})
    assert group["std"] == pytest.approx({"auc": math.sqrt(0.02), "lidar": 0.0})


@pytest.mark.parametrize("files", [1, 2, 3])
def test_of_no_numbers_there_is_neither_a_mean_nor_a_deviation(files):
    (group,) = means_of_groups([result({"alpha": math.nan})] * files, "arch", ["alpha"])
    assert math.isnan(group["mean"]["alpha"])
    assert math.isnan(group["std"]["alpha"])


def test_a_csv_holds_size_origin_metrics_verdict_and_notes_of_each_file(tmp_path):
    notes = ('few rows, "hardly" any', "two\nlines; with a semicolon")
    results = [result({"auc": 0.1 + 0.2, "alpha": math.nan}, notes, arch="a,b", epoch=3), result({"auc": 1.0})]
    write_table(tmp_path / "t.csv", {"files": results}, file_rows(results))
    frame = pd.read_csv(tmp_path / "t.csv")
    one, other = (row for _, row in frame.iterrows())
    assert (one["path"], one["n"], one["d"], one["arch"], one["epoch"]) == ("2.pt", 70, 8, "a,b", 3)
    assert one["auc"] == pytest.approx(0.1 + 0.2, rel=1e-15)
    assert (one["verdict"], one["used"], one["notes"]) == ("partial", 3.5, "; ".join(notes))
    assert one["kinds"] == "dimensional, local"
    assert (other["path"], other["auc"]) == ("0.pt", 1.0)
    assert frame[["arch", "epoch", "alpha", "notes"]].iloc[1].isna().all()
    assert math.isnan(one["alpha"])
    assert "nan" not in (tmp_path / "t.csv").read_text().lower()


def test_json_holds_the_document_with_null_for_what_is_not_finite(tmp_path):
    document = {"files": [result({"alpha": math.nan, "twonn": math.inf})], "worst": "partial"}
    write_table(tmp_path / "t.json", document, file_rows(document["files"]))
    found = json.loads((tmp_path / "t.json").read_text(), parse_constant=pytest.fail)
    assert found["files"][0].pop("metrics") == {"alpha": None, "twonn": None}
    del document["files"][0]["metrics"]
    assert found == document


@pytest.mark.parametrize("name", ["t.csv", "t.json"])
def test_a_table_that_cannot_be_written_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(SSLToolError, match=rf"^[^\n]*{name}[^\n]*$"):
        write_table(tmp_path / "file" / name, {}, file_rows([result({"auc": 0.5})]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
