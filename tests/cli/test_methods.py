"""``ssltool methods``, and how a method is named and set up on the command line of ``pretrain``."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest

from ssltool.cli.pretrain import command as pretrain_command
from ssltool.config import PretrainConfig
from ssltool.methods import FAMILIES, METHODS, method_class, method_options
from ssltool.methods.options import gather_options
from ssltool.methods.recipes import RECIPES
from ssltool.stages.pretrain.recipe import apply_recipe
from tiny_methods import TINY_METHODS, network_of, tiny_options

RECIPE_OF = [(method, recipe) for recipe, methods in RECIPES.items() for method in methods]


@pytest.fixture
def plan(ssltool, trained, tmp_path):
    """The plan of a tiny run of a method as a document: ``plan("byol", "--lr", 1)``; ``named`` are the flags that name
    the method."""

    def make(method: str, *flags: object, named: list[str] | None = None) -> dict:
        naming = ["--method", method] if named is None else named
        built = network_of(method)
        network = ["-a", built["arch"], "--stem", built["stem"], "--image-size", 16, "--device", "cpu", "-b", 32]
        schedule = ["--epochs", 20, "--steps-per-epoch", 2, "-o", tmp_path / "run"]
        options = [word for k, v in tiny_options(method, trained).items() for word in ("--set", f"{k}={v}")]
        ran = ssltool("pretrain", *naming, *network, *schedule, *options, *flags, "--dry-run", "--json")
        assert ran.code == 0, ran.err
        assert not (tmp_path / "run").exists()
        return ran.json

    return make


# The list and the page


def test_the_table_has_a_row_per_method_with_its_paper_and_requirements(ssltool):
    ran = ssltool("methods")
    rows = [re.split(r" {2,}", row.strip()) for row in ran.out.splitlines()[1:]]
    assert (ran.code, ran.err) == (0, "")
    assert {row[0]: row[1:] for row in rows if len(row) > 1} == {
        name: [str(entry.year), f"arXiv:{entry.paper}", entry.prevents, entry.needs] for name, entry in METHODS.items()
    }


def test_the_table_groups_methods_by_family_and_orders_them_by_year(ssltool):
    groups: list[list[str]] = []
    families = []
    for row in ssltool("methods").out.splitlines()[1:]:
        if row.endswith(":"):
            families.append(row.removesuffix(":"))
            groups.append([])
        else:
            groups[-1].append(row.split()[0])
    assert families == [family for family in FAMILIES if any(e.family == family for e in METHODS.values())]
    assert sum(len(names) for names in groups) == len(METHODS)
    for family, names in zip(families, groups, strict=True):
        assert {METHODS[name].family for name in names} == {family}
        assert [METHODS[name].year for name in names] == sorted(METHODS[name].year for name in names)


def test_the_json_list_has_the_entries_of_the_registry(ssltool):
    found = {method["name"]: method for method in ssltool("methods", "--json").json["methods"]}
    assert found.keys() == METHODS.keys()
    for name, entry in METHODS.items():
        facts = {"year": entry.year, "paper": entry.paper, "prevents": entry.prevents, "needs": entry.needs}
        assert found[name] == {"name": name, "family": entry.family, **facts}


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_lists_its_options_with_default_and_help(ssltool, name):
    ran = ssltool("methods", name)
    assert (ran.code, ran.err) == (0, "")
    assert METHODS[name].needs in ran.out and METHODS[name].prevents in ran.out
    _, _, table = ran.out.partition("\noption ")
    for option in dataclasses.fields(method_class(name).Options):
        (row,) = [line for line in table.splitlines() if line.startswith(f"{option.name} ")]
        assert str(option.default) in row and row.endswith(option.metadata["help"])
        assert all(choice in row for choice in option.metadata["choices"])


@pytest.mark.parametrize("name", METHODS)
def test_the_json_page_has_the_declared_options(ssltool, name):
    found = ssltool("methods", name, "--json").json
    fields = dataclasses.fields(method_class(name).Options)
    assert [(o["name"], o["default"], o["help"]) for o in found["options"]] == [
        (f.name, f.default, f.metadata["help"]) for f in fields
    ]
    assert {o["type"] for o in found["options"]} <= {"int", "float", "str", "bool"}
    assert found["recipes"].keys() == {recipe for recipe, methods in RECIPES.items() if name in methods}
    assert (found["paper"], found["year"]) == (METHODS[name].paper, METHODS[name].year)


@pytest.mark.parametrize(("name", "recipe"), RECIPE_OF)
def test_the_flags_on_the_page_of_a_method_equal_its_recipe(ssltool, name, recipe):
    _, found, after = ssltool("methods", name).out.partition(f"--recipe {recipe} stands for\n")
    flags = shlex.split(after.partition("\n\n")[0])
    assert found and flags
    values = pretrain_command.make_context("pretrain", ["--method", name, *flags]).params
    written = PretrainConfig(**{f.name: values[f.name] for f in dataclasses.fields(PretrainConfig)})
    assert settings(written) == settings(apply_recipe(PretrainConfig(method=name), recipe))


def settings(config: PretrainConfig) -> tuple[PretrainConfig, object]:
    """A configuration without its options, and these as the method reads them."""
    return dataclasses.replace(config, options=()), method_options(config.method, gather_options(config.options, {}))


def test_an_unknown_method_is_an_error_with_the_nearest_names(ssltool):
    ran = ssltool("methods", "vicrge")
    assert (ran.code, ran.out) == (2, "")
    assert "'vicrge'" in ran.err and "vicreg" in ran.err.splitlines()[-1]


# Naming the method


@pytest.mark.parametrize(
    ("flags", "method"),
    [
        (["--alg", "moco"], "mocov3"),
        (["--alg", "byol"], "byol"),
        (["--alg", "simsiam"], "simsiam"),
        (["--nnsiam"], "nnsiam"),
        (["--method", "moco"], "moco"),
        (["-m", "moco"], "moco"),
        ([], "simsiam"),
    ],
    ids=str,
)
def test_alg_and_nnsiam_select_the_method(plan, flags, method):
    assert plan(method, named=flags)["config"]["method"] == method


@pytest.mark.parametrize(
    "flags",
    [
        ["--alg", "moco", "--method", "byol"],
        ["--alg", "moco", "--nnsiam"],
        ["--nnsiam", "--method", "nnsiam"],
        ["--alg", "simsiam", "-m", "simsiam"],
        ["--alg", "moco", "--nnsiam", "-m", "moco"],
    ],
    ids=" ".join,
)
def test_selecting_the_method_twice_is_a_usage_error(ssltool, flags):
    ran = ssltool("pretrain", *flags, "--dry-run")
    assert (ran.code, ran.out) == (2, "")
    assert all(flag in ran.err.splitlines()[-1] for flag in ("--method", "--alg", "--nnsiam"))


# Recipes


def test_a_recipe_changes_the_settings(plan):
    config = plan("byol", "--recipe", "cifar")["config"]
    recipe = RECIPES["cifar"]["byol"]
    wanted = {k: v for k, v in recipe.items() if k not in ("options", "epochs", "batch_size")}
    assert {name: config[name] for name in wanted} == wanted
    options = {k: v for k, v in recipe["options"].items() if k not in TINY_METHODS["byol"]}
    assert {name: config["method_options"][name] for name in options} == options and options


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--lr", "0.05"], "lr", 0.05),
        (["--weight-decay", "1e-4"], "weight_decay", 1e-4),
        (["--wd", "1e-4"], "weight_decay", 1e-4),
        (["--crop-min", "0.2"], "crop_min", 0.2),
        (["--lr-schedule", "epoch"], "lr_schedule", "epoch"),
        (["--warmup-epochs", "0"], "warmup_epochs", 0),
        (["--lars-trust", "0.001"], "lars_trust", 0.001),
        (["--lr", "0.7"], "lr", 0.7),
        (["--optimizer", "sgd"], "optimizer", "sgd"),
        (["--fix-all-lr"], "fix_all_lr", True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_take_precedence_over_a_recipe_even_with_default_values(plan, flags, name, value):
    assert RECIPES["cifar"]["byol"].get(name, False) != value
    assert plan("byol", "--recipe", "cifar", *flags)["config"][name] == value


@pytest.mark.parametrize("flags", [["--set", "asymmetric=false"], ["--set", "momentum-final=none"]])
def test_set_takes_precedence_over_a_recipe(plan, flags):
    options = plan("byol", "--recipe", "cifar", *flags)["config"]["method_options"]
    name, _, value = flags[1].partition("=")
    assert str(options[name.replace("-", "_")]).lower() == value
    assert options["momentum"] == TINY_METHODS["byol"]["momentum"] != RECIPES["cifar"]["byol"]["options"]["momentum"]


def test_a_flag_of_an_option_takes_precedence_over_a_recipe(plan):
    config = plan("simsiam", "--recipe", "cifar", "--no-fix-pred-lr")["config"]
    assert RECIPES["cifar"]["simsiam"]["options"]["fix_pred_lr"] is True
    assert config["method_options"]["fix_pred_lr"] is False


def test_a_recipe_that_the_method_does_not_have_is_refused_with_those_it_has(ssltool, tmp_path):
    ran = ssltool("pretrain", "--method", "wmse", "--recipe", "imagenet", "-o", tmp_path / "run")
    assert (ran.code, ran.out) == (2, "")
    assert all(word in ran.err.splitlines()[-1] for word in ("imagenet", "wmse", "cifar"))


# Plans and warnings


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_planned(plan, method):
    found = plan(method)
    assert (found["config"]["method"], found["steps_per_epoch"], len(found["epochs"])) == (method, 2, 20)
    assert found["parameters"] >= found["trainable_parameters"] > 0 and found["memory_bytes"] > 0


SMALL = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", 16, "--device", "cpu", "--epochs", 1, "-b", 8]
COLD = [*SMALL, "--steps-per-epoch", 1, "--method", "simclr", "--set", "dim=8", "--set", "temperature=0.01"]
"""Flags of a run that has two warnings."""


def test_warnings_are_in_the_plan_as_text_and_as_json(ssltool, tmp_path):
    document = ssltool("pretrain", *COLD, "-o", tmp_path / "run", "--dry-run", "--json").json["warnings"]
    assert ["temperature=0.01" in document[0], "--batch-size" in document[1], len(document)] == [True, True, 2]
    rows = ssltool("pretrain", *COLD, "-o", tmp_path / "run", "--dry-run").out.splitlines()
    shown = [re.split(r" {2,}", row, maxsplit=1) for row in rows if row.startswith("warning ")]
    assert shown == [["warning 1", document[0]], ["warning 2", document[1]]]


def test_warnings_of_a_run_are_on_stderr(ssltool, tmp_path):
    flags = [*COLD, "--monitor-every", 0, "-o", tmp_path / "run"]
    planned = ssltool("pretrain", *flags, "--dry-run", "--json").json["warnings"]
    ran = ssltool("pretrain", *flags)
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'run'}\n")
    assert [line for line in ran.err.splitlines() if line.startswith("warning: ")] == [f"warning: {w}" for w in planned]
