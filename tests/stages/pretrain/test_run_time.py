"""The time that a run takes: said at its beginning, and chosen with ``--minutes``."""

from __future__ import annotations

import pytest

from helpers import records, same_run, usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.errors import SSLToolError
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain import run_time
from ssltool.stages.pretrain.run_time import Estimate, epochs_within, seconds_per_step


@pytest.fixture
def clock(monkeypatch):
    """A clock: ``clock.now`` in seconds."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(run_time.time, "perf_counter", lambda: Clock.now)
    return Clock


def steps_of(clock, *seconds: float) -> tuple[list[int], float]:
    """The steps that a trial did, and the time of one, if they take these ``seconds``."""
    done = []

    def step(number):
        done.append(number)
        clock.now += seconds[number]

    return done, seconds_per_step(iter(range(len(seconds))), step)


def test_the_first_steps_are_not_measured(clock):
    assert steps_of(clock, 30.0, 20.0, 1.0, 2.0, 3.0)[1] == pytest.approx(1.0)  # over at once: 51 s
    assert steps_of(clock, 0.3, 0.2, 0.1, 0.2, 0.3)[1] == pytest.approx(0.2)


def test_a_trial_ends_after_its_time_or_its_steps(clock):
    assert len(steps_of(clock, *[1.5] * 30)[0]) == 4
    assert len(steps_of(clock, *[0.1] * 30)[0]) == run_time.WARM_UP + run_time.TRIAL_STEPS
    assert len(steps_of(clock, *[100.0] * 30)[0]) == run_time.WARM_UP + 1


@pytest.mark.parametrize("count", [1, 2])
def test_an_epoch_of_fewer_steps_is_measured_too(clock, count):
    assert steps_of(clock, *[0.5] * count)[1] == pytest.approx(0.5)


def test_epochs_fill_the_time_that_is_left_in_whole_rounds():
    assert epochs_within(10, 0.0, 57.0) == 10  # 5 % are for the rest
    assert epochs_within(10, 57.0, 57.0) == 9
    assert epochs_within(10, 0.0, 57.0, rounds=4) == 8


def test_a_time_in_which_no_epoch_fits_is_refused_with_one_that_is_enough():
    with pytest.raises(SSLToolError, match=r"--minutes 1: an epoch takes about 1 min 35 s; give at least 1\.8"):
        epochs_within(1, 5.0, 95.0)
    assert epochs_within(1.8, 5.0, 95.0) == 1
    with pytest.raises(SSLToolError, match="3 epochs, one of each round, take about 4 min 45 s"):
        epochs_within(4, 0.0, 95.0, rounds=3)


def lines_of(
    clock,
    tiny,
    seconds: float,
    steps: int = 30,
    *,
    left: int = 100,
    on_cpu: bool = True,
    resumed: bool = False,
    **changes,
):
    estimate = Estimate(tiny(**changes), left, resumed, on_cpu)
    lines = []
    for _ in range(steps):
        clock.now += seconds
        lines += estimate.step()
    return lines


def test_a_run_says_once_how_long_it_takes(clock, tiny):
    assert lines_of(clock, tiny, 0.6) == ["the run takes about 1 min: 100 steps of 0.6 s"]
    assert lines_of(clock, tiny, 0.6, steps=5) == []
    assert lines_of(clock, tiny, 0.6, steps=9) != []  # before the first line of progress
    assert lines_of(clock, tiny, 0.1, left=600) == ["the run takes about 1 min: 600 steps of 0.1 s"]


def test_the_time_between_epochs_is_not_that_of_a_step(clock, tiny):
    estimate = Estimate(tiny(), 100, resumed=False, on_cpu=True)
    lines = []
    for number in range(24):
        if number % 2 == 0:
            clock.now += 60  # the monitor, and saving
            estimate.start_epoch()
        clock.now += 1.0
        lines += estimate.step()
    assert lines == ["the run takes about 1 min 40 s: 100 steps of 1 s"]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"image_size": 224, "arch": "resnet18"},
            "on a CPU, --image-size 96, -a resnet18_w32, --minutes or a GPU would make it shorter",
        ),
        ({"image_size": 96, "arch": "resnet18"}, "on a CPU, -a resnet18_w32, --minutes or a GPU would make it shorter"),
        (
            {"image_size": 97, "arch": "resnet18_w32", "minutes": 300.0, "epochs": None},
            "on a CPU, --image-size 96 or a GPU would make it shorter",
        ),
        (
            {"arch": "resnet50_w64", "image_size": 32},
            "on a CPU, -a resnet18_w32, --minutes or a GPU would make it shorter",
        ),
        ({"arch": "resnet18_w8", "image_size": 32}, "on a CPU, --minutes or a GPU would make it shorter"),
        ({"arch": "vit_small", "image_size": 32}, "on a CPU, --minutes or a GPU would make it shorter"),
        ({"arch": "resnet50", "image_size": 224, "resumed": True}, "a GPU would be faster"),
    ],
)
def test_a_long_run_on_a_cpu_is_told_what_is_shorter(clock, tiny, changes, advice):
    assert lines_of(clock, tiny, 100.0, left=100, **changes)[1:] == [advice]
    assert lines_of(clock, tiny, 100.0, left=72, **changes)[1:] == []  # two hours
    assert lines_of(clock, tiny, 100.0, left=100, on_cpu=False, **changes)[1:] == []


@pytest.fixture
def slow(monkeypatch):
    """Trial steps of 10 s: an epoch of three steps takes half a minute."""

    def trial(batches, step):
        step(next(batches))
        return 10.0

    monkeypatch.setattr("ssltool.stages.pretrain.pretrain.seconds_per_step", trial)


def test_minutes_choose_the_epochs_and_the_run_is_that_of_these_epochs(tiny, slow, capsys):
    fitted = pretrain(tiny("fitted", epochs=None, minutes=1.3, monitor_every=0))
    assert "--minutes 1.3: 2 epochs of 3 steps fit, at 10 s a step" in capsys.readouterr().err
    assert same_run(fitted, pretrain(tiny("given", epochs=2, monitor_every=0)))
    assert Checkpoint.load(fitted / "checkpoint.pt").config["epochs"] == 2


def test_a_trial_of_epochs_of_one_step_has_a_second_step_to_measure(tiny, monkeypatch):
    seen: list[int] = []

    def trial(batches, step) -> float:
        seen.extend(len(batch.rows) for batch in batches)
        return 10.0

    monkeypatch.setattr("ssltool.stages.pretrain.pretrain.seconds_per_step", trial)
    pretrain(tiny(epochs=None, minutes=0.4, steps_per_epoch=1, batch_size=16, monitor_every=0))
    assert seen == [16, 16]


def test_a_resumed_run_keeps_the_epochs_that_minutes_chose(tiny, slow, capsys, monkeypatch):
    run = pretrain(tiny(epochs=None, minutes=1.3, monitor_every=0))
    monkeypatch.setattr("ssltool.stages.pretrain.pretrain.seconds_per_step", lambda *_: pytest.fail("a second trial"))
    resumed = tiny(epochs=None, minutes=1.3, monitor_every=0, resume=str(run / "checkpoint.pt"), out=str(run) + "2")
    assert [record["epoch"] for record in records(pretrain(resumed))] == [0, 1]
    assert "--minutes chose 2 epochs when the run began" in capsys.readouterr().err


def test_minutes_beside_epochs_are_refused(ssltool):
    message = usage_message(ssltool("pretrain", "--minutes", 5, "--epochs", 3))
    assert "--minutes does nothing with --epochs" in message


def test_a_plan_has_the_epochs_that_fit(ssltool, tmp_path, monkeypatch):
    costs = {"estimated_seconds": 60.0, "images_per_second": 1.0, "parameters": 1, "memory_bytes": 1, "warnings": []}
    monkeypatch.setattr("ssltool.stages.pretrain.dry_run._costs", lambda *_: costs)
    ran = ssltool("pretrain", "--minutes", 4, "--dry-run", "--json", "-a", "resnet18_w16", "--out", tmp_path / "run")
    plan = ran.json
    assert (len(plan["epochs"]), plan["config"]["epochs"], plan["estimated_seconds"]) == (3, 3, 180.0)
