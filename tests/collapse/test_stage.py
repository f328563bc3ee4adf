"""The collapse stage and its command: the document, the spectrum files, and what it refuses before it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssltool.collapse.measure import measure
from ssltool.collapse.stage import run
from ssltool.collapse.tables import labels
from ssltool.config import CollapseConfig
from ssltool.errors import SSLToolError
from ssltool.files import Representations, Spectrum, file_hash
from ssltool.plain import finite


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
    # Four corners of a simplex span three equal directions and no fourth, so the curve climbs 1/3, 2/3, 1, 1.
    assert f"{(1 / 3 + 2 / 3 + 1 + 1) / 4:.4g}" in ran.out
    assert "0.5 flat .. 1 collapsed" in ran.out


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "train_reprs_e0_svd.pt"),
        (["--type", "std"], "train_reprs_e0_std.pt"),
        (["--normalize"], "train_reprs_e0_normalized_svd.pt"),
        (["--type", "std", "--normalize"], "train_reprs_e0_normalized_std.pt"),
    ],
)
def test_the_spectrum_file_has_the_papers_name_beside_its_input(ssltool, write_reprs, tmp_path, flags, name):
    path = write_reprs("train_reprs_e0.pt", rows())
    assert ssltool("collapse", path, *flags).code == 0
    assert names(tmp_path) == {"train_reprs_e0.pt", name}


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


@pytest.mark.parametrize("name", ["p.jpg", "p", "p.png.txt"])
def test_a_picture_format_that_is_not_known_is_refused_before_anything_is_written(ssltool, write_reprs, tmp_path, name):
    ran = ssltool("collapse", write_reprs("a.pt", rows()), "--plot", tmp_path / name)
    assert (ran.code, ran.out) == (1, "")
    assert "the name must end in .png, .pdf, .svg" in ran.err
    assert names(tmp_path) == {"a.pt"}


def test_two_inputs_of_one_name_are_refused_with_out_and_fine_without(ssltool, write_reprs, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_reprs(f"{folder}/train.pt", rows())
    paths = [tmp_path / "x" / "train.pt", tmp_path / "y" / "train.pt"]
    ran = ssltool("collapse", *paths, "--out", tmp_path / "out")
    assert ran.code == 1
    assert "two inputs would write the same spectrum file" in ran.err
    assert names(tmp_path) == {"x", "y"}
    assert ssltool("collapse", *paths).code == 0
    assert names(tmp_path / "x") == names(tmp_path / "y") == {"train.pt", "train_svd.pt"}


def test_one_row_is_refused(ssltool, write_reprs, tmp_path):
    ran = ssltool("collapse", write_reprs("a.pt", torch.zeros(1, 4)))
    assert ran.code == 1
    assert "1 row(s); a spectrum needs at least 2" in ran.err
    assert names(tmp_path) == {"a.pt"}


def test_an_unreadable_input_is_refused_before_any_spectrum_is_written(ssltool, write_reprs, tmp_path):
    good, bad = write_reprs("a.pt", rows()), write_reprs("b.pt", torch.full((3, 4), float("nan")))
    ran = ssltool("collapse", good, bad)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert "3 of 3 rows hold NaN" in ran.err
    assert names(tmp_path) == {"a.pt", "b.pt"}


def test_a_short_input_is_refused_before_any_spectrum_is_written(ssltool, write_reprs, tmp_path):
    assert ssltool("collapse", write_reprs("a.pt", rows()), write_reprs("b.pt", rows(1))).code == 1
    assert names(tmp_path) == {"a.pt", "b.pt"}


def test_no_files_are_refused():
    with pytest.raises(SSLToolError, match="name at least one file"):
        run(CollapseConfig())


def test_a_spectrum_given_as_input_is_refused(ssltool, write_reprs, tmp_path):
    path = write_reprs("a.pt", rows())
    assert ssltool("collapse", path).code == 0
    ran = ssltool("collapse", tmp_path / "a_svd.pt")
    assert ran.code == 1
    assert "holds no representations" in ran.err


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


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["a/train.pt"], ["train"]),
        (["a/train.pt", "b/train.pt"], ["a", "b"]),
        (["a/train.pt", "a/val.pt"], ["train", "val"]),
        (["runs/a/train.pt", "runs/b/val.pt"], ["a/train", "b/val"]),
        (["x/a/train.pt", "val.pt"], ["x/a/train", "val"]),
    ],
)
def test_labels_are_the_parts_of_the_paths_that_differ(paths, wanted):
    assert labels(tuple(paths)) == wanted
