"""The settings in placeholders as plain values: numbers, text, lists and dicts."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ssltool.files.placeholders import Placeholder, attributes, is_placeholder_class, module_attributes

DTYPE = re.compile(r"[<>=|]?[biuf][1248]")
"""NumPy's short names of numbers."""


def plain_value(value: Any) -> Any:
    """What a placeholder says; a value that is none is returned as it is.

    =====================================  ==========================================================
    a class or function                    its full name
    ``argparse.Namespace``, a dataclass    the dict of its attributes
    OmegaConf                              the dict or list, or the value of a node
    ``functools.partial``                  the function's name, or a dict of this, ``args`` and the keywords
    a path                                 text
    a number of NumPy                      the number
    an enum, and other single arguments    the argument
    other arguments                        the list of them
    a network, and what says nothing       its class, as ``<torch.nn.modules.linear.Linear>``
    =====================================  ==========================================================

    The dict or list may hold placeholders.
    """
    if is_placeholder_class(value):
        return value.name
    if not isinstance(value, Placeholder):
        return value
    module, _, name = value.name.rpartition(".")
    if module_attributes(value) is None:
        if module.startswith("pathlib") and all(isinstance(part, str) for part in value.args):
            return str(PurePosixPath(*value.args))
        if module == "functools" and name == "partial":
            return _partial(value)
        if module.startswith("numpy"):
            return _numpy(value, name)
        held = attributes(value.state)
        if held:
            return _of_omegaconf(held)
        if isinstance(value.state, list):  # the slots of a frozen dataclass
            return value.state
        if value.args and not isinstance(value.args[0], bytes):  # such as a date
            return value.args[0] if len(value.args) == 1 else list(value.args)
    return f"<{value.name}>"


def _of_omegaconf(held: dict[Any, Any]) -> Any:
    """The content of a container, or the value of a node, of OmegaConf; other attributes are returned as they are."""
    if "_metadata" in held:
        for name in ("_content", "_val"):
            if name in held:
                return held[name]
    return held


def _partial(value: Placeholder) -> Any:
    state = value.state if isinstance(value.state, tuple) and len(value.state) == 4 else (None, (), {}, None)
    function, args, keywords = state[0] or next(iter(value.args), None), state[1], state[2]
    called = {"function": function}
    if args:
        called["args"] = list(args) if isinstance(args, tuple) else args
    if isinstance(keywords, dict):
        called |= keywords
    return called if len(called) > 1 else function


def _numpy(value: Placeholder, name: str) -> Any:
    """A number, or the short name of a type."""
    if name == "dtype":
        swapped = isinstance(value.state, tuple) and value.state[1:2] == (">",)
        return f"{'>' if swapped else ''}{next(iter(value.args), '')}"
    kind, data = value.args if name == "scalar" and len(value.args) == 2 else (None, None)
    spelled = plain_value(kind)
    if isinstance(spelled, str) and DTYPE.fullmatch(spelled) and isinstance(data, bytes):
        dtype = np.dtype(spelled)
        if dtype.itemsize == len(data):
            return np.frombuffer(data, dtype)[0].item()
    return f"<{value.name}>"
