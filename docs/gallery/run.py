"""Runs the examples of the gallery: ``python docs/gallery/run.py [NAME ...]``, by default all.

Each runs in an empty folder, with the ``ssltool`` of this checkout. It must leave ``NAME.png``, of which a small
copy is saved beside the script. Printed are the seconds, and those of the processor.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
EXAMPLES = {path.stem: path for path in sorted(HERE.iterdir()) if path.suffix in (".py", ".sh") and path.stem != "run"}
PROGRAMS = {".py": [sys.executable], ".sh": ["bash"]}
SIDE = 900
"""The largest width and height of a picture, in pixels."""


def run(script: Path, folder: Path, environment: dict[str, str]) -> str | None:
    """Runs an example in ``folder`` and saves its picture; what is wrong, or None."""
    code = subprocess.run([*PROGRAMS[script.suffix], script], cwd=folder, env=environment).returncode
    picture = folder / f"{script.stem}.png"
    if code:
        return f"exit code {code}"
    if not picture.exists():
        return f"no {picture.name}"
    save_small(picture, script.with_suffix(".png"))
    return None


def save_small(picture: Path, copy: Path) -> None:
    """Saves a picture with at most ``SIDE`` pixels and 128 colours, which takes a few ten thousand bytes."""
    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    small.quantize(128).save(copy, optimize=True)


def main(names: list[str]) -> int:
    """Runs the examples of these names; 1 if one fails."""
    if unknown := [name for name in names if name not in EXAMPLES]:
        print(f"no such example: {', '.join(unknown)}; there are {', '.join(EXAMPLES)}", file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory() as programs:
        program = Path(programs) / "ssltool"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ssltool "$@"\n')
        program.chmod(0o755)
        path = os.pathsep.join([programs, str(Path(sys.executable).parent), os.environ["PATH"]])
        sources = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PATH": path, "PYTHONPATH": sources, "MPLBACKEND": "agg"}
        for name in names or EXAMPLES:
            start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            with tempfile.TemporaryDirectory() as folder:
                wrong = run(EXAMPLES[name], Path(folder), environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(
                f"{name}: {time.monotonic() - start:.0f} s, {processor:.0f} s of processor: {wrong or 'ok'}", flush=True
            )
            failed |= wrong is not None
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
