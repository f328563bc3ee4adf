"""The web application of ``watch``: one page, its files, and documents about the runs.

Runs are named by ids, never by paths, so no address leads to another file. All answers but those of jobs come from
memory or read on for at most ``BUDGET`` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import os
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ssltool.diagnosis.metrics import METRICS
from ssltool.files.text import one_line
from ssltool.files.writing import to_json
from ssltool.runs.differing import flat_settings, setting_cell
from ssltool.settings import Record
from ssltool.stages.watch.guard import Guard
from ssltool.stages.watch.jobs import Job, Jobs
from ssltool.stages.watch.live_page import ASSETS, html, static
from ssltool.stages.watch.run_index import RunIndex
from ssltool.stages.watch.watched_run import WatchedRun
from ssltool.viz.curve_list import LAYERS, LOSS, curves_of_layers

BUDGET = 0.1
"""Seconds for which one request reads records."""

MOST_AT_ONCE = 24
"""Runs whose curves one request may ask for, and runs that are ranked together."""


class Watch:
    """The state behind the page: the ``index`` of the runs and the ``jobs``."""

    def __init__(self, index: RunIndex, every: float) -> None:
        self.index, self.every = index, every
        self.jobs = Jobs()
        self._curves = CurvesDocuments()
        self._looks: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Looks at the files while the server runs."""
        self._looks = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._looks.cancel()
            await asyncio.wait([self._looks])
            await self.jobs.close()

    async def _look(self) -> None:
        while True:
            await asyncio.to_thread(self.index.refresh)
            await asyncio.sleep(self.every)

    def page(self, request: Request) -> Response:
        """The page."""
        return Response(html(self.every), media_type="text/html")

    def file(self, request: Request) -> Response:
        """A style sheet or script."""
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404)
        return Response(static(name), media_type="text/css" if name.endswith(".css") else "text/javascript")

    async def runs(self, request: Request) -> Response:
        """All runs; 204 if nothing changed since the version ``seen``."""
        if self._looks is not None and self._looks.done():
            self._looks.result()  # raises what ended it: the page must not show old numbers as new ones
        if request.query_params.get("seen") == str(self.index.version):
            return Response(status_code=204)
        return _compressed(request, self.index.document)

    async def curves(self, request: Request) -> Response:
        """The curves of the runs ``ids``, as far as they are read; ``complete`` says whether that is all."""
        ids = request.query_params.get("ids", "").split(",")[:MOST_AT_ONCE]
        runs = [run for name in dict.fromkeys(ids) if (run := self.index.runs.get(name)) is not None]
        return _compressed(request, await asyncio.to_thread(self._curves.read, runs))

    async def run(self, request: Request) -> Response:
        """The settings of a run."""
        found = flat_settings(self._run(request).settings)
        cells = {one_line(name, 200): one_line(setting_cell(value), 500) for name, value in found.items()}
        return _json({"settings": cells})

    async def diagnosis(self, request: Request) -> Response:
        """What ``diagnose`` says of a run: made again when there are new records; by a POST also if it failed."""
        run = self._run(request)
        arguments = ["-m", "ssltool", "diagnose", str(run.path), "--json"]
        again = request.method == "POST"
        return _json(self.jobs.want(f"diagnose {run.id}", str(run.row["size"]), arguments, again=again).as_dict())

    async def measure(self, request: Request) -> Response:
        """Spectra of the checkpoints, neighbours and views. A POST starts to measure; a GET tells what is known."""
        run = self._run(request)
        name, known = f"measure {run.id} {run.since}", run.measured
        job = self.jobs.get(name)
        if job is not None and job.result is not None:
            known |= {_position(one): one for one in job.result["checkpoints"]}
        if request.method == "POST":
            arguments = ["-m", "ssltool.stages.watch.measuring", str(run.path), *map(str, sorted(known))]
            version = str(run.row["at"])
            self.jobs.want(name, version, arguments, again=True)
            job = self.jobs.get(name)
        found: Record = {"state": "none", "result": None, "error": ""} if job is None else job.as_dict()
        found["version"] = None if job is None else job.version
        if (result := found["result"]) is not None:
            found["result"] = {**result, "checkpoints": [known[at] for at in sorted(known)]}
        return _json(found)

    async def rank(self, request: Request) -> Response:
        """What ``ssltool rank`` says of those of the runs ``ids`` that a monitor looked at, or with ``checkpoints`` of
        all checkpoints that they kept. A POST starts it; a GET tells what is known."""
        ids = request.query_params.get("ids", "").split(",")[:MOST_AT_ONCE]
        runs = [run for name in ids if (run := self.index.runs.get(name)) is not None and run.row["judged"] is not None]
        if not runs:
            return _json(
                {"state": "failed", "result": None, "error": "the monitor has looked at none of these runs yet"}
            )
        checkpoints = ["--checkpoints"] if request.query_params.get("checkpoints") else []
        name = " ".join(["rank", *checkpoints, *(run.id for run in runs)])
        job = self.jobs.get(name)
        if request.method == "POST":
            arguments = ["-m", "ssltool", "rank", *checkpoints, *(str(run.path) for run in runs), "--json"]
            version = " ".join(str(run.row["judged"]) for run in runs)
            job = self.jobs.want(name, version, arguments, again=True)
        return _json(_ranked(job, runs))

    def _run(self, request: Request) -> WatchedRun:
        run = self.index.runs.get(request.path_params["id"])
        if run is None:
            raise HTTPException(404)
        return run


def application(index: RunIndex, *, every: float, host: str | None = None, token: str | None = None) -> Starlette:
    """The application; ``host`` is the address that it listens on, None for this machine only."""
    watch = Watch(index, every)
    routes = [
        Route("/", watch.page),
        Route("/static/{name}", watch.file),
        Route("/api/runs", watch.runs),
        Route("/api/curves", watch.curves),
        Route("/api/rank", watch.rank, methods=["GET", "POST"]),
        Route("/api/runs/{id}", watch.run),
        Route("/api/runs/{id}/diagnosis", watch.diagnosis, methods=["GET", "POST"]),
        Route("/api/runs/{id}/measure", watch.measure, methods=["GET", "POST"]),
    ]
    middleware = [
        Middleware(partial(Guard, host=host, token=token)),  # type: ignore[arg-type]
    ]
    return Starlette(routes=routes, middleware=middleware, lifespan=watch.lifespan)


class CurvesDocuments:
    """The last few documents of curves, compressed: many clients ask for the same one."""

    def __init__(self, most: int = 16) -> None:
        self.most = most
        self._known: dict[tuple[object, ...], bytes] = {}

    def read(self, runs: Sequence[WatchedRun]) -> bytes:
        """The curves of the runs as JSON by gzip, after reading on for ``BUDGET`` seconds in all."""
        deadline = time.monotonic() + BUDGET
        complete = all([run.read(deadline - time.monotonic()) for run in runs])
        key = (complete, *(run.curves for run in runs))
        found = self._known.pop(key, None) or gzip.compress(self._compose(runs, complete).encode(), compresslevel=1)
        self._known[key] = found
        while len(self._known) > self.most:
            self._known.pop(next(iter(self._known)))
        return found

    def _compose(self, runs: Sequence[WatchedRun], complete: bool) -> str:
        layers = {name: style for run in runs for name, style in run.layers.items()}
        panels = [dataclasses.asdict(curve) for curve in (LOSS, *curves_of_layers(layers or LAYERS))]
        head = to_json({"complete": complete, "layers": layers, "panels": panels})
        return f'{head[:-1]}, "runs": [{", ".join(filter(None, (run.curves for run in runs)))}]}}'


def _ranked(job: Job | None, runs: Sequence[WatchedRun]) -> Record:
    """The order of runs or checkpoints, and why; the rows have the ids of their runs."""
    if job is None:
        return {"state": "none", "result": None, "error": ""}
    found = job.as_dict()
    if (result := found["result"]) is None:
        return found
    ids = {str(run.path): run.id for run in runs}
    keys = ("rank", "run", "epoch", "step", "verdict", "knn")
    rows = [
        {"id": ids.get(row["path"]) or ids.get(os.path.dirname(row["path"])), "value": row.get(result["by"])}
        | {key: one_line(row[key], 200) if isinstance(row.get(key), str) else row.get(key) for key in keys}
        for row in result["rows"]
    ]
    why = f"By {result['by']} of the {result['layer']}, {result['order']}. {METRICS[result['by']].interpretation}"
    notes = [one_line(note) for note in result["notes"]]
    return found | {"result": {"by": result["by"], "why": why, "rows": rows, "notes": notes}}


def _position(one: Record) -> int:
    return int(one.get("epoch") or one.get("step") or 0)


def _compressed(request: Request, document: bytes) -> Response:
    """A JSON document that was compressed by gzip once for all clients."""
    headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    if "gzip" not in request.headers.get("accept-encoding", ""):
        document, headers = gzip.decompress(document), {}
    return Response(document, media_type="application/json", headers=headers)


def _json(document: Record) -> Response:
    return Response(to_json(document), media_type="application/json")
