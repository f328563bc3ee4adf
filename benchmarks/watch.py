"""Load of ``ssltool watch``: many long runs, many clients. ``python benchmarks/watch.py [FOLDER]`` prints the times.

Files of 100,000 records are written into FOLDER (0.7 GB, kept for the next time); each is the metrics of several runs
by hard links. The clients ask as the page does, as fast as they are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx

RUNS, RECORDS, FILES, CLIENTS, SECONDS = 200, 100_000, 20, 50, 20.0
RECORD = (
    '{"epoch": %d, "step": %d, "loss": %.6f, "lr": 0.05, "images_per_second": %.1f, "seconds": 11.2, "backbone_auc": '
    '%.6f, "backbone_effective_rank": %.4f, "backbone_feature_std": 0.91, "backbone_dead_directions": 0.0, '
    '"projector_auc": 0.8, "projector_effective_rank": 31.5, "projector_feature_std": 0.7, "verdict": "%s"}'
)


def line(i: int, seed: int) -> str:
    """A record of a run."""
    noise = math.sin(i * (1.7 + 0.1 * seed))
    state = "partial" if i % 1000 > 900 else "healthy"
    return RECORD % (i, 10 * i, 5 / (1 + i / 9000) + 0.1 * noise, 800 + noise, 0.8 + 0.05 * noise, 40 + noise, state)


def write(folder: Path, runs: int, records: int) -> None:
    """Writes the run folders, unless they are there."""
    if (folder / f"run{runs - 1:03d}").exists():
        return
    for number in range(runs):
        run = folder / f"run{number:03d}"
        run.mkdir(parents=True, exist_ok=True)
        first = folder / f"run{number % FILES:03d}" / "metrics.jsonl"
        if number < FILES:
            first.write_text("\n".join(line(i, number) for i in range(records)) + "\n")
        else:
            os.link(first, run / "metrics.jsonl")
        settings = {"stage": "pretrain", "method": "simsiam", "arch": "resnet18", "strategy": "iid", "seed": number}
        settings |= {"epochs": 2 * records, "lr": 0.01 * (number % 7 + 1), "batch_size": 256, "method_options": {}}
        (run / "config.json").write_text(json.dumps(settings))


def start(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """The server, its address, and the seconds until the page and all runs were answered."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ssltool", "watch", str(folder), "--port", "0", "--no-open", "--every", "1"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    for path in ("", "static/watch.js", "api/runs"):
        httpx.get(address + path).raise_for_status()
    return server, address, time.perf_counter() - began


async def client(address: str, ids: list[str], times: dict[str, list[float]], until: float) -> None:
    """Asks for news and curves until a time, as a page does that shows six runs."""
    async with httpx.AsyncClient(base_url=address, timeout=60, verify=False) as http:  # reading certificates takes time
        seen = ""
        while time.perf_counter() < until:
            for name, path in (("news", f"api/runs?seen={seen}"), ("curves", f"api/curves?ids={','.join(ids)}")):
                began = time.perf_counter()
                answer = await http.get(path)
                times[name].append(time.perf_counter() - began)
                if name == "news" and answer.status_code == 200:
                    seen = answer.text[: answer.text.index(",")].rpartition(" ")[2]
            await asyncio.sleep(1)


async def read_to_end(address: str, ids: list[str]) -> tuple[float, float]:
    """Seconds until six runs are read to the end, and of the longest answer on the way."""
    longest, began = 0.0, time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        while True:
            asked = time.perf_counter()
            found = (await http.get(f"api/curves?ids={','.join(ids)}")).json()
            longest = max(longest, time.perf_counter() - asked)
            if found["complete"]:
                return time.perf_counter() - began, longest


async def measure(folder: Path, address: str) -> None:
    """Prints the times of one client alone, and of all."""
    ids = [run["id"] for run in httpx.get(address + "api/runs").json()["runs"]]
    whole, longest = await read_to_end(address, ids[:6])
    print(f"six runs read to the end: {whole:.1f} s, longest answer {1000 * longest:.0f} ms")
    times: dict[str, list[float]] = {"news": [], "curves": []}
    until = time.perf_counter() + SECONDS
    tasks = [asyncio.create_task(client(address, ids[:6], times, until)) for _ in range(CLIENTS)]
    count = RECORDS
    while time.perf_counter() < until:
        await asyncio.sleep(1)
        with open(folder / "run000" / "metrics.jsonl", "a") as stream:  # the metrics of ten runs
            stream.write(line(count, 0) + "\n")
        count += 1
    await asyncio.gather(*tasks)
    for name, values in times.items():
        middle, late = statistics.median(values), sorted(values)[int(0.95 * len(values))]
        print(f"{name}: {len(values)} answers, median {1000 * middle:.0f} ms, 95 % {1000 * late:.0f} ms")


def main() -> None:
    """Prints all times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("/tmp/ssltool-watch"))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--records", type=int, default=RECORDS)
    given = parser.parse_args()
    write(given.folder, given.runs, given.records)
    server, address, seconds = start(given.folder)
    try:
        print(f"{given.runs} runs of {given.records:,} records: page and table {seconds:.2f} s after the start")
        asyncio.run(measure(given.folder, address))
        for row in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if row.startswith("VmRSS"):
                print("memory of the server:", row.split(":")[1].strip())
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
