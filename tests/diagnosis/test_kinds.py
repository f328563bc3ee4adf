"""The kinds of collapse: constructed rows of each kind, and what decides them."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch import Tensor, nn

from ssltool.config.fields import STATES
from ssltool.diagnosis.alarms import uniform_losses, uniform_numbers
from ssltool.diagnosis.kinds import KINDS, NEEDS, SCALE, metrics_of, ratios, shown
from ssltool.diagnosis.layer_metrics import prototype_usage
from ssltool.diagnosis.limits import Limit, choices
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS, QUICK
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.teacher_moves import SAMPLED, TeacherMoves, sampled_weights
from ssltool.diagnosis.thresholds import DEFAULT, Thresholds
from ssltool.diagnosis.verdict import NEEDED, is_untrained, judge_measured
from ssltool.errors import SSLToolError, UsageError

ALL = ("cluster", "intracluster", "local")


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def kinds_of(x: Tensor, labels: Tensor | None = None, reference: Tensor | None = None, **meta: object) -> list[str]:
    """The kinds that a verdict names, all being looked for that the input allows."""
    asked = [kind for kind in ALL if labels is not None or KINDS[kind].needs != "labels"]
    names = tuple(dict.fromkeys((*NEEDED, *SCALE, *metrics_of(asked))))
    found = measure(Rows([x], labels=None if labels is None else [labels]), names)
    numbers = {} if reference is None else ratios(found.metrics, measure(reference, names[:7]).metrics)
    return [kind.kind for kind in judge_measured(found, meta, numbers=numbers).kinds]


CLASSES = torch.arange(10).repeat_interleave(40)
"""The classes of 400 rows."""


def test_isotropic_rows_are_of_no_kind():
    assert kinds_of(gaussian(400, 16), CLASSES, 2 * gaussian(400, 16, 1)) == []


def test_equal_rows_are_a_complete_collapse_and_nothing_that_follows_from_it():
    assert kinds_of(torch.ones(400, 16) + 1e-6 * gaussian(400, 16), CLASSES) == ["complete"]


def test_rows_in_few_dimensions_are_a_dimensional_collapse():
    assert kinds_of(gaussian(400, 3) @ gaussian(3, 64, 1)) == ["dimensional"]


def test_rows_of_few_directions_are_a_cluster_collapse():
    points = torch.linalg.qr(gaussian(64, 64, 1))[0][:3]
    assert kinds_of(points[torch.arange(400) % 3]) == ["cluster"]


def test_classes_that_are_points_are_an_intracluster_collapse():
    x = torch.linalg.qr(gaussian(64, 64, 1))[0][CLASSES] + 0.01 * gaussian(400, 64)
    assert kinds_of(x, CLASSES) == ["intracluster"]
    assert "intracluster" not in kinds_of(x, CLASSES.flip(0) * 7 % 10 + torch.arange(400) % 2)


def test_a_curve_through_many_dimensions_is_a_local_collapse():
    """The rank of a random curve is high, and its rows have one dimension near each row."""
    t = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curve = torch.cat([torch.sin(2 * math.pi * k * t + k) for k in range(1, 33)], dim=1)
    assert kinds_of(curve) == ["local"]


def test_images_whose_patches_are_equal_are_a_dense_collapse():
    numbers = {"patch_cosine": 0.99, "patch_rank": 1.5, "patch_rank_over_all": 30.0}
    assert [kind.kind for kind in shown(numbers)] == ["dense"]
    assert shown(numbers | {"patch_cosine": DEFAULT.dense_cosine}) == []


def test_rows_that_shrank_are_a_collapse_of_the_scale():
    before = gaussian(400, 16, 1)
    limit = DEFAULT.scale_variance**0.5
    for scale, kinds in ((1.0, []), (0.9 * limit, ["scale"]), (1.1 * limit, [])):
        assert kinds_of(scale * gaussian(400, 16), None, before) == kinds
    assert kinds_of(1e-9 * gaussian(400, 16)) == []


def test_an_untrained_network_has_not_collapsed():
    x = torch.ones(400, 16) + 1e-3 * gaussian(400, 16)
    assert kinds_of(x) == ["complete"]
    assert kinds_of(x, random=True) == kinds_of(x, epoch=0) == []
    assert kinds_of(x, random=False, epoch=0) == kinds_of(x, epoch=1) == ["complete"]
    assert [is_untrained(meta) for meta in ({}, {"epoch": 0}, {"epoch": 3}, {"random": False})] == [
        None,
        True,
        False,
        False,
    ]


def test_outputs_as_narrow_as_those_of_the_untrained_network_are_no_collapse():
    """The directions of a narrow untrained network are near one another; a trained one must have lost spread."""
    x = torch.ones(400, 16) + 0.1 * gaussian(400, 16)
    assert kinds_of(x) == ["dimensional"]
    assert kinds_of(x, None, torch.ones(400, 16) + 0.1 * gaussian(400, 16, 1)) == []
    assert kinds_of(x, None, gaussian(400, 16, 1)) == ["dimensional"]


WEIGHTS = {"teacher_distance": 0.1, "teacher_move": 0.2, "student_move": 0.3}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"teacher_move": 0.0}, ["stale-teacher"]),
        ({"teacher_distance": 0.0}, ["identical-teacher"]),
        ({"teacher_move": 0.0, "teacher_distance": 0.0, "student_move": 0.0}, []),
        ({"teacher_move": 1e-4}, []),
    ],
)
def test_a_teacher_that_does_not_move_is_stale_and_one_equal_to_its_student_a_copy(changes, kinds):
    assert [kind.kind for kind in shown(WEIGHTS | changes)] == kinds


@pytest.mark.parametrize(("teacher", "kind"), [(1.0, "stale-teacher"), (0.0, "identical-teacher"), (0.5, None)])
def test_the_moves_of_an_average_with_momentum_1_and_0_show_it(teacher, kind):
    networks = [nn.Linear(300, 300), nn.Linear(300, 300)]
    networks[1].load_state_dict(networks[0].state_dict())
    student, average = [networks[0]], [networks[1]]
    moves = TeacherMoves.since(student, average)
    assert moves.numbers(student, average) == {"teacher_distance": 0, "teacher_move": 0, "student_move": 0}
    with torch.no_grad():
        for p, q in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            p += 1
            q.lerp_(p, 1 - teacher)
    numbers = moves.numbers(student, average)
    assert numbers["student_move"] > 0
    assert [one.kind for one in shown(numbers)] == ([kind] if kind else [])


def test_few_weights_are_all_compared_and_many_are_sampled_evenly():
    small = nn.Linear(7, 5)
    assert torch.equal(sampled_weights([small]), torch.cat([p.flatten() for p in small.parameters()]).double())
    parts = [nn.Linear(300, 400), nn.Linear(311, 401)]
    values = torch.cat([p.detach().flatten() for part in parts for p in part.parameters()]).double()
    step = -(-len(values) // SAMPLED)
    assert step > 1
    assert torch.equal(sampled_weights(parts), values[::step])


def test_networks_of_different_shape_are_no_teacher_and_student():
    with pytest.raises(SSLToolError, match="same parameters"):
        TeacherMoves.since([nn.Linear(2, 3)], [nn.Linear(3, 2)])


def test_only_logarithms_of_whole_numbers_are_losses_of_uniform_outputs():
    assert uniform_losses([-1.0, 0.0, 25.6, 2.0, math.log(128), math.log(65536)]) == [math.log(128), math.log(65536)]


@pytest.mark.parametrize(
    ("losses", "kinds"),
    [
        ([11.0904, 11.0902], ["uniform-output"]),
        ([9.0, 11.0904, 11.0902], ["uniform-output"]),
        ([11.0902], []),
        ([11.0904, 9.0, 11.0902], []),
        ([11.0904, None, 11.0902], []),
        ([11.0904, 10.9], []),
    ],
)
def test_a_loss_at_ln_k_in_two_looks_in_a_row_is_a_uniform_output(losses, kinds):
    *before, now = losses
    numbers = uniform_numbers(now, [math.log(65536)], [{"loss": loss} for loss in before])
    assert [kind.kind for kind in shown(numbers)] == kinds


def test_prototypes_in_use_are_counted_by_their_entropy():
    prototypes = torch.eye(8)
    x = prototypes[torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])]
    assert prototype_usage(x, prototypes) == pytest.approx(
        {"cluster_usage": 0.5, "empty_clusters": 0.5, "clusters_used": 4}
    )
    few = prototype_usage(x[:2], prototypes)  # two rows can use two prototypes
    assert few == pytest.approx({"cluster_usage": 0.5, "empty_clusters": 0.5, "clusters_used": 1})
    assert math.isnan(prototype_usage(x * math.nan, prototypes)["cluster_usage"])


def test_each_kind_has_three_numbers_a_sentence_and_what_it_needs():
    for name, kind in KINDS.items():
        assert len(set(kind.numbers)) == 3 and kind.needs in NEEDS and kind.state in STATES[1:]
        assert kind.sentence.endswith(".") and set(kind.implies) < set(KINDS) - {name}
        assert set(kind.metrics) <= set(METRICS)
        assert kind.quick == all(metric in QUICK for metric in kind.metrics)


class Read:
    """Thresholds that record which of them a rule reads."""

    def __init__(self, value: float) -> None:
        self.value, self.names = value, set()

    def __getattr__(self, name: str) -> float:
        self.names.add(name)
        return self.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_names_the_thresholds_that_its_rule_reads(kind):
    read = set()
    for value in (0.0, 0.5, 1e9):
        for number in (-1.0, 0.1, 1.0):
            thresholds = Read(value)
            with contextlib.suppress(ZeroDivisionError):
                KINDS.load(kind)(dict.fromkeys((*KINDS[kind].numbers, "std_ratio", "directions"), number), thresholds)
            read |= thresholds.names
    assert read == set(KINDS[kind].thresholds)


def test_a_verdict_names_the_numbers_that_decided_in_its_line():
    found = measure(gaussian(400, 2) @ gaussian(2, 64, 1), NEEDED)
    (kind,) = judge_measured(found, {}).kinds
    assert kind.numbers["feature_std"] == found.metrics["feature_std"]
    assert judge_measured(found, {}).line.endswith(f"; kind: {kind}")
    assert f"used_share {kind.numbers['used_share']:.3g}" in str(kind)
    assert kind.as_dict()["sentence"] == KINDS["dimensional"].sentence


def test_a_number_that_is_not_finite_decides_nothing():
    assert shown({"feature_std": math.nan, "effective_rank": 0.0, "auc": 1.0}) == []


# Limits


@pytest.mark.parametrize(
    ("text", "state", "kinds", "reached"),
    [
        (None, "complete", ["complete"], False),
        ("partial", "partial", [], True),
        ("complete", "partial", ["scale"], False),
        ("scale", "partial", ["scale"], True),
        ("scale,complete", "complete", ["complete"], True),
        ("local", "partial", ["scale", "dimensional"], False),
        ("complete,partial", "partial", [], True),
        ("stale_teacher", "partial", ["stale-teacher"], True),
        ("cluster,local", "complete", ["complete"], True),
        ("dimensional", "partial", ["cluster"], False),
        ("partial", None, [], False),
    ],
)
def test_a_limit_is_reached_by_a_severity_or_a_kind(text, state, kinds, reached):
    assert Limit.parse(text, "--fail-on").is_reached(state, kinds) is reached


@pytest.mark.parametrize("text", ["", " , ", "healthy", "partal", "scale;local"])
def test_what_is_no_severity_and_no_kind_is_refused(text):
    with pytest.raises(UsageError, match="--fail-on"):
        Limit.parse(text, "--fail-on")


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.needs != "rows"])
def test_a_kind_that_the_input_cannot_show_is_refused_by_name(kind):
    with pytest.raises(UsageError, match=f"--stop-on {kind} needs"):
        Limit.parse(f"partial,{kind}", "--stop-on").require({"rows"}, "--stop-on")
    Limit.parse(f"partial,{kind}", "--stop-on").require({"rows", KINDS[kind].needs}, "--stop-on")


def test_choices_begin_with_a_text():
    assert choices("s") == ["stale-teacher", "scale"]
    assert choices()[:2] == list(STATES[1:]) and set(KINDS) <= set(choices())


def test_thresholds_of_kinds_can_be_changed():
    numbers = {"norm_ratio": 0.5, "variance_ratio": 0.25, "coding_rate_ratio": 0.5}
    assert shown(numbers) == []
    (kind,) = shown(numbers, Thresholds.parse(["scale_variance=0.3", "scale_norm=0.6"]))
    assert (kind.kind, kind.state) == ("scale", "partial")
