"""The probe on saved representations: training rows, selection on held-out rows, and errors."""

from __future__ import annotations

import re

import pytest
import torch
from memory_watch import Watch, needs_proc

from helpers import records
from probe_helpers import clouds
from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig
from ssltool.data.labels import hold_out
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.reprs.representations import Representations
from ssltool.stages import lincls
from ssltool.stages.lincls import image_features, logistic_regression, saved_features
from ssltool.stages.lincls.saved_features import SavedFeatures
from ssltool.stages.rank.known_accuracies import probe_accuracies

CPU = torch.device("cpu")


def accuracy(probe: Probe, x: torch.Tensor, y: torch.Tensor) -> float:
    """As anybody would compute it from the file."""
    predicted = (x.to(probe.weight.dtype) @ probe.weight.T + probe.bias).argmax(dim=1)
    return float((probe.classes[predicted] == y).double().mean())


def test_sgd_learns_the_classes_and_its_file_gives_the_accuracy(on_files, probe_path):
    result = lincls.run(on_files(epochs=30, lr=2.0))
    assert result["acc1"] > 0.8
    assert result["acc1"] == accuracy(Probe.load(probe_path), *clouds(60, seed=2))
    assert (result["features"], result["train_size"], result["val_size"]) == ("representations", 90, 60)
    assert [record["epoch"] for record in records(probe_path.parent)] == list(range(30))
    assert "backbone_hash" not in result


def test_lbfgs_is_logistic_regression_on_standardised_rows(on_files, probe_path):
    result = lincls.run(on_files(solver="lbfgs", c=0.5))
    x, y = clouds(90, seed=1)
    mean, deviation = x.double().mean(0), x.double().std(0, correction=0)
    fit = logistic_regression((x - mean) / deviation, y, c=0.5)
    probe = Probe.load(probe_path)
    torch.testing.assert_close(probe.weight, fit.weight / deviation, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(probe.bias, fit.bias - probe.weight @ mean, rtol=1e-3, atol=1e-3)
    assert result["acc1"] == accuracy(probe, *clouds(60, seed=2))
    assert (result["optimizer"], result["converged"], result["standardised"], result["c"]) == ("lbfgs", True, True, 0.5)
    assert "loss" not in result and result["epochs"] is None


def test_without_standardising_lbfgs_takes_the_rows_as_they_are(on_files, probe_path):
    assert lincls.run(on_files(solver="lbfgs", standardise=False))["standardised"] is False
    fit = logistic_regression(*clouds(90, seed=1))
    torch.testing.assert_close(Probe.load(probe_path).weight, fit.weight)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_standardising_makes_the_scale_and_the_mean_of_a_dimension_irrelevant(solver, write_reprs, tmp_path):
    """Representations that collapsed onto a point lie close together and far from 0."""
    scale, shift = torch.tensor([1e-3, 1.0, 100.0, 1.0, 1e-3, 1.0]), torch.tensor([5.0, -3.0, 0.0, 100.0, 0.0, 7.0])
    found = []
    for name, change in (("plain", lambda x: x), ("changed", lambda x: x * scale + shift)):
        parts = [(change(x), y) for x, y in (clouds(90, seed=1), clouds(60, seed=2))]
        paths = [str(write_reprs(f"{name}{i}.pt", *part)) for i, part in enumerate(parts)]
        sgd = {} if solver == "lbfgs" else {"epochs": 20, "batch_size": 16, "lr": 2.0}
        out = str(tmp_path / name)
        config = LinclsConfig(reprs=tuple(paths), standardise=True, solver=solver, device="cpu", out=out, **sgd)
        found.append(lincls.run(config))
    assert found[0]["acc1"] == pytest.approx(found[1]["acc1"], abs=0.017) and found[0]["acc1"] > 0.8  # one row of 60


def test_lbfgs_works_with_a_constant_dimension(write_reprs, on_files):
    parts = [clouds(90, seed=1), clouds(60, seed=2)]
    for x, _ in parts:
        x[:, 2] = 0.1
    paths = tuple(str(write_reprs(f"constant{i}.pt", *part)) for i, part in enumerate(parts))
    assert lincls.run(on_files(reprs=paths, solver="lbfgs"))["acc1"] > 0.6


def test_classes_may_be_any_numbers_and_unlabelled_rows_are_left_out(write_reprs, on_files, probe_path):
    (x, y), (u, v) = clouds(90, names=(7, 30, 900), seed=1), clouds(60, names=(7, 30, 900), seed=2)
    y[::9], v[::6] = -1, -1
    paths = str(write_reprs("train.pt", x, y)), str(write_reprs("val.pt", u, v))
    for solver in ({"epochs": 30, "lr": 2.0}, {"solver": "lbfgs"}):
        result = lincls.run(on_files(reprs=paths, overwrite=True, **solver))
        probe = Probe.load(probe_path)
        assert probe.classes.tolist() == [7, 30, 900]
        assert (result["train_size"], result["val_size"], result["classes"]) == (80, 50, 3)
        assert result["acc1"] == accuracy(probe, u[v >= 0], v[v >= 0]) > 0.7


def test_val_rows_of_classes_without_training_rows_count_as_errors_and_are_reported(write_reprs, on_files, capsys):
    (x, y), (u, v) = clouds(90, seed=1), clouds(60, seed=2)
    v[:15] = 5
    paths = str(write_reprs("train.pt", x, y)), str(write_reprs("val.pt", u, v))
    result = lincls.run(on_files(reprs=paths, epochs=30, lr=2.0))
    assert 0.5 < result["acc1"] <= 0.75 and result["acc5"] == 0.75
    assert "4 classes (1 of them" in capsys.readouterr().err


def test_the_learning_rate_and_c_are_selected_without_the_val_rows(on_files, files, write_reprs):
    """Other val rows or labels do not change the selection."""
    train, _ = files()
    u, v = clouds(60, seed=2)
    shuffled = v[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    for given in ({"lr_sweep": "0.001,0.1,3"}, {"solver": "lbfgs", "c_grid": "0.0001,0.01,1"}):
        chosen = []
        for name, rows_, labels in (("a.pt", u, v), ("b.pt", u, shuffled), ("c.pt", -5 * u, v)):
            result = lincls.run(on_files(reprs=(train, str(write_reprs(name, rows_, labels))), overwrite=True, **given))
            chosen.append((result["tried"], result.get("lr"), result.get("c"), result["held_acc1"]))
        assert chosen[0] == chosen[1] == chosen[2]


def test_the_held_out_rows_are_those_of_hold_out_and_are_not_trained_on(on_files):
    x, y = clouds(90, seed=1)
    kept, held = hold_out(y.numpy(), 0.2, 10)
    source = SavedFeatures(on_files(lr_sweep="1,2", holdout=0.2), CPU)
    seen = torch.cat([rows_ for rows_, _ in source.train(0, 16)])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, x[kept].tolist()))
    ((rows_, labels),) = source.held_out()
    assert torch.equal(rows_, x[held]) and torch.equal(labels, y[held])


def test_the_best_c_is_fitted_again_to_all_training_rows(on_files, probe_path):
    result = lincls.run(on_files(solver="lbfgs", c_grid="10,0.001,0.1", standardise=False))
    assert [one["c"] for one in result["tried"]] == [0.001, 0.1, 10.0]
    best = max(result["tried"], key=lambda one: (one["held_acc1"], -one["c"]))
    assert (result["c"], result["held_acc1"]) == (best["c"], best["held_acc1"])
    assert (result["train_size"], result["held_size"]) == (90, 9)
    fit = logistic_regression(*clouds(90, seed=1), c=result["c"], tolerance=1e-6)
    torch.testing.assert_close(Probe.load(probe_path).weight, fit.weight, rtol=0.02, atol=2e-3)


def test_held_acc1_of_a_c_is_the_accuracy_on_the_held_out_rows(on_files):
    result = lincls.run(on_files(solver="lbfgs", c_grid="0.1", standardise=False))
    x, y = clouds(90, seed=1)
    kept, held = hold_out(y.numpy(), 0.1, 10)
    fit = logistic_regression(x[kept], y[kept], c=0.1)
    assert result["held_acc1"] == float((fit.predict(x[held]) == y[held]).double().mean())


def test_ties_go_to_the_smallest_c_and_a_best_value_at_the_end_of_the_grid_is_noted(write_reprs, on_files, capsys):
    far = [(10 * x, y) for x, y in (clouds(90, spread=0.01, seed=1), clouds(60, spread=0.01, seed=2))]
    paths = tuple(str(write_reprs(f"far{i}.pt", *part)) for i, part in enumerate(far))
    result = lincls.run(on_files(reprs=paths, solver="lbfgs", c_grid="3,1,2"))
    assert (result["c"], result["acc1"]) == (1.0, 1.0)
    assert re.search(r"note: .*--c-grid .*smallest, 1;", capsys.readouterr().err)


def test_a_learning_rate_that_diverges_has_no_results_and_is_not_selected(on_files):
    result = lincls.run(on_files(lr_sweep="5e39,1"))
    assert result["lr"] == 1.0
    assert result["tried"][0] == {"lr": 5e39, "loss": None, "train_acc1": None, "held_acc1": None}
    with pytest.raises(SSLToolError, match=r"not finite in epoch [1-9]; .*--lr-sweep"):
        lincls.run(on_files(lr_sweep="4e39,5e39", overwrite=True))


def test_a_fraction_of_the_labels_is_balanced_seeded_and_the_same_as_with_images(saved, on_bundled):
    train, val = saved
    chosen = []
    for seed in (10, 10, 11):
        source = SavedFeatures(LinclsConfig(reprs=(train, val), labels_fraction=0.25, seed=seed, device="cpu"), CPU)
        seen = torch.cat([labels for _, labels in source.train(0, 16)])
        chosen.append(source.identity)
        assert seen.bincount(minlength=10).tolist() == [
            round(0.25 * int(n)) for n in Representations.load(train).targets.bincount()
        ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert lincls.run(on_bundled(labels_fraction=0.25))["train_size"] == len(seen)
    config = on_bundled(labels_fraction=0.25)
    assert image_features.ImageFeatures(config, CPU).identity == chosen[0]


def test_a_probe_of_save_reprs_files_names_their_checkpoint(saved, trained, tmp_path):
    result = lincls.run(LinclsConfig(reprs=saved, device="cpu", epochs=2, out=str(tmp_path / "probe")))
    checkpoint = trained / "checkpoint.pt"
    assert result["checkpoint_hash"] == file_hash(checkpoint)
    assert (result["layer"], result["method"], result["epoch"], result["image_size"]) == ("backbone", "simsiam", 2, 16)
    (known,), notes = probe_accuracies([str(tmp_path / "probe")], [file_hash(checkpoint)])
    assert (known, notes) == (result["acc1"], [])


def test_rank_refuses_a_probe_whose_checkpoint_is_unknown(on_files, tmp_path):
    lincls.run(on_files())
    with pytest.raises(SSLToolError, match="1 probe"):
        probe_accuracies([str(tmp_path / "probe")], ["abc"])


def test_shards_are_read_as_one_file(on_files, write_reprs, tmp_path):
    whole = lincls.run(on_files(out=str(tmp_path / "whole")))
    x, y = clouds(90, seed=1)
    for i, part in enumerate((slice(0, 40), slice(40, 90))):
        write_reprs(f"part{i}.pt", x[part], y[part], torch.arange(90)[part])
    pattern = str(tmp_path / "part*.pt"), str(tmp_path / "val.pt")
    parts = lincls.run(on_files(reprs=pattern, out=str(tmp_path / "parts")))
    for key in ("acc1", "loss", "train_size"):
        assert whole[key] == parts[key]
    with pytest.raises(SSLToolError, match=r"none\*\.pt"):
        lincls.run(on_files(reprs=(str(tmp_path / "none*.pt"), pattern[1]), overwrite=True))


def test_a_fit_that_did_not_converge_is_reported(ssltool, files, tmp_path):
    train, val = files()
    flags = ["--solver", "lbfgs", "--max-iter", 2, "--device", "cpu", "-o", tmp_path / "probe"]
    ran = ssltool("lincls", "--reprs", train, val, *flags)
    assert ran.code == 0
    assert re.search(r"warning: .* C 1 .*\b2 iterations; .*--max-iter", ran.err)
    assert "2 iterations, not converged" in ran.out


def test_the_table_has_a_row_per_learning_rate_and_the_accuracy_of_the_best(ssltool, files, tmp_path):
    train, val = files()
    flags = ["--device", "cpu", "--epochs", 3, "-b", 16, "-o", tmp_path / "probe", "--lr-sweep", "0.1,1"]
    ran = ssltool("lincls", "--reprs", train, val, *flags)
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[0] == ["lr", "held_acc1", "loss", "train_acc1"]
    assert [line[0] for line in lines[1:3]] == ["0.1", "1"]
    assert ["accuracy@1", f"{Probe.load(tmp_path / 'probe' / 'probe.pt').metrics['acc1']:.4f}"] in lines
    assert re.search(r"trained on +81 representations,? and 9 held out", ran.out)


def test_without_out_the_run_folder_is_named_after_the_file(on_files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert lincls.run(on_files(out=None))["run"] == f"logs/lincls-{tmp_path.name}-train_0000"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": "c.pt"}, "--pretrained .*--reprs"),
        ({"data": "images"}, "--data .*--reprs"),
        ({"idx_path": "x.npy"}, "--idx-path .*--reprs"),
        ({"random": True}, "--random .*--reprs"),
        ({"solver": "lbfgs", "lr": 1.0}, "--lr .*--solver lbfgs"),
        ({"solver": "lbfgs", "lars": True}, "--lars .*--solver lbfgs"),
        ({"solver": "lbfgs", "resume": "auto"}, "--resume .*--solver lbfgs"),
        ({"solver": "lbfgs", "c": 2.0, "c_grid": "1,2"}, "--c .*--c-grid"),
        ({"c": 2.0}, "--c .*--solver lbfgs"),
        ({"max_iter": 5}, "--max-iter .*--solver lbfgs"),
        ({"lr": 1.0, "lr_sweep": "1,2"}, "--lr .*--lr-sweep"),
        ({"holdout": 0.2}, "--holdout .*--lr-sweep or --c-grid"),
        ({"evaluate": True}, "--evaluate .*--resume"),
        ({"overwrite": True, "resume": "auto"}, "--overwrite .*--resume auto"),
        ({"lr_sweep": "1,x"}, "--lr-sweep is '1,x'"),
        ({"lr_sweep": "1,1"}, "--lr-sweep is '1,1'"),
        ({"solver": "lbfgs", "c_grid": "-1,1"}, "--c-grid is '-1,1'"),
    ],
)
def test_flags_without_effect_and_malformed_lists_are_refused_in_one_line(changes, message, files, tmp_path):
    with pytest.raises(SSLToolError) as caught:
        lincls.run(LinclsConfig(reprs=files(), device="cpu", out=str(tmp_path / "probe"), **changes))
    assert re.match(message, str(caught.value)) and "\n" not in str(caught.value)
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize("changes", [{"solver": "lbfgs"}, {"standardise": True}])
def test_flags_for_representations_are_refused_with_images(settings, changes):
    (name,) = changes
    with pytest.raises(SSLToolError, match=f"--{name} .*--reprs"):
        lincls.run(settings(**changes))


def test_files_that_do_not_fit_together_are_refused(write_reprs, on_files, tmp_path):
    (x, y), (u, v) = clouds(90, seed=1), clouds(60, seed=2)

    def save(name: str, rows_, labels, **meta) -> str:
        Representations(rows_, labels, torch.arange(len(rows_)), meta).save(tmp_path / name)
        return str(tmp_path / name)

    bundled = {"dataset": "bundled", "split": "train"}
    a = save("a.pt", x, y, checkpoint_hash="1", **bundled)
    cases = {
        "checkpoint.hash is 1 and 2": save("b.pt", u, v, checkpoint_hash="2"),
        "width 6 and 4": save("c.pt", u[:, :4], v),
        "60 of 60 val rows.*bundled train": save("d.pt", u, v, **bundled),
        r"e\.pt has no labels": save("e.pt", u, torch.full((60,), -1)),
        "--reprs .*two": a,
    }
    for message, b in cases.items():
        with pytest.raises(SSLToolError, match=message):
            lincls.run(on_files(reprs=(a, b)))
    assert not (tmp_path / "probe").exists()


def test_lbfgs_refuses_rows_of_one_class(write_reprs, on_files, files):
    one = str(write_reprs("one.pt", clouds(30)[0], torch.zeros(30, dtype=torch.int64)))
    with pytest.raises(SSLToolError, match="all 30 rows are of class 0"):
        lincls.run(on_files(reprs=(one, files()[1]), solver="lbfgs"))


def test_the_deviation_of_a_dimension_far_from_zero_is_exact(monkeypatch):
    monkeypatch.setattr(saved_features, "BLOCK_ROWS", 7)
    x = clouds(50)[0] + 1000
    mean, deviation = saved_features._mean_and_deviation(x)
    torch.testing.assert_close(mean, x.double().mean(dim=0))
    torch.testing.assert_close(deviation, x.double().std(dim=0, correction=0))
    scaled = saved_features._standardised(x, mean, deviation)
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(6), rtol=1e-5, atol=0)


@needs_proc
def test_rows_in_a_file_are_not_copied_to_train_on_them(tmp_path):
    """128 MiB of rows: a batch has 16 MiB, and a block of statistics in double precision 64 MiB."""
    generator = torch.Generator().manual_seed(0)
    for name, count in (("train", 2**15), ("val", 2**9)):
        rows = torch.randn(count, 2**10, generator=generator)
        meta = {"dataset": f"noise {name}"}
        Representations(rows, torch.arange(count) % 3, torch.arange(count), meta).save(tmp_path / f"{name}.pt")
    del rows
    files = tuple(str(tmp_path / f"{name}.pt") for name in ("train", "val"))
    with Watch() as watch:
        lincls.run(LinclsConfig(reprs=files, device="cpu", epochs=1, batch_size=4096, out=str(tmp_path / "run")))
    assert watch.most - watch.first < 96 * 2**20
