"""What people and services read first: metadata, citation, forms and continuous integration agree with the package."""

from __future__ import annotations

import configparser
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import ssltool

ROOT = Path(ssltool.__file__).parent.parent
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


@pytest.fixture(scope="module")
def metadata() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return read(ROOT / ".github/workflows/ci.yml")


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def pythons(metadata: configparser.ConfigParser) -> list[str]:
    """The versions of Python in the classifiers."""
    found = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", metadata["metadata"]["classifiers"], re.M)
    return sorted(found, key=lambda version: int(version.split(".")[1]))


def recipe(target: str) -> list[str]:
    """The commands of a target in the Makefile."""
    (found,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    return [line.strip() for line in found.splitlines()]


def test_metadata_says_what_a_registry_shows(metadata):
    wanted = {"name", "version", "description", "long_description", "author", "license", "keywords", "classifiers"}
    assert wanted <= set(metadata["metadata"])
    classifiers = lines(metadata["metadata"]["classifiers"])
    assert len(set(classifiers)) == len(classifiers)
    topics = {classifier.split(" :: ")[0] for classifier in classifiers}
    assert {"Development Status", "Intended Audience", "Programming Language", "Topic", "Typing"} <= topics


def test_the_oldest_python_in_the_classifiers_is_the_one_required(metadata):
    assert metadata["options"]["python_requires"] == f">={pythons(metadata)[0]}"
    major, minor = map(int, pythons(metadata)[0].split("."))
    assert f'target-version = "py{major}{minor}"' in (ROOT / "pyproject.toml").read_text()


def test_types_are_packaged_for_others(metadata):
    assert (ROOT / "ssltool/py.typed").read_bytes() == b""
    assert "py.typed" in metadata["options.package_data"]["ssltool"]
    assert "Typing :: Typed" in metadata["metadata"]["classifiers"]


def test_continuous_integration_runs_an_executable_on_the_oldest_python(metadata, workflow):
    assert os.access(ROOT / ".ci/run", os.X_OK)
    versions = workflow["jobs"]["check"]["strategy"]["matrix"]["python-version"]
    assert all(isinstance(version, str) for version in versions)  # 3.10 as a number is 3.1
    assert pythons(metadata)[0] in versions
    assert set(versions) <= set(pythons(metadata))
    assert [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step] == [".ci/run"]
    assert workflow[True].keys() >= {"push", "pull_request"}  # YAML 1.1 reads "on" as a truth value


def test_what_continuous_integration_makes_is_in_the_makefile(workflow):
    lines = re.findall(r"^make (?:--jobs 2 --output-sync )?([\w ]+)$", (ROOT / ".ci/run").read_text(), re.M)
    script = " ".join(lines).split()
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for target in [*script, *(command.removeprefix("make ") for command in commands if command.startswith("make "))]:
        assert recipe(target)
    assert {"test", "lint", "types", "docs"} <= set(script)


def test_the_contributors_page_names_targets_that_are_there_and_all_linters():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for target in re.findall(r"`make (\w+)`", text):
        assert recipe(target)
    for command in recipe("lint"):
        assert Path(shlex.split(command)[0]).name in text
    for path in re.findall(r"`((?:ssltool|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists() or "mine" in path


def test_links_of_the_contributors_page_lead_somewhere():
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_hooks_before_a_commit_run_the_linters(metadata):
    hooks = [hook for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    programs = {hook["entry"].split()[0] for hook in hooks}
    assert programs == {Path(command.split()[0]).name for command in recipe("lint")}
    assert programs <= set(lines(metadata["options.extras_require"]["test"]))


def test_the_citation_names_this_version_and_the_paper(metadata):
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == ssltool.__version__
    assert citation["license"] == metadata["metadata"]["license"]
    assert [author["name"] for author in citation["authors"]] == [metadata["metadata"]["author"]]
    assert metadata["metadata"]["author"].lower() in (ROOT / "LICENSE").read_text().lower()
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Li", "Efros", "Pathak"]
    assert {identifier["value"] for identifier in paper["identifiers"]} == {"arXiv:2209.15007"}


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_an_issue_form_has_what_is_required_of_forms(path):
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    for field in form["body"]:
        assert field["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]


def test_there_is_a_form_for_bugs_wrong_numbers_and_features():
    assert {path.stem for path in FORMS} == {"bug", "wrong_number", "feature"}
