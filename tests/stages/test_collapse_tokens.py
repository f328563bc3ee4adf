"""``collapse`` and ``rank`` of files of tokens: metrics of patches, samples, references, and files that lack tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from helpers import error_message
from ssltool.diagnosis.metrics.of_patch_clusters import dse
from ssltool.diagnosis.metrics.of_tokens import cls_patch_cosine, gram_drift, patch_cosine, patch_rank
from ssltool.diagnosis.metrics.of_two_files import linear_cka
from ssltool.diagnosis.token_blocks import TokenBlocks, tokens_of
from ssltool.reprs.representations import Representations

N, SIDE, D = 20, 3, 8
P = SIDE * SIDE
FLAGS = ["--device", "cpu"]
OF_PATCHES = "patch_cosine,patch_rank,high_norm_tokens,dse"


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


TOKENS = gaussian(N, 1 + P, D)
CLS, PATCHES = TOKENS[:, 0], TOKENS[:, 1:]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Saves tokens (n, p, d): ``write("a.pt", tokens, index, cls=True) -> name``; patches are at the first places."""
    monkeypatch.chdir(tmp_path)

    def save(name: str, tokens: Tensor, index: Tensor | None = None, *, cls: bool = True, **meta: object) -> str:
        n, p, _ = tokens.shape
        index = torch.arange(n) if index is None else index
        place = torch.arange(p) - int(cls)
        row, column = (torch.where(place < 0, -1, at).short().repeat(n) for at in (place // SIDE, place % SIDE))
        known = {"dataset": "folder", "split": "val", "fingerprint": "here", "places": p, "tokens": "all"}
        kind = torch.where(place < 0, 0, 2).to(torch.int8).repeat(n)
        targets = torch.full((n * p,), -1)
        Representations(
            tokens.flatten(0, 1),
            targets,
            index.repeat_interleave(p),
            known | meta,
            None,
            index * 7 + 1,
            row,
            column,
            kind,
        ).save(name)
        return name

    return save


@pytest.fixture
def found(ssltool):
    def run(*args: object) -> dict:
        ran = ssltool("collapse", *args, *FLAGS, "--json")
        assert ran.code == 0, ran.err
        return ran.json["files"][0]

    return run


def test_metrics_of_patches_are_those_of_the_patches_of_each_image(write, found):
    one = found(write("a.pt", TOKENS), "--metrics", f"{OF_PATCHES},cls_patch_cosine", "--seed", 0)
    structure = dse(PATCHES)
    assert one["metrics"] == {
        "patch_cosine": pytest.approx(patch_cosine(PATCHES)),
        "patch_rank": pytest.approx(float(patch_rank(PATCHES))),
        "high_norm_tokens": 0.0,
        "dse": pytest.approx(float(structure)),
        "cls_patch_cosine": pytest.approx(cls_patch_cosine(CLS, PATCHES)),
    }
    assert one["dse_inter"] == pytest.approx(structure.details["inter"]) and one["dse_images"] == N
    assert one["patch_rank_over_all"] == pytest.approx(patch_rank(PATCHES).details["over_all"])
    assert one["n"] == N * (1 + P)


def test_all_metrics_are_those_that_the_tokens_allow(write, found):
    full, patches = write("a.pt", TOKENS), write("b.pt", PATCHES, cls=False)
    names = {*OF_PATCHES.split(",")}
    dense = {*names, "cls_patch_cosine", "gram_drift"}
    assert {*found(full, "--metrics", "all")["metrics"]} & dense == {*names, "cls_patch_cosine"}
    assert {*found(patches, "--metrics", "all")["metrics"]} & dense == names
    assert {*found(patches, "--metrics", "all", "--reference", patches)["metrics"]} & dense == {*names, "gram_drift"}
    assert not {*found(full)["metrics"]} & dense


def test_of_more_images_a_sample_is_measured_and_a_note_says_so(write, found):
    name = write("a.pt", TOKENS)
    one = found(name, "--metrics", "patch_cosine", "--pair-rows", 6, "--seed", 3)
    (note,) = (note for note in one["notes"] if "drawn at random" in note)
    assert "6 of 20 images" in note
    drawn = tokens_of([name], [Representations.stored(name)], ["dse"]).sample(6, 3)
    assert len(drawn.unique()) == 6
    assert one["metrics"]["patch_cosine"] == pytest.approx(patch_cosine(PATCHES[drawn]))


def test_tokens_are_read_in_blocks_of_few_images(write):
    tokens = tokens_of(["a.pt"], [Representations.stored(write("a.pt", TOKENS))], ["dse"])
    blocks = list(TokenBlocks(tokens.now, torch.arange(N)))
    assert [len(block) for block in blocks] == [8, 8, 4]
    torch.testing.assert_close(torch.cat(blocks), PATCHES)


def test_files_that_are_merged_are_one_set_of_images(write, found):
    parts = [write(f"{i}.pt", TOKENS[i::2], torch.arange(N)[i::2]) for i in range(2)]
    one = found(*parts, "--merge", "--metrics", "patch_cosine,patch_rank")
    assert one["metrics"]["patch_cosine"] == pytest.approx(patch_cosine(PATCHES))
    assert one["metrics"]["patch_rank"] == pytest.approx(float(patch_rank(PATCHES)))


def test_files_whose_rows_are_in_another_order_are_refused_only_if_patches_are_measured(ssltool, write):
    mixed = Representations.stored(write("a.pt", TOKENS))
    mixed.index = mixed.index.flip(0).roll(1)
    mixed.save("mixed.pt")
    assert ssltool("collapse", "mixed.pt", "--metrics", "auc", *FLAGS).code == 0
    assert "consecutive" in error_message(ssltool("collapse", "mixed.pt", "--metrics", "dse", *FLAGS))


@pytest.mark.parametrize("metric", [*OF_PATCHES.split(","), "cls_patch_cosine", "gram_drift"])
def test_a_file_of_one_row_per_image_is_refused_by_name(ssltool, write, tmp_path, metric):
    x = gaussian(30, D)
    Representations(x, torch.full((30,), -1), torch.arange(30), {}).save("rows.pt")
    for flags in (["rows.pt"], [write("a.pt", TOKENS), "--pool", "mean"]):
        text = error_message(ssltool("collapse", *flags, "--metrics", metric, *FLAGS))
        assert metric in text and flags[0] in text and "save-reprs --tokens" in text


def test_what_the_tokens_lack_is_refused_by_name(ssltool, write):
    patches, cls = write("a.pt", PATCHES, cls=False), write("b.pt", CLS[:, None])
    assert "class tokens; a.pt" in error_message(ssltool("collapse", patches, "--metrics", "cls_patch_cosine", *FLAGS))
    assert "patches; b.pt" in error_message(ssltool("collapse", cls, "--metrics", "patch_cosine", *FLAGS))
    assert "--reference" in error_message(ssltool("collapse", patches, "--metrics", "gram_drift", *FLAGS))


def test_rows_left_out_leave_no_complete_images(ssltool, write):
    bad = TOKENS.clone()
    bad[4, 3, 1] = math.nan
    name = write("bad.pt", bad)
    ran = ssltool("collapse", name, "--metrics", "patch_cosine", "--skip-nonfinite", *FLAGS)
    assert "patch_cosine" in error_message(ran) and "not finite" in error_message(ran)
    assert ssltool("collapse", name, "--skip-nonfinite", *FLAGS).code == 0


def test_all_metrics_of_files_with_incomplete_images_or_one_patch_are_those_of_rows(write, found):
    bad = TOKENS.clone()
    bad[4, 3, 1] = math.nan
    flags = ("--metrics", "all", "--skip-nonfinite")
    of_tokens = {*OF_PATCHES.split(","), "cls_patch_cosine"}
    for name in (write("bad.pt", bad), write("one.pt", PATCHES[:, :1], cls=False)):
        metrics = found(name, *flags)["metrics"]
        assert "auc" in metrics and not {*metrics} & of_tokens
    views = gaussian(N, 4, D)
    views[3, 2, 0] = math.nan
    Representations(views, torch.full((N,), -1), torch.arange(N), {}).save("views.pt")
    metrics = found("views.pt", *flags)["metrics"]
    assert "auc" in metrics and "alignment" not in metrics


def test_a_reference_may_be_of_several_ranks(write, found):
    before = gaussian(N, 1 + P, 5, seed=3)
    now, _ = (
        write("now.pt", TOKENS),
        [write(f"then.rank{rank}of2.pt", before[rank::2], torch.arange(N)[rank::2]) for rank in range(2)],
    )
    metrics = found(now, "--reference", "then.pt", "--metrics", "gram_drift")["metrics"]
    assert metrics["gram_drift"] == pytest.approx(gram_drift(PATCHES, before[:, 1:]))


def test_drift_is_from_the_same_images_in_any_order(write, found):
    before, order = gaussian(N, 1 + P, 5, seed=3), torch.randperm(N)
    now, then = write("now.pt", TOKENS), write("then.pt", before[order], order)
    one = found(now, "--reference", then, "--metrics", "gram_drift,patch_cosine")
    assert one["metrics"]["gram_drift"] == pytest.approx(gram_drift(PATCHES, before[:, 1:]))
    assert one["metrics"]["cka"] == pytest.approx(linear_cka(TOKENS.flatten(0, 1), before.flatten(0, 1)))
    assert one["reference"]["patch_cosine"] == pytest.approx(patch_cosine(before[:, 1:]))
    assert one["reference"]["gram_drift"] is None
    assert found(now, "--reference", now, "--metrics", "gram_drift")["metrics"]["gram_drift"] == 0.0
    content = found(now, "--reference", then, "--metrics", "gram_drift", "--same-images", "content")
    assert content["metrics"]["gram_drift"] == pytest.approx(one["metrics"]["gram_drift"])


def test_drift_from_other_patches_or_images_is_refused(ssltool, write):
    now = write("now.pt", TOKENS)
    fewer, other = write("fewer.pt", TOKENS[:, :-1]), write("other.pt", TOKENS, fingerprint="there")
    some = write("some.pt", TOKENS[:5])
    moved = Representations.stored(now)
    moved.column = moved.column.flip(0)
    moved.save("moved.pt")
    for name, text in (
        (fewer, "tokens of each image"),
        (other, "not known"),
        (some, "15 of 20"),
        ("moved.pt", "places"),
    ):
        ran = ssltool("collapse", now, "--reference", name, "--metrics", "gram_drift", *FLAGS)
        assert text in error_message(ran), name


def test_rank_orders_files_by_a_metric_of_patches(ssltool, write):
    smooth = TOKENS.clone()
    smooth[:, 1:] = PATCHES.mean(dim=1, keepdim=True) + 0.1 * PATCHES
    names = [write("smooth.pt", smooth), write("sharp.pt", TOKENS)]
    ran = ssltool("rank", *names, "--by", "patch_cosine", "--json")
    assert ran.code == 0, ran.err
    assert [row["path"] for row in ran.json["rows"]] == ["sharp.pt", "smooth.pt"]
