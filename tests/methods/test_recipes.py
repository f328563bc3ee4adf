"""Recipes and the registry: all recipes can be run, explicit settings take precedence, unknown names are refused."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
import torch
from torch import nn

from methods_helpers import facts
from ssltool.config import PretrainConfig
from ssltool.errors import SSLToolError
from ssltool.methods import METHODS, method_class, method_options
from ssltool.methods.options import LabelledSupport, TrainedTeacher, gather_options
from ssltool.methods.recipes import RECIPES, recipes_of
from ssltool.models.backbones import build_backbone
from ssltool.stages.pretrain.recipe import apply_recipe

ALL = [(name, method) for name, methods in RECIPES.items() for method in methods]
DEFAULTS = {f.name: f.default for f in dataclasses.fields(PretrainConfig)}


def applied(method: str, name: str = "cifar", explicit: tuple[str, ...] = (), **given) -> PretrainConfig:
    return apply_recipe(PretrainConfig(method=method, **given), name, explicit)


def options_of(config: PretrainConfig):
    """The method's options that a configuration's ``--set`` pairs make."""
    return method_options(config.method, gather_options(config.options, {}))


@pytest.mark.parametrize(("name", "method"), ALL)
def test_all_settings_of_a_recipe_are_applied(name, method):
    config = applied(method, name)
    settings = dict(RECIPES[name][method])
    options = settings.pop("options", {})
    for key, value in settings.items():
        assert getattr(config, key) == value
        assert type(getattr(config, key)) is type(value)
    for key, value in options.items():
        assert getattr(options_of(config), key) == value
    others = DEFAULTS.keys() - settings.keys() - {"method", "options"}
    assert all(getattr(config, key) == DEFAULTS[key] for key in others)


@pytest.mark.parametrize(("name", "method"), ALL)
def test_all_settings_of_a_recipe_have_an_effect(name, method):
    applied(method, name).check()
    settings = dict(RECIPES[name][method])
    options, defaults = settings.pop("options", {}), method_class(method).Options()
    assert [key for key, value in options.items() if getattr(defaults, key) == value] == []
    assert settings.keys() >= {"optimizer", "lr", "weight_decay", "batch_size", "epochs", "crop_min", "blur_p"}


@pytest.mark.parametrize(("name", "method"), ALL)
def test_each_recipe_gives_a_valid_schedule_and_method(name, method):
    config = applied(method, name)
    assert config.warmup_epochs < config.epochs
    assert config.final_lr < config.lr
    images = 50_000 if name == "cifar" else 1_281_167
    size = 32 if name == "cifar" else 224

    def network() -> tuple[nn.Module, int]:
        named = "arch" in RECIPES[name][method]
        return build_backbone(config.arch, image_size=size) if named else (nn.Linear(12, 512), 512)

    run = facts(
        images=images,
        epoch_images=images,
        batch_size=config.batch_size,
        epochs=config.epochs,
        second_backbone=network,
    )
    with torch.device("meta"):  # shapes without numbers: the papers' heads are wide
        made = method_class(method)(*network(), options_of(config), run)
    assert made.min_batch_size <= config.batch_size


def test_every_recipe_is_of_a_registered_method():
    assert {method for methods in RECIPES.values() for method in methods} <= METHODS.keys()
    assert recipes_of("simsiam") == ["cifar", "imagenet"]
    assert recipes_of("distill") == ["imagenet"]
    assert recipes_of("wmse") == ["cifar"]


def test_explicit_settings_take_precedence_even_at_their_default():
    config = applied("byol", explicit=("lr", "epochs"), epochs=7, lr=0.05)
    assert (config.lr, config.epochs) == (0.05, 7)
    assert (config.optimizer, config.weight_decay, config.batch_size) == ("lars", 1e-5, 256)


@pytest.mark.parametrize("pair", ["momentum=0.5", " momentum = 0.5", "momentum=5e-1"])
def test_explicit_options_take_precedence(pair):
    options = options_of(applied("byol", options=(pair,)))
    assert (options.momentum, options.asymmetric) == (0.5, True)


def test_options_may_contain_hyphens():
    assert options_of(applied("swav", options=("queue-start=3",))).queue_start == 3


@pytest.mark.parametrize(
    ("method", "flag", "option", "value"),
    [
        ("simclr", "dim", "dim", 64),
        ("moco", "moco_dim", "dim", 64),
        ("moco", "moco_m", "momentum", 0.9),
        ("moco", "moco_m_cos", "momentum_final", True),
        ("mocov3", "moco_t", "temperature", 0.7),
        ("simsiam", "fix_pred_lr", "fix_pred_lr", False),
        ("paws", "labels_fraction", "labels_fraction", 0.5),
    ],
)
def test_flags_for_options_take_precedence(method, flag, option, value):
    config = applied(method, **{flag: value})
    assert option in RECIPES["cifar"][method]["options"]
    assert [pair for pair in config.options if pair.startswith(f"{option}=")] == []
    assert getattr(method_options(method, gather_options(config.options, {option: value})), option) == value


def test_applying_a_recipe_does_not_change_the_registry():
    before = repr(RECIPES)
    for name, method in ALL:
        applied(method, name)
    assert repr(RECIPES) == before


@pytest.mark.parametrize(
    ("method", "name", "text"),
    [
        ("simsiam", "cifr", "unknown recipe 'cifr'; did you mean cifar?"),
        ("simsiam", "zzz", "unknown recipe 'zzz'; known: cifar, imagenet"),
        ("wmse", "imagenet", "--recipe imagenet is not available for wmse; available: cifar"),
        ("distill", "cifar", "--recipe cifar is not available for distill; available: imagenet"),
    ],
)
def test_an_unknown_or_unavailable_recipe_is_refused(method, name, text):
    with pytest.raises(SSLToolError) as caught:
        applied(method, name)
    assert str(caught.value) == text


def test_a_recipe_of_an_unknown_method_is_refused():
    with pytest.raises(SSLToolError, match=r"simsam.* simsiam"):
        applied("simsam")


@pytest.mark.parametrize("name", METHODS)
def test_registry_targets_are_documented_classes(name):
    entry = METHODS[name]
    found = method_class(name)
    module, _, attribute = entry.target.partition(":")
    assert (found.__module__, found.__name__) == (f"ssltool.methods{module}", attribute)
    assert len(inspect.getdoc(inspect.getmodule(found))) > 80
    assert entry.prevents and entry.needs


@pytest.mark.parametrize("name", METHODS)
def test_the_year_matches_the_arxiv_number(name):
    entry = METHODS[name]
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.paper)
    assert entry.year == 2000 + int(entry.paper[:2])


@pytest.mark.parametrize("name", METHODS)
def test_the_needs_of_a_method_match_its_options(name):
    needs, cls = METHODS[name].needs, method_class(name)
    options = {f.name for f in dataclasses.fields(cls.Options)}
    assert ("multi-crop" in needs) is ("local_crops" in options)
    assert ("label" in needs) is (cls.uses_labels or issubclass(cls.Options, LabelledSupport))
    assert ("checkpoint" in needs) is issubclass(cls.Options, TrainedTeacher)
