"""``collapse --reference``: rows of the same images, whatever their order, and files of other images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers import error_message, usage_message
from ssltool.diagnosis.metrics.of_two_files import linear_cka
from ssltool.reprs.representations import Representations

FLAGS = ["--device", "cpu"]


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Saves rows of the images ``index`` of a dataset: ``write("a.pt", rows, index) -> name``."""
    monkeypatch.chdir(tmp_path)

    def save(name, rows, index=None, **meta):
        numbers = torch.arange(len(rows)) if index is None else torch.as_tensor(index)
        known = {"dataset": "folder", "split": "val", "fingerprint": "here"} | meta
        digests = None if meta.get("no_digests") else numbers * 7 + 1
        known.pop("no_digests", None)
        Representations(rows, torch.full((len(rows),), -1), numbers, known, None, digests).save(name)
        return name

    return save


@pytest.fixture
def found(ssltool):
    """What the JSON says of the one file."""

    def run(*args):
        ran = ssltool("collapse", *args, *FLAGS, "--json")
        assert ran.code == 0, ran.err
        return ran.json["files"][0]

    return run


X, Y = gaussian(90, 6), gaussian(90, 6) ** 2 + gaussian(90, 6, 1)


def test_the_similarity_is_printed_and_saved(ssltool, write, found):
    a, b = write("a.pt", X), write("b.pt", Y)
    one = found(a, "--reference", b)
    assert one["metrics"]["cka"] == pytest.approx(linear_cka(X, Y))
    assert one["reference"]["auc"] == found(b)["metrics"]["auc"] and "like" not in one
    assert any(
        line.split()[:1] == ["cka"] for line in ssltool("collapse", a, "--reference", b, *FLAGS).out.splitlines()
    )
    assert found(a, "--reference", a)["metrics"]["cka"] == pytest.approx(1)


def test_widths_may_differ(write, found):
    a, b = write("a.pt", X), write("b.pt", Y[:, :2])
    assert found(a, "--reference", b, "--metrics", "cka")["metrics"] == {"cka": pytest.approx(linear_cka(X, Y[:, :2]))}


def test_rows_are_matched_by_image_not_by_position(write, found):
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    a, b = write("a.pt", X), write("b.pt", Y[order], order)
    assert found(a, "--reference", b)["metrics"]["cka"] == pytest.approx(linear_cka(X, Y))


def test_images_that_only_the_reference_has_are_left_out_and_counted(write, found):
    a, b = write("a.pt", X[20:60], range(20, 60)), write("b.pt", Y)
    one = found(a, "--reference", b)
    assert one["metrics"]["cka"] == pytest.approx(linear_cka(X[20:60], Y[20:60]))
    assert any("50" in note and "b.pt" in note for note in one["notes"])


@pytest.mark.parametrize(
    ("rows", "index", "meta", "text"),
    [
        (Y, range(10, 100), {}, "10 of 90"),
        (Y, None, {"fingerprint": "there"}, "same images"),
        (torch.cat([Y, Y]), [*range(90), *range(90)], {}, "several times"),
    ],
)
def test_other_images_are_refused_in_one_line(ssltool, write, rows, index, meta, text):
    a, b = write("a.pt", X), write("b.pt", rows, index, **meta)
    message = error_message(ssltool("collapse", a, "--reference", b, *FLAGS))
    assert text in message and "b.pt" in message


def test_images_of_two_folders_can_be_matched_by_content(write, found, ssltool):
    a, b = write("a.pt", X), write("b.pt", Y, fingerprint="there")
    assert found(a, "--reference", b, "--same-images", "content")["metrics"]["cka"] == pytest.approx(linear_cka(X, Y))
    c = write("c.pt", Y, no_digests=True)
    assert "c.pt" in error_message(ssltool("collapse", a, "--reference", c, "--same-images", "content", *FLAGS))


def test_files_that_do_not_name_their_images_are_matched_by_row_with_a_note(write, found):
    plain = {"dataset": None, "split": None, "fingerprint": None}
    a, b = write("a.pt", X, **plain), write("b.pt", Y, **plain)
    one = found(a, "--reference", b)
    assert one["metrics"]["cka"] == pytest.approx(linear_cka(X, Y))
    assert any("rows of one number" in note for note in one["notes"])


def test_the_verdict_is_that_of_like(write, found):
    a, b = write("a.pt", X * torch.tensor([1, 1, 0.1, 0.1, 0.1, 0.1])), write("b.pt", X)
    one, like = found(a, "--reference", b), found(a, "--like", b)
    assert one["verdict"] == like["verdict"]
    assert "cka" not in like["metrics"]


def test_cka_without_a_reference_and_conflicting_flags_are_refused(ssltool, write):
    a, b = write("a.pt", X), write("b.pt", Y)
    assert "--reference" in error_message(ssltool("collapse", a, "--metrics", "cka", *FLAGS))
    assert "--like" in usage_message(ssltool("collapse", a, "--reference", b, "--like", b))
    assert "--merge" in usage_message(ssltool("collapse", a, b, "--merge", "--reference", b))
    assert "--same-images" in usage_message(ssltool("collapse", a, "--same-images", "content"))
