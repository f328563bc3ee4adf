"""Errors name only options of the command."""

from __future__ import annotations

import pytest

from ssltool.cli.remedies import own_remedies


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("corrupt image a.png; replace it, or skip it with --skip", "corrupt image a.png; replace it"),
        ("it is wide; lower --size, or raise --memory", "it is wide; lower --size, or raise --memory"),
        ("a; use --skip", "a; use --skip"),  # the only remedy
        ("a, or --skip; replace it", "a, or --skip; replace it"),  # no remedy
        ("a; train it, or use ssltool knn --skip", "a; train it, or use ssltool knn --skip"),
        ("a; do this, or --skip, or --size 3", "a; do this, or --size 3"),
        ("no remedy, or --skip", "no remedy, or --skip"),
    ],
)
def test_alternatives_of_other_commands_are_left_out(text, left):
    assert own_remedies(text, {"--size", "--memory", "-s"}) == left
