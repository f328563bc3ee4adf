"""A run folder that is read back: its images, views and schedule are those that the run had."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import records
from ssltool import seeds
from ssltool.checkpoints.build import build_method
from ssltool.config import PretrainConfig
from ssltool.data import views
from ssltool.data.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.runs.data_preview import schedule_of, views_of
from ssltool.runs.history import read_runs, restore_setup
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.dry_run import plan
from ssltool.stages.pretrain.prepare import prepare
from ssltool.training.setup import TrainingSetup


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained run whose settings may be changed: ``copied(epochs=4) -> folder``."""

    def copy(name: str = "copy", **changes: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        settings = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    return copy


def job_and_method(folder: Path):
    (run,) = read_runs([str(folder)])
    return restore_setup(run), build_method(run.saved)


def test_a_run_is_read_from_its_folder(trained):
    (run,) = read_runs([str(trained)])
    assert run.name == trained.name
    assert run.saved.settings == json.loads((trained / "config.json").read_text())
    assert run.records == records(trained)


def test_runs_have_names_that_differ(copied, tmp_path):
    folders = [copied(name) for name in ("a/x.1", "a/x.2", "b/x.1")]
    names = [run.name for run in read_runs(list(map(str, folders)))]
    assert names == ["a/x.1", "a/x.2", "b/x.1"]
    assert [run.name for run in read_runs([str(folders[0])])] == ["x.1"]


def test_folders_that_are_not_runs_are_refused(tmp_path, trained):
    for name, text in {"empty": None, "broken": "{", "probe": '{"origin": {}}', "list": "[]"}.items():
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "config.json").write_text(text)
        with pytest.raises(SSLToolError, match=name):
            read_runs([str(tmp_path / name)])
    with pytest.raises(SSLToolError, match="twice"):
        read_runs([str(trained), str(trained / ".")])


def test_the_restored_setup_is_that_of_the_training(tiny):
    config = tiny(strategy="current", epochs=4, steps_per_epoch=2)
    setup, _ = job_and_method(pretrain(config))
    trained = prepare(config)
    assert setup.config == dataclasses.replace(
        trained.config, incremental_idx_path=None, options=(), dim=None, pred_dim=None
    )
    assert setup.options == trained.options and setup.recipe == trained.recipe
    for epoch in range(4):
        np.testing.assert_array_equal(setup.indices(epoch), trained.indices(epoch))


def test_the_order_is_the_one_in_the_run_folder_even_if_its_file_is_gone(tiny, tmp_path):
    order = np.random.RandomState(3).permutation(8000)
    np.save(tmp_path / "mine.npy", order)
    folder = pretrain(tiny(strategy="current", incremental_idx_path=str(tmp_path / "mine.npy")))
    (tmp_path / "mine.npy").unlink()
    np.testing.assert_array_equal(job_and_method(folder)[0].order, order)


@pytest.fixture
def on_files(tiny, tmp_path, write_images):
    """A run on 40 image files of two classes in ``tmp_path/images``."""
    for name in ("cat", "dog"):
        write_images(tmp_path / "images" / name, 20)
    return pretrain(tiny(data=str(tmp_path / "images"), workers=0, steps_per_epoch=1))


def test_images_that_have_moved_are_found_by_data(on_files, tmp_path):
    (run,) = read_runs([str(on_files)])
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(SSLToolError, match=r"images .*--data"):
        restore_setup(run)
    assert restore_setup(run, str(tmp_path / "moved")).images.classes == ("cat", "dog")


def test_other_images_are_refused(on_files, tmp_path, write_images):
    (run,) = read_runs([str(on_files)])
    for name in ("cat", "dog"):
        write_images(tmp_path / "fewer" / name, 5)
    write_images(tmp_path / "unlabelled", 40)
    with pytest.raises(SSLToolError, match=r"other images: cat/.*is no longer among them"):
        restore_setup(run, str(tmp_path / "fewer"))
    with pytest.raises(SSLToolError, match="dataset was folder, is now images"):
        restore_setup(run, str(tmp_path / "unlabelled"))


def test_a_data_folder_for_the_bundled_images_is_refused(trained, tmp_path):
    with pytest.raises(SSLToolError, match="--data"):
        restore_setup(read_runs([str(trained)])[0], str(tmp_path))


def test_a_missing_file_of_image_numbers_is_refused_by_name(copied):
    with pytest.raises(SSLToolError, match=r"gone\.npy"):
        job_and_method(copied(idx_path="gone.npy"))


@pytest.mark.parametrize("epoch", [0, 1])
def test_views_are_those_of_the_whole_batch_that_the_run_saw(trained, epoch):
    setup, method = job_and_method(trained)
    found = views_of(setup, method, 5, epoch=epoch)
    rows = setup.indices(epoch)[: setup.batch_size]
    generator = seeds.generator(setup.config.seed, epoch, 0)
    images = setup.images.images[torch.from_numpy(rows)]
    for number in range(2):
        drawn = views.sample_params(setup.batch_size, setup.recipe, generator)
        whole = views.train_view(images, drawn, setup.image_size, IMAGENET)
        mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
        for place in range(5):
            pixels = ((whole[place] * std + mean) * 255).permute(1, 2, 0).numpy()
            np.testing.assert_allclose(found.augmented[place][number], pixels, atol=0.51)
    for place, row in enumerate(rows[:5]):
        np.testing.assert_array_equal(found.originals[place][..., 0], setup.images.images[row][0].numpy())


def test_originals_of_files_keep_their_own_size(on_files):
    found = views_of(*job_and_method(on_files), 3)
    assert [image.shape for image in found.originals] == [(16, 20, 3)] * 3
    assert [image.shape for image in found.augmented[0]] == [(16, 16, 3)] * 2


def test_rows_are_limited_to_a_batch_and_epochs_to_those_of_the_run(trained):
    setup, method = job_and_method(trained)
    assert len(views_of(setup, method, 1000).originals) == setup.batch_size
    with pytest.raises(SSLToolError, match=r"--epoch 3 .* 1 to 2"):
        views_of(setup, method, 1, epoch=2)


def test_each_recipe_is_described_once(trained, monkeypatch):
    setup, method = job_and_method(trained)
    local = Recipe(crop_scale=(0.05, 0.2), size=8, flip_p=0, jitter_p=0, gray_p=0, blur_p=0, solarize_p=0.25)
    plain = Recipe(crop_scale=(1.0, 1.0), flip_p=0, jitter_p=0, gray_p=0, blur_p=0, rotation=15)
    monkeypatch.setattr(method, "view_recipes", lambda base: [plain, local, local, local])
    found = views_of(setup, method, 1)
    assert found.recipes == [
        "view 1: the whole image, rotation up to 15°",
        "views 2 to 4: crop of 5% to 20% of the area, 25% solarise",
    ]
    assert found.titles == ["view 1", *(f"view {i}, 8 px" for i in (2, 3, 4))]


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "current", "epochs": 4},
        {"strategy": "accumulate", "epochs": 4, "chunk_size": 2, "warmup_epochs": 1},
        {"strategy": "last", "epochs": 4, "n_rounds": 2, "fix_pred_lr": True},
        {"strategy": "replay", "epochs": 4, "replay_size": 900},
        {"epochs": 2, "lr_schedule": "step"},
    ],
    ids=lambda settings: settings.get("strategy", "iid"),
)
def test_the_schedule_is_that_of_the_run(tiny, settings):
    config: PretrainConfig = tiny(**settings)
    planned = plan(config)
    setup: TrainingSetup = prepare(config)
    found = schedule_of(setup, setup.build_method())
    assert found.slices.tolist() == [epoch["slice"] for epoch in planned["epochs"]]
    assert found.times_each.tolist() == pytest.approx([epoch["times_each"] for epoch in planned["epochs"]])
    assert found.seen.mean() == pytest.approx(planned["exposure"]["mean"])
    assert (found.seen.min(), found.seen.max()) == (planned["exposure"]["min"], planned["exposure"]["max"])
    starts = {int(at): rate for at, rate in zip(found.at, found.lr, strict=True) if at == int(at)}
    assert [starts[epoch["epoch"]] for epoch in planned["epochs"]] == pytest.approx(
        [e["lr"] for e in planned["epochs"]]
    )
    assert (found.fixed is not None) == bool(settings.get("fix_pred_lr"))


def test_images_are_counted_by_their_place_in_the_order(tiny):
    setup = prepare(tiny(strategy="last", chunk_size=1, epochs=2))
    found = schedule_of(setup, setup.build_method())
    assert not found.seen[:4000].any() and found.seen[4000:].any()


def test_the_schedule_of_replay_has_the_places_of_the_replayed_images(tiny):
    setup = prepare(tiny(strategy="replay", replay_size=900, replay_rule="fifo", epochs=4))
    found = schedule_of(setup, setup.build_method())
    last = [range(max(0, stop - 900), stop) for stop in (0, 2000, 4000, 6000)]
    assert [places.tolist() for places in found.replayed] == [list(places) for places in last]


def test_epochs_of_another_strategy_before_a_resume_are_omitted_with_a_note(tiny):
    setup = prepare(tiny(epochs=4))
    before = [{"epoch": 0, "strategy": "current"}, {"epoch": 1, "strategy": "current"}, {"epoch": 2, "strategy": "iid"}]
    found = schedule_of(setup, setup.build_method(), before)
    assert (found.first, len(found.slices)) == (2, 2)
    assert found.note.startswith("Epochs 1 to 2 ")
    assert found.seen.sum() == 2 * setup.steps * setup.batch_size
