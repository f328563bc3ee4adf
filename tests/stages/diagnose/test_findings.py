"""What is found in logs of known faults, and that nothing is found in those of healthy trainings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import log_writers
from ssltool.config.fields import STATES
from ssltool.diagnosis.metrics.of_slices import sigreg
from ssltool.stages.diagnose.findings import FINDINGS, find
from ssltool.stages.diagnose.findings.finding import SENTENCES
from ssltool.stages.diagnose.findings.output_spread import LIMIT
from ssltool.stages.diagnose.findings.stretches import ends, last_stretch, smooth, spread
from ssltool.stages.diagnose.known_losses import known_by_name, known_losses
from ssltool.stages.diagnose.log_formats import read_log
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.series import Curve, Series

N = 120


def curve(values, known=()):
    return Curve.of(range(len(values)), list(map(float, values)), known)


def series(values, *families, rate=None, terms=None, others=None, unit="step"):
    held = {name: curve(of) for name, of in (others or {}).items()}
    named = {name: curve(of, known_losses(*families)) for name, of in (terms or {}).items()}
    rates = None if rate is None else curve(rate)
    return Series("log", "a test", unit, curve(values, known_losses(*families)), rate=rates, terms=named, others=held)


def noise(size, count=N, seed=0):
    return np.random.default_rng(seed).normal(0, size, count)


def decay(start, end, count=N, speed=6.0):
    return end + (start - end) * np.exp(-speed * np.arange(count) / count)


def cosine(count=N, warmup=10):
    """A linear warm-up, then half a cosine to exactly 0 at the last value."""
    steps = np.arange(count)
    rate = 0.5 * (1 + np.cos(np.pi * (steps - warmup) / (count - 1 - warmup)))
    return np.where(steps < warmup, steps / warmup, rate)


def faults(found):
    return {one.kind for one in found if one.state != STATES[0]}


def of_log(path):
    return find(read_log(LogFile(path)))


HEALTHY = {
    "DINO": lambda path: log_writers.dino(path, decay(9.5, 2.5) + noise(0.01), 1e-3 * cosine()),
    "DINOv2": lambda path: log_writers.dinov2(
        path, decay(11.05, 5) + noise(0.05), decay(2.77, 1.5), decay(0.1, -0.1), 1e-3 * cosine()
    ),
    "MAE": lambda path: log_writers.mae(path, decay(0.9, 0.4) + noise(0.001), 1e-3 * cosine()),
    "Barlow Twins": lambda path: log_writers.barlow_twins(path, decay(6000, 250) + noise(20), cosine()),
    "VICReg": lambda path: log_writers.vicreg(path, decay(37, 11) + noise(0.2), cosine()),
    "MoCo v3": lambda path: log_writers.progress_meter(path, decay(33, 8) + noise(0.2), cosine()),
    "SimSiam": lambda path: log_writers.progress_meter(path, decay(-0.1, -0.92) + noise(0.004)),
    "lightly-train": lambda path: log_writers.lightly_train(path, decay(9, 4) + noise(0.05)),
    "stdout of DINO": lambda path: log_writers.metric_logger(path, decay(10, 3) + noise(0.1), cosine()),
    "TensorBoard": lambda path: log_writers.tensorboard(path, {"train/loss": decay(8, 5) + noise(0.05)}),
}

SAME_OUTPUT = {
    "DINO": (
        lambda path: log_writers.dino(path, math.log(65536) - decay(1.0, 0.002, speed=20), 1e-3 * cosine()),
        "uniform-output",
        "ln 65536",
    ),
    "DINOv2": (
        lambda path: log_writers.dinov2(path, [math.log(65536)] * N, [2.5] * N, [1.7] * N, 1e-3 * cosine()),
        "uniform-output",
        "ln 65536",
    ),
    "Barlow Twins": (
        lambda path: log_writers.barlow_twins(path, np.maximum(decay(8400, 8191, speed=20), 8192), cosine()),
        "uncorrelated-views",
        "D for D = 8192",
    ),
    "VICReg": (
        lambda path: log_writers.vicreg(path, decay(30, 24.75, speed=30), cosine()),
        "no-variance",
        "25 (1 - sqrt(1e-4))",
    ),
    "MoCo v3": (
        lambda path: log_writers.progress_meter(path, [0.8 * math.log(4096)] * N, cosine()),
        "uniform-output",
        "4 T ln N for T = 0.2, N = 4096",
    ),
    "SimSiam": (lambda path: log_writers.progress_meter(path, decay(-0.3, -1, speed=40)), "constant-output", "-1"),
    "lightly-train": (
        lambda path: log_writers.lightly_train(path, decay(8, math.log(1024), speed=30)),
        "uniform-output",
        "ln 1024",
    ),
    "stdout of DINO": (
        lambda path: log_writers.metric_logger(path, [math.log(4096)] * N, cosine()),
        "uniform-output",
        "ln 4096",
    ),
    "TensorBoard": (
        lambda path: log_writers.tensorboard(path, {"byol_loss": decay(2, 0, speed=40)}),
        "constant-output",
        "0",
    ),
}
"""A log of a network with the same output for all images, the kind, and the formula of the value."""


@pytest.mark.parametrize("program", HEALTHY)
def test_a_healthy_log_has_no_fault(tmp_path, program):
    assert faults(of_log(HEALTHY[program](tmp_path / "log"))) == set()


@pytest.mark.parametrize("program", SAME_OUTPUT)
def test_a_log_of_equal_outputs_names_the_kind_the_value_and_since_when(tmp_path, program):
    write, kind, formula = SAME_OUTPUT[program]
    found = of_log(write(tmp_path / "log"))
    first = found[0]
    assert (first.kind, first.state, first.evidence["formula"]) == (kind, STATES[2], formula)
    assert first.since is not None and first.cause and first.advice and kind in SENTENCES


@given(st.integers(1, 20), st.floats(-0.9e-3, 0.9e-3))
def test_every_power_of_two_is_recognised_within_a_thousandth(n, off):
    value = math.log(2**n)
    found = find(series([value + off * max(1, value)] * 40, "cross-entropy"))
    (formula,) = [one.evidence["formula"] for one in found if one.kind == "uniform-output"]
    nearest = min((2**n, 2**n - 1), key=lambda k: abs(value + off * max(1, value) - math.log(k)))
    assert formula == f"ln {nearest if 3 <= n <= 8 else 2**n}"  # ln 255 and ln 256 differ by less than 0.1 %


USUAL = {
    11.0904: "ln 65536",
    8.3178: "ln 4096",
    9.0109: "ln 8192",
    9.7041: "ln 16384",
    8.0064: "ln 3000",
    6.2146: "ln 500",
    5.7038: "ln 300",
    6.9078: "ln 1000",
    4.6052: "ln 100",
    2.3026: "ln 10",
    9.2103: "ln 10000",
    -1.0: "-1",
    -0.999: "-1",
    0.0: "0",
    24.75: "25 (1 - sqrt(1e-4))",
    25.0: "25",
    49.5: "2 x 25 (1 - sqrt(1e-4))",
}
"""Losses as programs print them, in four decimals, and what they are."""


@pytest.mark.parametrize("value", USUAL)
@pytest.mark.parametrize("off", [-9e-4, 0, 9e-4])
def test_a_printed_loss_is_recognised_within_a_thousandth(value, off):
    (first, *_) = find(series([value + off] * 40, "cross-entropy", "cosine", "distance", "variance"))
    assert (first.state, first.evidence["formula"]) == (STATES[2], USUAL[value])


@given(st.floats(0.1, 14))
def test_a_loss_away_from_all_known_values_is_none_of_them(value):
    known = known_losses("cross-entropy")
    near = min(abs(value - one.value) / max(1, one.value) for one in known)
    kinds = {one.kind for one in find(series([value] * 40, "cross-entropy"))}
    assert ("uniform-output" in kinds) == (near <= 1e-3) or abs(near - 1e-3) < 1e-12


def test_the_known_values_are_those_of_the_definitions():
    assert {one.value for one in known_losses("cosine", "distance")} == {-1, 0}
    # 25 mean(relu(1 - sqrt(var + 1e-4))) at var = 0, of one view or the mean of both, and their sum
    assert {round(one.value, 9) for one in known_losses("variance")} == {25, 24.75, 50, 49.5}
    assert {8192.0, 204.8} <= {one.value for one in known_losses("correlation")}  # sum of (0 - 1)^2, times 0.025
    two_t = 2 * 0.2  # both directions: each a cross-entropy over N candidates, times 2 T
    assert 2 * two_t * math.log(4096) in {one.value for one in known_losses("4 T ln N")}
    assert -math.sqrt(512) in {
        one.value for one in known_losses("nuclear norm")
    }  # rows of length 1, one singular value
    assert {7.0, 8.0} <= {one.value for one in known_losses("contrast")}  # 8 z^T z z^T z - 1, or without the 1


def test_the_known_values_of_sigreg_are_those_of_rows_of_zeros():
    zeros = [sigreg(torch.zeros(n, 3)) for n in (32, 256, 16384)]
    known = [one.value for one in known_losses("slices")]
    assert [known[0], known[3], known[-1]] == pytest.approx(zeros, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_neg_cos_sim", -1.0),
        ("train_vicreg_loss", 49.5),
        ("train_barlow_loss", 0.1 * 2048),
        ("train_nce_loss", math.log(511)),
        ("train_dino_loss", math.log(4096)),
        ("my_loss", math.log(1000)),
        ("train_mmcr_loss", -16.0),
        ("train_frossl_loss", 0.0),
        ("train_tico_loss", 7.0),
    ],
)
def test_a_columns_name_says_which_values_are_known(name, value):
    assert any(one.matches(value) for one in known_by_name(name))


def test_a_reconstruction_has_no_known_value():
    assert known_by_name("train_reconstruction_loss") == ()
    assert known_by_name("train_lejepa_loss") == ()
    assert known_by_name("train_simdino_loss") == ()
    assert known_by_name("train_dino_loss") == known_losses("cross-entropy", "distance")
    assert faults(find(series(decay(1, math.log(2), speed=40)))) == set()


def test_a_loss_that_passes_a_known_value_or_leaves_it_does_not_stand_there():
    passing = np.linspace(math.log(65536) + 1, math.log(65536) - 1, N)
    leaving = np.concatenate([np.full(60, math.log(65536)), decay(11.09, 4, count=60)])
    for values in (passing, leaving):
        assert faults(find(series(values, "cross-entropy"))) == set()


def test_the_first_steps_at_ln_k_are_too_few_to_tell():
    assert faults(find(series([math.log(65536)] * 9, "cross-entropy"))) == set()


@pytest.mark.parametrize(
    ("before", "count", "found"), [(10, 10, True), (11, 10, False), (40, 19, False), (40, 20, True)]
)
def test_ten_steps_at_ln_k_suffice_if_they_are_half_of_the_log(before, count, found):
    values = np.concatenate([decay(9, 8, before), np.full(count, math.log(1024))])
    assert (faults(find(series(values, "cross-entropy"))) == {"uniform-output"}) is found


def test_a_loss_that_ends_at_a_known_value_as_the_rate_decays_shows_nothing():
    """The last tenth of a cosine is flat at whatever value it has."""
    rate = cosine(400)
    values = np.where(rate > 0.04, decay(6, 3, count=400), math.log(8))
    values[:15] = 6
    assert faults(find(series(values, "cross-entropy", rate=rate))) == set()
    assert faults(find(series(values, "cross-entropy"))) == {"uniform-output"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_step_that_is_not_finite_is_named(value):
    values = list(decay(5, 2))
    values[70:] = [value] * (N - 70)
    (found,) = [one for one in find(series(values)) if one.kind == "nonfinite"]
    assert (found.since, found.state, found.evidence["count"]) == (70.0, STATES[2], N - 70)
    assert found.evidence["last_finite"] == pytest.approx(values[69])


def test_single_values_that_are_not_finite_are_less_severe_and_terms_are_read_too():
    koleo = np.full(N, 0.1)
    koleo[30] = np.inf
    (found,) = [one for one in find(series(decay(5, 2), terms={"koleo_loss": koleo})) if one.kind == "nonfinite"]
    assert (found.since, found.state, found.evidence["curve"]) == (30.0, STATES[1], "koleo_loss")


@pytest.mark.parametrize("warmup", [0, 10, 40])
def test_a_cosine_that_decays_to_exactly_0_is_no_fault(warmup):
    assert faults(find(series(decay(5, 2), rate=cosine(warmup=max(1, warmup))))) == set()


def test_a_rate_that_reaches_0_before_the_end_is_a_fault_with_its_step():
    rate = np.concatenate([cosine(60), np.zeros(60)])
    (found,) = [one for one in find(series(decay(5, 2), rate=rate)) if one.kind == "zero-rate"]
    assert found.since == 59.0
    assert faults(find(series(decay(5, 2), rate=np.zeros(N)))) == {"zero-rate"}


def test_a_step_schedule_is_no_fault():
    rate = np.repeat([1.0, 0.1, 0.01, 0.001], N // 4)
    assert faults(find(series(decay(5, 2), rate=rate))) == set()


def test_divergence_is_found_with_the_best_step_before_it():
    values = np.concatenate([decay(5, 2, count=60), np.linspace(2, 30, 60)]) + noise(0.02)
    (found,) = [one for one in find(series(values)) if one.kind == "divergence"]
    assert found.state == STATES[2]
    assert 50 <= found.evidence["best_at"] <= 65
    assert 60 < found.since < 80


@pytest.mark.parametrize(
    "values",
    [
        np.concatenate([decay(2, 0.1, count=40), np.linspace(0.1, 0.4, 80)]),  # BYOL's loss rises after its first fall
        np.concatenate([np.linspace(7.7, 9.5, 10), decay(9.5, 3, count=110)]),  # DINO's rises first
        decay(-0.1, -0.9) + noise(0.02),
        noise(1.0) + 5,
    ],
)
def test_rises_of_healthy_losses_are_no_divergence(values):
    assert faults(find(series(values))) == set()


def test_a_spike_is_a_note_with_its_step():
    values = decay(5, 2) + noise(0.01)
    values[50] = 9
    (found,) = [one for one in find(series(values)) if one.kind == "spike"]
    assert (found.since, found.state, found.evidence["count"]) == (50.0, STATES[0], 1)
    assert not [one for one in find(series(decay(5, 2) + noise(0.2))) if one.kind == "spike"]


def test_a_loss_that_does_not_change_is_found_unless_its_value_is_known():
    assert faults(find(series([15.6255 + 1e-4 * (i % 2) for i in range(N)]))) == {"unchanged-loss"}
    assert faults(find(series([math.log(1024)] * N, "cross-entropy"))) == {"uniform-output"}


def test_a_fall_in_the_first_steps_only_is_a_note():
    found = find(series(np.concatenate([[0.0, -0.5, -0.97], np.full(N, -0.98)]), "cosine"))
    assert [(one.kind, one.state) for one in found] == [("early-plateau", STATES[0])]
    assert not [one for one in find(series(decay(1, 0.4))) if one.kind == "early-plateau"]


def test_terms_that_cross_are_a_note_that_names_both():
    terms = {"variance_loss": decay(10, 0.1), "invariance_loss": np.linspace(0.5, 3, N)}
    (found,) = [one for one in find(series(decay(11, 3.1), terms=terms)) if one.kind == "terms-cross"]
    assert (found.evidence["larger"], found.evidence["smaller"]) == ("invariance_loss", "variance_loss")
    crossing = int(np.argmax(terms["invariance_loss"] > terms["variance_loss"]))
    assert abs(found.since - crossing) < 10
    assert found.state == STATES[0]


def test_a_term_of_weight_0_is_no_constant_output_and_a_term_that_falls_to_0_is():
    healthy = decay(2, 1) + noise(0.01)
    assert not faults(find(series(healthy, "cosine", "distance", terms={"aux_loss": np.zeros(N)})))
    falls = np.where(np.arange(N) < 10, 0.5, 0.0)
    assert "constant-output" in faults(find(series(healthy, "cosine", "distance", terms={"aux_loss": falls})))


def test_a_spread_of_the_outputs_near_0_is_equal_outputs():
    evenly = {"train_z_std_step": np.full(N, 1 / math.sqrt(2048))}
    gone = {"train_z_std_step": decay(1 / math.sqrt(2048), 1e-6, speed=60)}
    assert faults(find(series(decay(-0.1, -0.9), "cosine", others=evenly))) == set()
    (found,) = find(series(decay(-0.1, -0.9), "cosine", others=gone))
    assert found.kind == "constant-output"
    first = int(np.argmax(gone["train_z_std_step"] < LIMIT))
    assert found.since == first


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=60),
    st.sampled_from(["step", "epoch"]),
)
def test_any_loss_has_findings_that_are_sorted_and_declared(values, unit):
    known = {kind for name in FINDINGS for kind in FINDINGS[name].kinds}
    found = find(series(values, "cross-entropy", "cosine", "distance", rate=np.abs(np.nan_to_num(values)), unit=unit))
    severity = [STATES.index(one.state) for one in found]
    assert severity == sorted(severity, reverse=True)
    assert {one.kind for one in found} <= known


@given(st.floats(0.01, 100), st.integers(0, 1000))
def test_findings_do_not_depend_on_where_the_steps_begin(scale, first):
    values = np.concatenate([decay(5, 2, count=60), np.linspace(2, 30, 60)])
    plain = find(series(values))
    moved = series(values)
    at = moved.loss.at * round(scale * 100) + first
    moved = dataclasses.replace(moved, loss=Curve(at, moved.loss.values))
    assert [(one.kind, one.state, one.since * round(scale * 100) + first) for one in plain] == [
        (one.kind, one.state, one.since) for one in find(moved)
    ]


def test_stretches_and_summaries_are_as_defined():
    assert last_stretch(np.array([True, False, True, True])) == (2, 3)
    assert last_stretch(np.array([True, True])) == (0, 1)
    assert last_stretch(np.array([True, False])) is None
    assert ends(np.array([1.0, 2, 3, 10, 11, 12])) == (2, 11)
    assert smooth(np.array([0.0, 0, 9, 0, 0]), width=3).tolist() == [0, 0, 0, 0, 0]
    assert spread(np.array([-2.0, -1, 0, 1, 2])) == pytest.approx(1.4826)
