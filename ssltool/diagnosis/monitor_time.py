"""What to do if the monitor takes too much of the time of the training."""

from __future__ import annotations

import math

MAX_TIME_SHARE = 0.05
"""Fraction of the training time above which the monitor suggests cheaper settings."""

MIN_IMAGES = 256
"""Fewer images are not suggested: their number bounds the rank that can be measured."""


def cheaper(
    share: float, every: int, names: tuple[str, str], *, total: int | None = None, images: int | None = None
) -> list[str]:
    """A warning about a monitor that takes ``share`` of the training time, with the settings that make it less; empty
    if it takes little, or if none does.

    Args:
        every: the interval between two looks.
        names: how messages write the settings of the interval and of the number of images.
        total: the length of the training, whose end has a look, too, in the unit of ``every``; None if it is unknown.
        images: the number of images; None if it is not to be changed.
    """
    if round(share, 2) <= MAX_TIME_SHARE:
        return []
    rarer = math.ceil(every * share / MAX_TIME_SHARE)
    left = share * every / rarer
    if total is not None:
        looks = -(-total // every)
        rarer = -(-total // max(1, int(looks * MAX_TIME_SHARE / share)))
        left = share * -(-total // rarer) / looks
    advice = [f"{names[0]}{rarer} reduces it to {left:.0%}"] if left < share else []
    if images is not None:
        fewer = int(images * MAX_TIME_SHARE / share)
        fewer = MIN_IMAGES if not advice and fewer < MIN_IMAGES < images else fewer
        if fewer >= MIN_IMAGES:
            advice.append(f"{names[1]}{fewer} reduces it to {share * fewer / images:.0%}")
    return [f"the collapse monitor takes {share:.0%} of the training time; {', '.join(advice)}"] if advice else []
