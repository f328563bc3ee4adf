"""The collapse stage and its command: what is measured, what is written where, and what is refused before it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import error_message, usage_message
from ssltool.config import CollapseConfig
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.writing import finite
from ssltool.reprs.representations import Representations
from ssltool.stages.collapse import run

KINDS = ("svd", "cov", "std", "all")


def rows(n: int = 80, d: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.linspace(1, 0.1, d) + 2


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def wanted_metrics(x: Tensor, *, normalize: bool = False) -> dict[str, float]:
    """The definitions, written with numpy."""
    x = x.double().numpy()
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    seen = x / (norms + 1e-6) if normalize else x
    s = np.linalg.svd(seen - seen.mean(axis=0), compute_uv=False)
    share = s / s.sum()
    uncentred = np.linalg.svd(seen, compute_uv=False)
    p = uncentred / uncentred.sum() + 1e-7
    return {
        "auc": pytest.approx(np.cumsum(share).mean(), rel=1e-9),
        "effective_rank": pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9),
        "rankme": pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9),
        "feature_std": pytest.approx((x / norms).std(axis=0).mean() * x.shape[1] ** 0.5, rel=1e-9),
    }


def test_the_commands_document_names_every_file_with_its_size_and_metrics(ssltool, write_reprs):
    x, y = rows(80, 6), rows(50, 9, seed=1)
    a, b = write_reprs("a.pt", x), write_reprs("b.pt", y)
    ran = ssltool("collapse", a, b, "--json", "--metrics", "auc,effective_rank,rankme,feature_std")
    assert ran.code == 0
    assert ran.json["plot"] is None
    for found, path, data in zip(ran.json["files"], (a, b), (x, y), strict=True):
        assert found["metrics"] == wanted_metrics(data)
        wanted = {
            "path": str(path),
            "n": len(data),
            "d": data.shape[1],
            "type": "svd",
            "normalized": False,
            "spectrum": str(path).removesuffix(".pt") + "_svd.pt",
        }
        assert {key: found[key] for key in wanted} == wanted


def test_the_table_shows_the_metrics_and_how_to_read_them(ssltool, write_reprs):
    ran = ssltool("collapse", write_reprs("a.pt", torch.eye(4)))
    # Four corners of a simplex span three equal directions and can have no fourth, so the curve climbs 1/3, 2/3, 1.
    assert f"{(1 / 3 + 2 / 3 + 1) / 3:.4g}" in ran.out
    assert "0.5 flat .. 1 collapsed" in ran.out


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "train_reprs_e0_svd.pt"),
        (["--type", "std"], "train_reprs_e0_std.pt"),
        (["--type", "cov"], "train_reprs_e0_cov.pt"),
        (["--normalize"], "train_reprs_e0_normalized_svd.pt"),
        (["--type", "std", "--normalize"], "train_reprs_e0_normalized_std.pt"),
    ],
)
def test_the_spectrum_file_has_the_papers_name_beside_its_input(ssltool, write_reprs, tmp_path, flags, name):
    path = write_reprs("train_reprs_e0.pt", rows())
    assert ssltool("collapse", path, *flags).code == 0
    assert names(tmp_path) == {"train_reprs_e0.pt", name}


@pytest.mark.parametrize("normalize", [False, True])
def test_type_all_writes_the_three_spectra_that_the_types_write_alone(ssltool, write_reprs, tmp_path, normalize):
    path, flags = write_reprs("a.pt", rows()), ["--normalize"] if normalize else []
    middle = "_normalized" if normalize else ""
    found = ssltool("collapse", path, "--type", "all", "-o", tmp_path / "all", *flags, "--json").json["files"][0]
    files = {kind: tmp_path / "all" / f"a{middle}_{kind}.pt" for kind in ("svd", "cov", "std")}
    assert found["type"] == "all"
    assert found["spectra"] == {kind: str(file) for kind, file in files.items()}
    assert found["spectrum"] == found["spectra"]["svd"]
    assert names(tmp_path / "all") == {file.name for file in files.values()}
    for kind, file in files.items():
        alone = ssltool("collapse", path, "--type", kind, "-o", tmp_path / "one", *flags, "--json").json["files"][0]
        assert alone["spectra"] == {kind: alone["spectrum"]}
        one, other = Spectrum.load(alone["spectrum"]), Spectrum.load(file)
        assert torch.equal(one.stds, other.stds)
        assert one.meta == other.meta
        assert one.meta["type"] == kind


def test_out_names_the_folder_of_the_spectrum_files(ssltool, write_reprs, tmp_path):
    path = write_reprs("a.pt", rows())
    assert ssltool("collapse", path, "-o", tmp_path / "spectra").code == 0
    assert names(tmp_path / "spectra") == {"a_svd.pt"}
    assert names(tmp_path) == {"a.pt", "spectra"}


def test_the_svd_spectrum_holds_the_papers_singular_values_and_where_they_come_from(ssltool, write_reprs, tmp_path):
    x = rows()
    path = write_reprs("a.pt", x)
    found = ssltool("collapse", path, "--json").json["files"][0]
    spectrum = Spectrum.load(tmp_path / "a_svd.pt")
    x = x.double()
    torch.testing.assert_close(spectrum.stds, torch.linalg.svdvals(x - x.mean(dim=0)), rtol=1e-9, atol=0)
    assert {name: finite(value) for name, value in spectrum.metrics.items()} == found["metrics"]
    assert spectrum.meta["source_hash"] == file_hash(path)
    assert (spectrum.meta["type"], spectrum.meta["normalized"]) == ("svd", False)
    assert (spectrum.meta["n"], spectrum.meta["d"]) == (80, 6)
    assert spectrum.meta["representations"] == {"dataset": "made-up"}


def test_normalize_divides_by_norm_plus_a_millionth_before_centring(ssltool, write_reprs, tmp_path):
    x = rows()
    ran = ssltool("collapse", write_reprs("a.pt", x), "--normalize", "--json")
    wanted = wanted_metrics(x, normalize=True)
    assert {name: ran.json["files"][0]["metrics"][name] for name in wanted} == wanted
    x = x.double()
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-6)
    found = Spectrum.load(tmp_path / "a_normalized_svd.pt").stds
    torch.testing.assert_close(found, torch.linalg.svdvals(x - x.mean(dim=0)), rtol=1e-9, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_std_spectrum_holds_torchs_deviations_of_each_dimension(write_reprs, tmp_path, normalize):
    x = rows()
    run(CollapseConfig(files=(str(write_reprs("a.pt", x)),), type="std", normalize=normalize))
    x = x.double()
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-6) if normalize else x
    found = Spectrum.load(tmp_path / f"a_{'normalized_' if normalize else ''}std.pt").stds
    torch.testing.assert_close(found, x.std(dim=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("n", "d"), [(80, 6), (7, 12)])
def test_the_cov_spectrum_holds_the_eigenvalues_of_numpys_covariance(write_reprs, tmp_path, n, d, normalize):
    x = rows(n, d)
    run(CollapseConfig(files=(str(write_reprs("a.pt", x)),), type="cov", normalize=normalize))
    x = x.double().numpy()
    x = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6) if normalize else x
    wanted = np.linalg.eigvalsh(np.cov(x.T))[::-1][: min(n, d)]
    found = Spectrum.load(tmp_path / f"a_{'normalized_' if normalize else ''}cov.pt").stds
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-13 * wanted[0])


def test_the_metrics_are_those_of_the_singular_values_whatever_spectrum_is_saved(ssltool, write_reprs):
    path = write_reprs("a.pt", rows())
    found = [ssltool("collapse", path, "--type", kind, "--json").json["files"][0]["metrics"] for kind in KINDS]
    assert all(one == found[0] for one in found)


def test_normalising_rows_changes_the_spectrum_and_not_the_directions():
    plain, scaled = measure(rows()).metrics, measure(rows(), normalize=True).metrics
    assert scaled["feature_std"] == plain["feature_std"]
    assert scaled["auc"] != plain["auc"]


def test_the_papers_representations_are_measured_too(ssltool, tmp_path):
    x = rows(30, 5)
    torch.save({"representations": x, "targets": torch.zeros(30)}, tmp_path / "train_reprs_e0.pt")
    ran = ssltool("collapse", tmp_path / "train_reprs_e0.pt", "--type", "svd", "--json")
    wanted = wanted_metrics(x)
    assert {name: ran.json["files"][0]["metrics"][name] for name in wanted} == wanted


def in_halves(write_reprs, x: Tensor, *indices: Tensor) -> list[object]:
    """The rows as two files, a longer and a shorter one."""
    cut = 2 * len(x) // 3
    index = indices or (torch.arange(cut), torch.arange(cut, len(x)))
    return [write_reprs("a.pt", x[:cut], index=index[0]), write_reprs("b.pt", x[cut:], index=index[1])]


@pytest.mark.parametrize("flags", [[], ["--normalize"], ["--type", "all", "--metrics", "all"]])
def test_merged_files_are_measured_as_the_file_of_all_their_rows(ssltool, write_reprs, tmp_path, flags):
    x = rows(90, 24)  # so wide that alpha is a number too
    parts, whole = in_halves(write_reprs, x), write_reprs("whole.pt", x)
    (merged,) = ssltool("collapse", *parts, "--merge", *flags, "--json").json["files"]
    (wanted,) = ssltool("collapse", whole, *flags, "--json").json["files"]
    assert merged["path"] == f"{parts[0]} and 1 more"
    assert (merged["n"], merged["d"], merged["notes"]) == (90, 24, wanted["notes"])
    assert merged["metrics"] == pytest.approx(wanted["metrics"], rel=1e-12, abs=1e-12)
    assert merged["verdict"]["state"] == wanted["verdict"]["state"]
    for kind, path in merged["spectra"].items():
        assert path == wanted["spectra"][kind].replace("whole", "a_merged")
        one, other = Spectrum.load(path), Spectrum.load(wanted["spectra"][kind])
        torch.testing.assert_close(one.stds, other.stds, rtol=1e-12, atol=0)
        assert one.meta["source"] == [str(part) for part in parts]
        assert one.meta["source_hash"] == [file_hash(part) for part in parts]


SAME_IMAGES = {"dataset": "made-up", "split": "train", "fingerprint": "0123456789abcdef"}


def write_ranks(folder: Path, x: Tensor, world: int, *ranks: int, suffix: str = ".pt") -> Path:
    """The rows as the files of ``ranks`` of ``world``; returns the path that save-reprs was given."""
    for rank in ranks:
        part = torch.arange(len(x)).tensor_split(world)[rank]
        meta = SAME_IMAGES | {"shard": [rank, world]}
        stored = Representations(x[part], torch.full((len(part),), -1), part, meta)
        stored.save(folder / f"train.rank{rank}of{world}{suffix}")
    return folder / f"train{suffix}"


def test_the_files_of_all_ranks_are_measured_by_the_name_that_save_reprs_was_given(ssltool, write_reprs, tmp_path):
    x = rows(90, 24)
    (wanted,) = ssltool("collapse", write_reprs("whole.pt", x), "--json").json["files"]
    given = write_ranks(tmp_path, x, 3, 0, 1, 2)
    other = write_reprs("other.pt", rows(50, 24))
    found, alone = ssltool("collapse", given, other, "--json").json["files"]
    assert (found["path"], found["n"], alone["n"]) == (str(given), 90, 50)
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-12, abs=1e-12)
    assert found["spectrum"] == str(tmp_path / "train_svd.pt")
    assert Spectrum.load(found["spectrum"]).meta["source"] == [str(tmp_path / f"train.rank{k}of3.pt") for k in range(3)]
    (merged,) = ssltool("collapse", given, other, "--merge", "--json").json["files"]
    assert merged["n"] == 140


def test_a_file_of_a_rank_that_is_missing_is_named(ssltool, tmp_path):
    given = write_ranks(tmp_path, rows(90, 24), 3, 0, 2)
    ran = ssltool("collapse", given)
    assert ran.code == 1 and "rank1of3" in ran.err


def test_the_reference_may_be_the_files_of_all_ranks(ssltool, write_reprs, tmp_path):
    now, before = write_reprs("now.pt", rows(90, 24), **SAME_IMAGES), rows(90, 24, seed=1)
    whole, given = write_reprs("old.pt", before, **SAME_IMAGES), write_ranks(tmp_path, before, 2, 0, 1)
    found = [ssltool("collapse", now, "--reference", reference, "--json") for reference in (whole, given)]
    one, other = (ran.json["files"][0]["metrics"] for ran in found)
    assert one == pytest.approx(other, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("key", ["checkpoint_hash", "layer", "random", "image_size"])
def test_files_of_different_networks_are_not_merged(ssltool, write_reprs, key):
    values = {"random": [False, True], "image_size": [16, 32]}.get(key, ["one", "other"])
    parts = [write_reprs(f"{i}.pt", rows(50, 8), **{key: value}) for i, value in enumerate(values)]
    message = error_message(ssltool("collapse", *parts, "--merge"))
    assert key.replace("_", " ") in message and all(str(value) in message for value in (*values, *parts))
    assert ssltool("collapse", *parts).code == 0


def test_without_merge_each_file_is_measured_by_itself(ssltool, write_reprs):
    parts = in_halves(write_reprs, rows(90))
    assert [found["n"] for found in ssltool("collapse", *parts, "--json").json["files"]] == [60, 30]


def test_repeated_images_in_merged_files_are_counted_in_a_note(ssltool, write_reprs):
    parts = in_halves(write_reprs, rows(90), torch.arange(60), torch.arange(58, 88))
    ran = ssltool("collapse", *parts, "--merge")
    (note,) = [line for line in ran.err.splitlines() if "repeated images" in line]
    assert note.startswith(f"note: {parts[0]} and 1 more: ") and note.endswith(": 2")


def test_merged_images_of_two_splits_are_different_ones_although_both_are_numbered_from_0(ssltool, tmp_path):
    for split in ("train", "val"):
        meta = {"dataset": "made-up", "split": split}
        Representations(rows(90), torch.zeros(90), torch.arange(90), meta).save(tmp_path / f"{split}.pt")
    ran = ssltool("collapse", tmp_path / "train.pt", tmp_path / "val.pt", "--merge", "--json")
    assert not any("repeated images" in note for note in ran.json["files"][0]["notes"])


def broken(x: Tensor, *bad: int) -> Tensor:
    x = x.clone()
    x[list(bad), 1] = float("nan")
    return x


def test_rows_that_are_not_finite_are_refused_with_their_count_and_indices(ssltool, write_reprs, tmp_path):
    ran = ssltool("collapse", write_reprs("a.pt", broken(rows(), 7, 70)))
    assert (ran.code, ran.out) == (1, "")
    assert re.search(r"a\.pt: 2 of 80 .*\(rows 7, 70\)", ran.err)
    assert "--skip-nonfinite" in ran.err
    assert names(tmp_path) == {"a.pt"}


def test_the_indices_of_nonfinite_rows_continue_over_merged_files(ssltool, write_reprs):
    ran = ssltool("collapse", *in_halves(write_reprs, broken(rows(90), 7, 70)), "--merge")
    assert ran.code == 1
    assert re.search(r"and 1 more: 2 of 90 .*\(rows 7, 70\)", ran.err)


@pytest.mark.parametrize("flags", [[], ["--metrics", "all"], ["--bootstrap", 3, "--subsample", 20]])
def test_skipped_rows_do_not_change_results_and_are_counted_in_a_note(ssltool, write_reprs, flags):
    x = rows(80, 24)
    good = torch.cat([x[:7], x[8:70], x[71:]])
    bad = write_reprs("a.pt", broken(x, 7, 70))
    (found,) = ssltool("collapse", bad, "--skip-nonfinite", *flags, "--json").json["files"]
    (wanted,) = ssltool("collapse", write_reprs("b.pt", good), *flags, "--json").json["files"]
    assert found["n"] == 78
    assert found["notes"][0].endswith("left out: 2") and found["notes"][1:] == wanted["notes"]
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-12, abs=1e-12)
    for key in ("intervals", "subsamples"):
        assert str(found.get(key)) == str(wanted.get(key))


def test_a_file_without_a_finite_row_is_refused(ssltool, write_reprs, tmp_path):
    path = write_reprs("a.pt", torch.full((5, 3), float("nan")))
    message = error_message(ssltool("collapse", path, "--skip-nonfinite"))
    assert str(path) in message and "found 0" in message
    assert names(tmp_path) == {"a.pt"}


def test_the_input_files_are_left_as_they_were(ssltool, write_reprs):
    path = write_reprs("a.pt", rows())
    before = path.read_bytes()
    assert ssltool("collapse", path, "--normalize").code == 0
    assert path.read_bytes() == before


def test_the_rows_in_memory_are_left_as_they_were():
    x = rows()
    before = x.clone()
    measure(x, normalize=True)
    assert torch.equal(x, before)


SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.mark.parametrize("suffix", ["PNG", "pdf", "svg"])
def test_plot_draws_a_picture_in_the_format_of_its_name(ssltool, write_reprs, tmp_path, suffix):
    picture = tmp_path / f"p.{suffix}"
    ran = ssltool(
        "collapse", write_reprs("a.pt", rows()), write_reprs("b.pt", rows(40, 3)), "--plot", picture, "--json"
    )
    assert ran.code == 0
    assert ran.json["plot"] == str(picture)
    assert picture.read_bytes().startswith(SIGNATURES[suffix.lower()])


@pytest.mark.parametrize(("kind", "drawn"), [("svd", "svd"), ("cov", "cov"), ("std", "std"), ("all", "svd")])
def test_plot_draws_the_spectra_of_the_type_with_short_names(ssltool, write_reprs, tmp_path, monkeypatch, kind, drawn):
    calls = []
    monkeypatch.setattr(
        "ssltool.viz.spectra.plot_spectra",
        lambda names, spectra, path, *, kind: calls.append((names, spectra, path, kind)),
    )
    paths = write_reprs("a.pt", rows()), write_reprs("b.pt", rows(40, 3))
    picture = tmp_path / "p.svg"
    found = ssltool("collapse", *paths, "--type", kind, "--plot", picture, "--json").json["files"]
    ((drawn_names, spectra, path, as_kind),) = calls
    assert (path, as_kind) == (str(picture), drawn)
    assert drawn_names == ["a", "b"]
    for spectrum, one in zip(spectra, found, strict=True):
        assert torch.equal(spectrum, Spectrum.load(one["spectra"][drawn]).stds)


def test_a_picture_of_eigenvalues_is_drawn(ssltool, write_reprs, tmp_path):
    picture = tmp_path / "p.svg"
    assert ssltool("collapse", write_reprs("a.pt", rows()), "--type", "cov", "--plot", picture).code == 0
    assert picture.read_bytes().startswith(SIGNATURES["svg"])


@pytest.fixture
def refused(ssltool, write_reprs, tmp_path, monkeypatch):
    """Runs the command with --plot and --out, and checks that nothing is written."""
    monkeypatch.chdir(tmp_path)
    write_reprs("a.pt", rows())
    write_reprs("narrow.pt", rows(80, 3))
    write_reprs("short.pt", rows(1))
    write_reprs("broken.pt", torch.full((3, 6), float("nan")))

    def run(flags):
        outputs = [] if "--plot" in flags else ["--plot", "p.svg"]
        ran = ssltool("collapse", "a.pt", *flags, *outputs, "--out", "table.csv")
        assert names(tmp_path) == {"a.pt", "narrow.pt", "short.pt", "broken.pt"}
        return ran

    return run


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--plot", "p.jpg"], "--plot"),
        (["--plot", "p"], "--plot"),
        (["--plot", "p.png.txt"], "--plot"),
        (["--merge"], "--merge"),
        (["--subsample", "20,many"], "--subsample 20,many"),
        (["--bootstrap", "1"], "--bootstrap 1"),
        (["--metrics", "auc,effective_rnk"], "effective_rnk'; did you mean effective_rank"),
        (["--metrics", "twonn", "--subsample", "20"], "--subsample"),
        (["--threshold", "partial_rnk=0.2"], "partial_rnk'; did you mean partial_rank"),
        (["--threshold", "0.2"], "complete_rank, complete_std, "),
        (["--threshold", "partial_rank=-0.1"], "--threshold partial_rank=-0.1: "),
        (["--threshold", "partial_rank=nan"], "--threshold partial_rank=nan: "),
        (["--threshold", "partial_rank=low"], "--threshold partial_rank=low: "),
        (["--threshold", "partial_rank"], "--threshold partial_rank: "),
    ],
    ids=str,
)
def test_a_mistake_in_the_settings_is_exit_code_2_and_nothing_is_written(refused, flags, says):
    assert says in usage_message(refused(flags))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--metrics", "lidar"], "lidar"),
        (["--subsample", "20,81"], "--subsample 81"),
        (["--subsample", "1"], "--subsample 1"),
        (["--like", "none.pt"], "none.pt"),
        (["--like", "a.pt", "narrow.pt", "--merge"], "widths 3 and 6"),
        (["short.pt"], "short.pt"),
        (["broken.pt"], "broken.pt: 3 of 3 "),
        (["none.pt"], "none.pt"),
        (["a.pt"], "--out"),
    ],
    ids=str,
)
def test_what_the_files_do_not_allow_is_one_line_and_nothing_is_written(refused, flags, says):
    assert says in error_message(refused(flags))


def test_two_inputs_of_one_name_are_refused_only_with_out(ssltool, write_reprs, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_reprs(f"{folder}/train.pt", rows())
    paths = [tmp_path / "x" / "train.pt", tmp_path / "y" / "train.pt"]
    ran = ssltool("collapse", *paths, "--out", tmp_path / "out")
    assert "--out" in error_message(ran)
    assert names(tmp_path) == {"x", "y"}
    assert ssltool("collapse", *paths).code == 0
    assert names(tmp_path / "x") == names(tmp_path / "y") == {"train.pt", "train_svd.pt"}


def test_no_files_are_refused():
    with pytest.raises(SSLToolError, match="file"):
        run(CollapseConfig())


def test_a_spectrum_given_as_input_is_refused(ssltool, write_reprs, tmp_path):
    path = write_reprs("a.pt", rows())
    assert ssltool("collapse", path).code == 0
    ran = ssltool("collapse", tmp_path / "a_svd.pt")
    assert "a_svd.pt" in error_message(ran)


def test_completely_collapsed_rows_are_reported_as_such(ssltool, write_reprs):
    path = write_reprs("a.pt", rows(1).expand(5000, 6))
    found = ssltool("collapse", path, "--json").json["files"][0]["metrics"]
    assert found["auc"] == 1.0
    assert found["effective_rank"] == 0.0
    assert found["feature_std"] == pytest.approx(0.0, abs=1e-6)


def test_rows_of_any_shape_before_the_last_axis_are_rows(tmp_path):
    x = rows(60, 4)
    Representations(x.reshape(20, 3, 4), torch.zeros(60), torch.arange(60)).save(tmp_path / "tokens.pt")
    assert run(CollapseConfig(files=(str(tmp_path / "tokens.pt"),)))["files"][0]["n"] == 60


def test_beside_an_input_where_nothing_can_be_written_the_table_is_printed(ssltool, write_reprs, monkeypatch, tmp_path):
    path = write_reprs("a.pt", rows())

    def read_only(self, path):
        raise SSLToolError(f"cannot write {path}: Permission denied")

    monkeypatch.setattr(Spectrum, "save", read_only)
    ran = ssltool("collapse", path, "--json")
    (one,) = ran.json["files"]
    assert ran.code == 0 and "auc" in one["metrics"] and (one["spectrum"], one["spectra"]) == (None, {})
    assert "Permission denied" in ran.err and "--out" in ran.err
    assert "auc" in ssltool("collapse", path).out
    assert ssltool("collapse", path, "--out", tmp_path / "named").code == 1
