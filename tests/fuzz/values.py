"""Values of the wrong type, size or shape, for places in files; each is made when it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

HOSTILE = "x\n\r\t\x1b[31m\u202e\u2028\x9b\u200b<b>&\"'$x$]]>=1"
EXECUTED = "executed"
"""The file that a command makes in its working directory if it executes what it reads."""


class Executed:
    """Makes the file ``EXECUTED`` when a pickle of it is loaded."""

    def __init__(self, function: Callable[..., object] = os.mkdir, *arguments: object) -> None:
        self.call = (function, arguments or (EXECUTED,))

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


MANY = 10**7
"""Entries of a tensor above which it is not copied here."""

Make = Callable[[Any], Any]
"""A value in place of another one."""

PLAIN: dict[str, Make] = {
    "text": lambda old: "text",
    "empty text": lambda old: "",
    "hostile text": lambda old: HOSTILE,
    "long text": lambda old: "x" * 100_000,
    "the value as text": lambda old: str(old)[:1000],
    "None": lambda old: None,
    "True": lambda old: True,
    "False": lambda old: False,
    "0": lambda old: 0,
    "-1": lambda old: -1,
    "3": lambda old: 3,
    "2^31": lambda old: 2**31,
    "10^9": lambda old: 10**9,
    "10^30": lambda old: 10**30,
    "1.5": lambda old: 1.5,
    "NaN": lambda old: float("nan"),
    "infinity": lambda old: float("inf"),
    "-infinity": lambda old: float("-inf"),
    "1e307": lambda old: 1e307,
    "an empty list": lambda old: [],
    "a list of numbers": lambda old: [1, 2],
    "a list of texts": lambda old: ["a", "b"],
    "a list of the value": lambda old: [old],
    "a nested list": lambda old: [[1, [2]], {"a": [None]}],
    "an empty dict": lambda old: {},
    "a dict": lambda old: {"a": 1, "b": [2]},
    "a dict of the value": lambda old: {"a": old},
}
"""Values that JSON knows too."""


def _unusual(make: Callable[[], Tensor]) -> Make:
    return lambda old: make()


TENSORS: dict[str, Make] = {
    "bytes": lambda old: b"bytes",
    "a tuple": lambda old: (1, 2),
    "an object that executes": lambda old: Executed(),
    "a 0-d tensor": _unusual(lambda: torch.tensor(1.5)),
    "a 2-d tensor": _unusual(lambda: torch.ones(2, 2)),
    "a 5-d tensor": _unusual(lambda: torch.ones(2, 1, 2, 1, 2)),
    "an empty tensor": _unusual(lambda: torch.zeros(0)),
    "a tensor of no columns": _unusual(lambda: torch.zeros(9, 0)),
    "an integer tensor": _unusual(lambda: torch.arange(9)),
    "a bool tensor": _unusual(lambda: torch.ones(9, dtype=torch.bool)),
    "a complex tensor": _unusual(lambda: torch.ones(9, 4, dtype=torch.complex64)),
    "a float8 tensor": _unusual(lambda: torch.ones(9, 4).to(torch.float8_e4m3fn)),
    "a sparse tensor": _unusual(lambda: torch.eye(9).to_sparse()),
    "a quantised tensor": _unusual(lambda: torch.quantize_per_tensor(torch.ones(9, 4), 0.1, 0, torch.qint8)),
    "a meta tensor": _unusual(lambda: torch.empty(9, 4, device="meta")),
    "a huge meta tensor": _unusual(lambda: torch.empty(10**9, 10**6, device="meta")),
    "a tensor that requires grad": _unusual(lambda: torch.ones(9, 4, requires_grad=True)),
    "10^9 rows of one stored value": _unusual(lambda: torch.zeros(1).expand(10**9, 4)),
}
"""Values of .pt files only."""

RESHAPED: dict[str, Callable[[Tensor], Tensor]] = {
    "no rows": lambda t: t[:0],
    "one row fewer": lambda t: t[:-1],
    "one row": lambda t: t[:1],
    "twice the rows": lambda t: torch.cat([t, t]),
    "one axis more": lambda t: t[None],
    "trailing axes": lambda t: t[..., None, None],
    "flat": lambda t: t.reshape(-1),
    "transposed": lambda t: t.transpose(0, -1),
    "columns cut": lambda t: t[..., : t.shape[-1] // 2],
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "int64": lambda t: t.long(),
    "int32": lambda t: t.int(),
    "uint8": lambda t: t.byte(),
    "bool": lambda t: t.bool(),
    "complex": lambda t: t.to(torch.complex64),
    "float8": lambda t: t.to(torch.float8_e5m2),
    "sparse": lambda t: t.to_sparse(),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "on meta": lambda t: t.to("meta"),
    "requires grad": lambda t: t.float().requires_grad_(),
    "all NaN": lambda t: torch.full_like(t.float(), float("nan")),
    "all zero": torch.zeros_like,
    "all equal": lambda t: torch.full_like(t, 3),
    "all infinite": lambda t: torch.full_like(t.float(), float("inf")),
    "x 1e20": lambda t: t.float() * 1e20,
    "x 1e38": lambda t: t.float() * 1e38,
    "x 1e307": lambda t: t.double() * 1e307,
    "x 1e-30": lambda t: t.float() * 1e-30,
    "+ 0.5": lambda t: t + 0.5,
    "negative": lambda t: -t - 1,
    "+ 10^9": lambda t: t + 10**9,
    "largest integers": lambda t: torch.full_like(t.long(), 2**63 - 1),
    "one-hot": lambda t: torch.nn.functional.one_hot(t.reshape(-1).long().clamp(0, 9)),
    "a list": lambda t: t.tolist(),  # type: ignore[dict-item]
}
"""Another tensor made of one."""


def tweaked(value: Any, rng: Random) -> tuple[str, Any]:
    """Another value of the same type, and what was done."""
    if isinstance(value, Tensor) and value.numel() < MANY:
        name = rng.choice(list(RESHAPED))
        return name, RESHAPED[name](value)
    if isinstance(value, bool):
        return "negated", not value
    if isinstance(value, (int, float)):
        new = rng.choice([0, -1, -value, value + 1, value * 10**6, value * 1e300, 2**63, -(2**63), 0.5, 1e-300])
        return f"{new}", new
    if isinstance(value, str):
        name, new = rng.choice(
            [
                ("upper case", value.upper()),
                ("longer", value + "x"),
                ("shorter", value[:-1]),
                ("a path", "../" + value),
                ("hostile", value + HOSTILE),
                ("NUL", value + "\0"),
                ("lone surrogate", value + "\udcff"),
                ("another name", rng.choice(["vit_tiny", "resnet50", "byol", "dino", "iid", "l2", "cov", "imagenet"])),
            ]
        )
        return name, new
    if isinstance(value, list) and value:
        name, new = rng.choice(
            [
                ("reversed", value[::-1]),
                ("twice", value + value),
                ("the last item missing", value[:-1]),
                ("a copy of the first item", [value[0], *value]),
                ("1000 times", value * 1000),
            ]
        )
        return name, new
    name = rng.choice(list(PLAIN))
    return name, PLAIN[name](value)
