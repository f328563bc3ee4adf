"""Measuring rows gives the values of the metric functions, independent of the storage of the rows."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS, QUICK, of_spectrum
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import factor, singular_values, unit_rows
from ssltool.errors import SSLToolError

OF_VIEWS, OF_CLASSES = (tuple(n for n, metric in METRICS.items() if metric.at == at) for at in ("views", "classes"))
OF_TOKENS = {n for n, metric in METRICS.items() if metric.at in ("patches", "class tokens", "earlier patches")}
OF_ROWS = tuple(name for name in METRICS if name not in (*OF_VIEWS, *OF_CLASSES, *OF_TOKENS, "clid", "cka"))
PAIRWISE = ("uniformity", "twonn", "local_dimension", "hubness", "persistence", "cluster_usage")


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def falling(n: int = 400, d: int = 30) -> Tensor:
    """Rows of a falling spectrum, away from the origin."""
    return gaussian(n, d) * torch.linspace(1, 0.1, d) + 0.4


def views(n: int = 60, q: int = 4, d: int = 6) -> Tensor:
    return gaussian(n, d)[:, None] + 0.3 * gaussian(n * q, d, seed=1).reshape(n, q, d)


def pure(x: Tensor, name: str) -> float:
    """The metric itself, of the rows or of their singular values."""
    centred = {"spectrum": True, "uncentred spectrum": False}.get(METRICS[name].at)
    if centred is None:
        return METRICS.load(name)(x)
    sizes = {"total_variance": {"n": len(x)}, "coding_rate": {"n": len(x), "d": x.shape[1]}}.get(name, {})
    return METRICS.load(name)(singular_values(x, center=centred), **sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_each_metric_equals_its_function(dtype):
    x = falling().to(dtype)
    found = measure(x, OF_ROWS)
    assert (found.n, found.d) == (400, 30)
    assert list(found.metrics) == list(OF_ROWS)
    for name in OF_ROWS:
        assert type(found.metrics[name]) is float
        assert found.metrics[name] == pytest.approx(pure(x, name), rel=1e-10), name


def test_the_metrics_of_one_pass_are_the_default_and_others_are_not_computed():
    assert tuple(measure(falling()).metrics) == tuple(QUICK)
    assert measure(falling(), ("twonn", "auc")).metrics.keys() == {"twonn", "auc"}
    assert measure(falling(), ()).metrics == {}


def test_the_spectra_are_those_of_the_factor():
    x = falling()
    found, wanted = measure(x), factor(x)
    torch.testing.assert_close(found.s, wanted.singular_values(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.uncentred, wanted.singular_values(center=False), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.deviations, x.double().std(dim=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("n", "d"), [(400, 30), (20, 30), (2, 5)])
def test_spectrum_gives_singular_values_eigenvalues_of_the_covariance_or_deviations(n, d):
    x = falling(n, d)
    found = measure(x)
    covariance = np.cov(x.double().numpy().T)
    eigenvalues = np.linalg.eigvalsh(covariance)[::-1][: min(n, d)]
    assert found.spectrum("svd") is found.s
    assert found.spectrum("cov").numpy() == pytest.approx(eigenvalues, abs=1e-12)
    assert found.spectrum("std").numpy() == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-9)


def test_normalize_changes_the_spectrum_but_not_directions_and_pairs():
    x = falling() * (0.1 + torch.rand(400, 1, generator=torch.Generator().manual_seed(1)))
    plain, normalized = measure(x, OF_ROWS), measure(x, OF_ROWS, normalize=True)
    unit = unit_rows(x)
    for name in OF_ROWS:
        wanted = unit if "spectrum" in METRICS[name].at else x
        assert normalized.metrics[name] == pytest.approx(pure(wanted, name), rel=1e-10), name
    for name in ("feature_std", "mean_cosine", "self_cluster", "mean_norm", "sigreg", *PAIRWISE):
        assert normalized.metrics[name] == plain.metrics[name]
    assert normalized.metrics["effective_rank"] != pytest.approx(plain.metrics["effective_rank"], rel=1e-6)
    torch.testing.assert_close(normalized.deviations, unit.std(dim=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sizes", [[400], [1, 399], [100, 0, 300], [50] * 8])
@pytest.mark.parametrize("normalize", [False, True])
def test_rows_in_several_tensors_are_one_set(sizes, normalize):
    x = falling()
    found = measure(Rows(x.split(sizes)), OF_ROWS, normalize=normalize)
    assert found.metrics == pytest.approx(measure(x, OF_ROWS, normalize=normalize).metrics, rel=1e-9)


def test_other_metrics_of_views_count_each_view_as_a_row():
    x = views()
    found = measure(x, OF_ROWS + OF_VIEWS)
    rows = measure(x.flatten(0, 1), OF_ROWS)
    assert (found.n, found.d) == (240, 6)
    for name in OF_VIEWS:
        assert found.metrics[name] == METRICS.load(name)(x)
    assert {name: found.metrics[name] for name in OF_ROWS} == pytest.approx(rows.metrics, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", OF_VIEWS)
def test_metrics_of_views_are_refused_without_whole_views(name):
    broken = views()
    broken[3, 1, 2] = math.nan
    for rows in (Rows([falling()]), Rows([views(), views().flatten(0, 1)]), Rows([broken], skip_nonfinite=True)):
        with pytest.raises(SSLToolError, match=f"{name} .*--views"):
            measure(rows, ("auc", name))


def test_alpha_comes_with_its_ranks_and_r2():
    fit = of_spectrum.alpha(singular_values(falling()))
    details = measure(falling()).details
    assert details["alpha_ranks"] == [11, 30]
    assert details["alpha_r2"] == pytest.approx(fit.r2, rel=1e-9)
    assert 0 < details["alpha_r2"] < 1
    assert measure(falling(), ("auc",)).details == {}


def test_alpha_of_few_dimensions_is_nan_and_so_is_its_r2():
    found = measure(falling(400, 8))
    assert math.isnan(found.metrics["alpha"])
    assert math.isnan(found.details["alpha_r2"])


def test_few_rows_and_narrow_layers_have_fewer_directions_than_values():
    for x, bound, count in ((torch.eye(10, 64), None, 9), (falling(300, 5) @ gaussian(5, 40), 5, 5)):
        found = measure(x, ("auc", "dead_directions", "effective_rank"), bound=bound)
        assert len(found.s) == min(x.shape)
        assert len(found.possible()) == len(found.possible("cov")) == count
        assert len(found.possible("std")) == x.shape[1]
        assert found.metrics["dead_directions"] == 0
        assert found.metrics["auc"] == pytest.approx(of_spectrum.auc(found.s[:count]), rel=1e-12)
    flat = measure(torch.eye(10, 64), ("auc",)).metrics["auc"]
    assert flat == pytest.approx(10 / 18)  # (c + 1) / (2 c) of c = 9 equal values


def test_the_numerical_rank_uses_the_width_even_with_fewer_rows():
    x = torch.zeros(20, 2048)
    x[range(20), range(20)] = torch.logspace(0, -4.4, 20)
    s = singular_values(x)
    found = measure(x, ("numerical_rank", "condition_number")).metrics
    assert found["numerical_rank"] == int((s > 2048 * 2.0**-23 * s[0]).sum())
    assert found["condition_number"] == pytest.approx(of_spectrum.condition_number(s, d=2048))


def test_dead_dimensions_are_those_of_the_deviations():
    x = falling(400, 8)
    x[:, 2], x[:, 5] = 0.7, x[:, 5] * 1e-5
    assert measure(x).dead == [2, 5]
    assert measure(falling(400, 8)).dead == []


def test_the_callback_counts_all_rows():
    seen: list[int] = []
    measure(Rows([falling(9000, 4), falling(10, 4)]), each=seen.append)
    assert sum(seen) == 9010
    assert len(seen) > 2


def test_rows_left_out_are_not_measured_and_reported():
    x = falling()
    x[[3, 200]] = math.nan
    found = measure(Rows([x], skip_nonfinite=True), OF_ROWS)
    kept = torch.cat([x[:3], x[4:200], x[201:]])
    wanted = measure(kept, OF_ROWS)
    assert (found.n, found.notes[0]) == (398, "rows with NaN or infinite values, left out: 2")
    assert found.notes[1:] == wanted.notes
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused_with_their_index(bad):
    x = falling()
    x[17, 3] = bad
    with pytest.raises(SSLToolError, match=r"1 of 400 .*\(rows 17\)"):
        measure(x)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_refused(n):
    with pytest.raises(SSLToolError, match=f"2 rows; found {n}"):
        measure(falling(n, 5))


def test_two_rows_are_enough():
    found = measure(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), OF_ROWS).metrics
    assert (found["auc"], found["effective_rank"]) == (1.0, pytest.approx(1.0))
    assert found["mean_cosine"] == pytest.approx(0.0, abs=1e-15)


def test_an_unknown_metric_is_refused():
    with pytest.raises(SSLToolError, match=r"efective_rank.* effective_rank"):
        measure(falling(), ("auc", "efective_rank"))


def test_few_rows_use_all_pairs_without_a_note():
    x = falling(200, 5)
    for count in (200, 10_000):
        found = measure(x, ("uniformity", "twonn"), pair_rows=count)
        assert found.metrics == pytest.approx({name: pure(x, name) for name in ("uniformity", "twonn")}, rel=1e-12)
        assert found.notes == []


def test_many_rows_use_pairs_of_a_sample_with_a_note():
    x = falling(3000, 5)
    found = measure(x, ("uniformity", "twonn", "auc"), pair_rows=1000)
    assert [note for note in found.notes if "1,000 of 3,000 rows" in note and "--pair-rows" in note] == found.notes
    whole = measure(x, ("uniformity", "twonn", "auc"), pair_rows=3000).metrics
    assert found.metrics["auc"] == whole["auc"]
    assert found.metrics["uniformity"] != whole["uniformity"]
    assert found.metrics["uniformity"] == pytest.approx(whole["uniformity"], abs=0.1)
    assert found.metrics["twonn"] == pytest.approx(5, abs=5 * 5 / math.sqrt(1000))
    assert measure(x, ("auc",), pair_rows=1000).notes == []


def test_the_sample_of_pairs_depends_only_on_the_seed_and_the_rows():
    x = falling(500, 5)
    names = ("uniformity", "twonn")
    first = measure(x, names, pair_rows=100, seed=1).metrics
    torch.manual_seed(5)
    np.random.seed(5)
    assert measure(x, names, pair_rows=100, seed=1).metrics == first
    assert measure(Rows(x.split(77)), names, pair_rows=100, seed=1).metrics == first
    assert measure(x, names, pair_rows=100, seed=2).metrics != first


def test_rows_are_not_modified():
    x = falling()
    before = x.clone()
    measure(x, OF_ROWS, normalize=True)
    assert torch.equal(x, before)


WITHIN_LIMIT = """
import resource, sys, torch
from ssltool.diagnosis.measure import measure

def data_bytes():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmData:")[1].split()[0])

x = torch.from_file(sys.argv[1], size=300_000 * 128, dtype=torch.float32).reshape(300_000, 128)
measure(x[:5000])  # what libraries load on first use
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + int(sys.argv[2]),) * 2)
try:
    x.clone()
    print("the limit limits nothing")
except RuntimeError:
    print(measure(x).n)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's own memory is Linux's")
def test_a_mapped_file_is_measured_in_far_less_memory_than_its_size(tmp_path):
    """The process may not have 64 MiB of memory beside the mapped pages; the file has 146."""
    with (tmp_path / "rows.bin").open("wb") as file:
        for seed in range(30):
            gaussian(10_000, 128, seed).numpy().tofile(file)
    ran = subprocess.run(
        [sys.executable, "-c", WITHIN_LIMIT, tmp_path / "rows.bin", str(64 << 20)],
        env=os.environ | {"PYTHONPATH": str(Path(of_spectrum.__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "300000\n", ran.stderr[-2000:]


def test_views_of_several_parts_are_views_of_all_their_images():
    merged = measure(Rows([views(), views(20)]), ("lidar", "alignment")).metrics
    whole = measure(torch.cat([views(), views(20)]), ("lidar", "alignment")).metrics
    assert merged == whole
