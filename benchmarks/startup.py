"""The time of ``ssltool --help`` compared with a bare ``import click``: whole processes, alternating.

python benchmarks/startup.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

OURS = [sys.executable, "-m", "ssltool", "--help"]
BARE = [sys.executable, "-c", "import click"]


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    seconds(OURS), seconds(BARE)
    pairs = [(seconds(OURS), seconds(BARE)) for _ in range(runs)]
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"ssltool --help {ours * 1e3:.0f} ms, import click {bare * 1e3:.0f} ms (medians of {runs})")
    print(f"ratio {statistics.median(a / b for a, b in pairs):.2f}")


if __name__ == "__main__":
    main()
