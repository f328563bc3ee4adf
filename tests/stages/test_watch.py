"""``watch``: records that grow, the index of runs, and the server of the page; also hostile files and requests."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ssltool.config import WatchConfig
from ssltool.errors import SSLToolError, UsageError
from ssltool.runs.lock import NAME, RunLock
from ssltool.stages.watch import serve
from ssltool.stages.watch.app import application
from ssltool.stages.watch.decimated import DecimatedCurves, Stretches
from ssltool.stages.watch.follow import BLOCK, Follower
from ssltool.stages.watch.guard import host_name
from ssltool.stages.watch.jobs import Job, Jobs
from ssltool.stages.watch.run_index import RunIndex
from ssltool.stages.watch.status_table import HEADER, rows_of

TOKEN = "a-token_of_16_characters"


def record(epoch: int, **values: object) -> str:
    """A line of ``metrics.jsonl``."""
    return json.dumps({"epoch": epoch, "step": 10 * epoch, "loss": 1.0 / (epoch + 1), "seconds": 2.0, **values}) + "\n"


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder below ``tmp_path``: ``make_run(name, lines, **settings) -> Path``."""

    def make(name: str = "run", lines: str = "", **settings: object) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = {"stage": "pretrain", "method": "simsiam", "arch": "resnet18", "epochs": 4, "method_options": {}}
        (folder / "config.json").write_text(json.dumps(config | settings))
        (folder / "metrics.jsonl").write_text(lines)
        return folder

    return make


def client(folder: Path, **settings: object) -> TestClient:
    """A client of the page of the runs in a folder."""
    index = RunIndex([str(folder)])
    index.refresh()
    return TestClient(application(index, every=60, **settings), base_url="http://localhost")


def test_a_decimated_curve_is_bounded_and_keeps_the_extremes():
    curves = DecimatedCurves(most=10)
    values = [float((37 * i) % 101) for i in range(1000)]
    curves.extend(range(1000), [{"loss": value} for value in values])
    assert 10 <= len(curves.x) <= 20
    edges = [*map(int, curves.x), 1000]
    parts = [values[a:b] for a, b in pairwise(edges)]
    assert curves.low["loss"] == [min(part) for part in parts]
    assert curves.high["loss"] == [max(part) for part in parts]


def test_a_curve_is_the_same_in_one_piece_and_record_by_record():
    records = [{"loss": float(i % 7), **({"auc": i / 2} if i % 3 == 0 else {})} for i in range(300)]
    whole, single = DecimatedCurves(most=8), DecimatedCurves(most=8)
    whole.extend(range(300), records)
    for i, one in enumerate(records):
        single.extend([i], [one])
    assert whole.as_dict(["loss", "auc"]) == single.as_dict(["loss", "auc"])


def test_records_of_a_training_that_resumed_earlier_replace_those_that_followed():
    curves, verdicts = DecimatedCurves(), Stretches()
    curves.extend([1, 2, 3, 2, 3], [{"loss": value} for value in (1.0, 2.0, 3.0, 20.0, 30.0)])
    for at, state in [(1, "healthy"), (2, "partial"), (3, "complete"), (2, "healthy")]:
        verdicts.add(at, state)
    assert (curves.x, curves.low["loss"]) == ([1, 2, 3], [1.0, 20.0, 30.0])
    assert verdicts.starts == [(1, "healthy")]


def test_a_file_that_grows_is_read_once_and_a_replaced_one_again(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(record(0) + record(1)[:10])
    follower = Follower(file)
    assert follower.read(9) and follower.count == 1
    file.write_text(record(0) + record(1) + record(2))
    assert follower.read(9) and follower.count == 3
    assert follower.curves.x == [1, 2, 3]
    other = tmp_path / "other"
    other.write_text(record(0, loss=9.0))
    other.replace(file)
    assert follower.read(9) and follower.count == 1
    assert follower.curves.low["loss"] == [9.0]


HOSTILE = [
    "no json",
    "[" * 100_000,
    '{"epoch": "1"}',
    '{"epoch": true}',
    '{"epoch": -1}',
    '{"epoch": 1e3}',
    "[1, 2]",
    "null",
    '{"epoch": 1},{"epoch": 2}',
    "x" * (3 * BLOCK),
    '{"epoch": ' + "9" * 400 + "}",
]


def test_what_is_no_record_is_left_out_and_counted(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(record(0) + "\n".join(HOSTILE) + "\n" + record(1, loss=float("nan"), huge=10**400, text="<b>"))
    follower = Follower(file)
    assert follower.read(60)
    assert (follower.count, follower.malformed) == (2, len(HOSTILE))
    assert follower.curves.low["loss"] == [1.0, None]
    last, judged = follower.last()
    assert last["epoch"] == 1 and not judged


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing"])
def test_only_regular_files_in_the_folder_are_read(tmp_path, make_run, kind):
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text(record(0, loss=4242.125))
    run = make_run()
    file = run / "metrics.jsonl"
    file.unlink()
    make = {"link": lambda: file.symlink_to(secret), "pipe": lambda: os.mkfifo(file), "folder": file.mkdir}
    make.get(kind, lambda: None)()
    follower = Follower(file)
    assert follower.read(9) and follower.count == 0 and follower.last() == ({}, {})
    with client(tmp_path) as page:
        assert "4242.125" not in page.get("/api/runs").text


def test_folders_behind_links_are_no_runs(tmp_path, make_run):
    inside, outside = tmp_path / "inside", make_run("outside", record(0))
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    index = RunIndex([str(inside)])
    index.refresh()
    assert not index.runs


def test_new_runs_and_records_change_the_document_and_nothing_is_written(tmp_path, make_run):
    first = make_run("first", record(0, verdict="healthy", backbone_auc=0.6), lr=0.1)
    index = RunIndex([str(tmp_path)])
    index.refresh()
    version = index.version
    index.refresh()
    assert index.version == version
    make_run("second", record(0, verdict="partial", kinds="dimensional"), lr=0.2)
    with open(first / "metrics.jsonl", "a") as stream:
        stream.write(record(1))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    index.refresh()
    rows = {row["name"]: row for row in index.contents["runs"]}
    assert index.version == version + 1
    assert (rows["first"]["at"], rows["first"]["judged"], rows["first"]["values"]["backbone_auc"]) == (2, 1, 0.6)
    assert (rows["second"]["verdict"], rows["second"]["kinds"]) == ("partial", "dimensional")
    assert index.contents["differing"] == ["lr"] and rows["second"]["settings"]["lr"] == 0.2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_running_finished_stopped_and_dead_runs_are_told_apart(tmp_path, make_run):
    lines = record(0) + record(1)
    running, dead = make_run("running", lines), make_run("dead", lines)
    make_run("stopped", lines)
    make_run("finished", lines, epochs=2)
    with RunLock(dead):
        held = (dead / NAME).read_text()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    (dead / NAME).write_text(json.dumps(json.loads(held) | {"pid": ended.pid}))
    monitored = make_run("monitored", json.dumps({"step": 5, "loss": 1.0}) + "\n")
    config = {"stage": "monitor", "layers": ["head"], "widths": {"head": 8}, "bounds": {}, "n_images": 9}
    (monitored / "config.json").write_text(json.dumps(config))
    os.utime(monitored / "metrics.jsonl", (time.time() - 9999,) * 2)
    with RunLock(running):
        index = RunIndex([str(tmp_path)])
        index.refresh()
    rows = {row["name"]: row for row in index.contents["runs"]}
    expected = {name: name for name in ("running", "dead", "stopped", "finished")} | {"monitored": "no news"}
    assert {name: row["state"] for name, row in rows.items()} == expected
    assert rows["running"]["ends"] == pytest.approx(rows["running"]["changed"] + 2 * 2.0, abs=2)
    assert (rows["monitored"]["layer"], rows["monitored"]["at"]) == ("head", 5)
    assert all(len(row) == len(HEADER) for row in rows_of(index.contents))
    late = rows["monitored"] | {"at": 1234567}
    assert rows_of({"runs": [late]})[0][HEADER.index("at")] == "1234567"


def test_a_running_epoch_shows_how_far_it_is_and_a_file_that_says_something_else_is_ignored(tmp_path, make_run):
    folder = make_run("run", record(0, images_per_second=50.0) + record(1))
    told = {"epoch": 2, "epoch_step": 3, "steps": 12, "loss": 0.25, "images_per_second": 70.0, "seconds_left": 600.0}
    (folder / "progress.json").write_text(json.dumps(told))
    index = RunIndex([str(tmp_path)])

    def row() -> dict:
        index.refresh()
        (run,) = index.runs.values()
        return run.row

    assert row()["within"] == 0  # no process trains
    with RunLock(folder):
        now = row()
        assert (now["at"], now["within"]) == (2, 0.25)
        assert (now["values"]["loss"], now["values"]["images_per_second"]) == (0.25, 70.0)
        assert now["ends"] == pytest.approx((folder / "progress.json").stat().st_mtime + 600, abs=1)
        assert rows_of({"runs": [now]})[0][HEADER.index("at")] == "2.25/4"
        damaged = [
            {"epoch": 1},
            {"epoch_step": 13},
            {"steps": 0},
            {"seconds_left": "x"},
            {"loss": "<b>"},
            {"steps": None},
        ]
        for change in damaged:
            (folder / "progress.json").write_text(json.dumps(told | change))
            assert row()["within"] == (0.25 if "loss" in change else 0)
        for text in ("[]", "{", "\0", "9" * 5000):
            (folder / "progress.json").write_text(text)
            assert row()["within"] == 0
        (folder / "progress.json").unlink()
        (folder / "progress.json").symlink_to(folder / "config.json")
        assert row()["within"] == 0


def test_the_page_serves_its_files_and_documents_and_forbids_everything_else(tmp_path, make_run):
    make_run(lines="".join(record(i, backbone_auc=0.5) for i in range(3)))
    with client(tmp_path) as page:
        answers = [page.get(path) for path in ("/", "/static/watch.js", "/static/page.css", "/api/runs")]
        assert [answer.status_code for answer in answers] == [200] * 4
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
        assert (
            "<script>" not in answers[0].text and " style=" not in answers[0].text and " onclick" not in answers[0].text
        )
        found = answers[-1].json()
        assert page.get("/api/runs", params={"seen": found["version"]}).status_code == 204
        name = found["runs"][0]["id"]
        curves = page.get("/api/curves", params={"ids": f"{name},nobody"}).json()
        assert curves["complete"] and [run["x"] for run in curves["runs"]] == [[1, 2, 3]]
        assert page.get(f"/api/runs/{name}").json()["settings"]["arch"] == "resnet18"
        assert page.post("/api/rank", params={"ids": name}).json()["state"] == "failed"  # without a verdict


PATHS = [
    *("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/app.py"),
    *("/api/runs/..%2f..%2fetc", "/api/runs/%2Fetc%2Fpasswd", "/api/runs/x/diagnosis", "/config.json", "//etc/passwd"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_address_leads_to_another_file(tmp_path, make_run, path):
    make_run()
    with client(tmp_path) as page:
        answer = page.get(path)
        assert answer.status_code == 404 and "root" not in answer.text


def test_requests_that_name_another_host_or_come_from_another_site_are_refused(tmp_path, make_run):
    make_run()
    with client(tmp_path) as page:
        foreign = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80@evil", "")
        assert [page.get("/api/runs", headers={"host": host}).status_code for host in foreign] == [421] * 5
        ours = ("localhost", "LOCALHOST:8765", "127.0.0.1:1", "[::1]:8765")
        assert [page.get("/api/runs", headers={"host": host}).status_code for host in ours] == [200] * 4
        name = page.get("/api/runs").json()["runs"][0]["id"]
        answer = page.post(f"/api/runs/{name}/measure", headers={"origin": "http://evil.example"})
        assert answer.status_code == 403


def test_a_token_is_needed_once_and_is_not_left_in_the_address(tmp_path, make_run):
    make_run()
    with client(tmp_path, host="0.0.0.0", token=TOKEN) as page:
        for path in ("/", "/api/runs", "/static/watch.js", "/?token=wrong", f"/api/runs?token={TOKEN}"):
            assert page.get(path).status_code == 401
        assert page.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        answer = page.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert {"httponly", "samesite=strict"} <= set(answer.headers["set-cookie"].lower().split("; "))
        assert page.get("/api/runs").status_code == 200
        assert page.get("/api/runs", headers={"host": "192.0.2.7:8765"}).status_code == 200
        assert page.get("/api/runs", headers={"host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a:80", "a"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("a:b", None),
        ("[::1", None),
        ("[::1]x", None),
        (":80", None),
    ],
)
def test_host_headers(given, name):
    assert host_name(given) == name


def test_text_of_files_stays_text(tmp_path, make_run):
    evil = "</script><img src=x onerror=alert(1)>\u202e"
    make_run("<img src=x>", record(0, verdict=evil, kinds=evil, **{evil: 1.0}), arch=evil, method_options={evil: evil})
    make_run("other", "")
    with client(tmp_path) as page:
        answer = page.get("/api/runs")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["runs"][0]["verdict"] is None
        assert "\u202e" not in json.dumps(answer.json(), ensure_ascii=False)
        assert evil not in page.get("/").text


def test_the_log_of_another_program_is_watched_and_read_again_when_it_grows(tmp_path):
    log = tmp_path / "losses.csv"
    rows = ["epoch,loss,lr", *(f"{i},{1 / (i + 1)},0.1" for i in range(5))]
    log.write_text("\n".join(rows) + "\n")
    index = RunIndex([str(log)])
    index.refresh()
    (run,) = index.runs.values()
    assert run.read(1) and run.follower.curves.low["loss"] == pytest.approx([1 / (i + 1) for i in range(5)])
    assert (run.row["state"], run.row["at"], run.row["values"]["lr"]) == ("running", 4, 0.1)
    log.write_text("\n".join([*rows, "5,0.01,0.1"]) + "\n")
    index.refresh()
    assert run.follower.count == 6 and run.row["values"]["loss"] == 0.01
    (tmp_path / "other.bin").write_bytes(b"\0\1\2")
    with pytest.raises(SSLToolError):
        RunIndex([str(tmp_path / "other.bin")])


def test_settings_that_would_open_the_page_to_others_or_have_no_effect_are_refused(tmp_path):
    with pytest.raises(SSLToolError, match="nowhere"):
        RunIndex(["nowhere"])
    for wrong in ({"host": "0.0.0.0"}, {"token": "short"}, {"token": "ü" * 20}, {"terminal": True, "port": 1}):
        with pytest.raises(UsageError):
            WatchConfig(runs=(str(tmp_path),), **wrong).check()
    with pytest.raises(SSLToolError, match="another --port"):
        serve.listen("192.0.2.1", 0)


def test_the_terminal_shows_the_runs_once_where_it_is_none(ssltool, tmp_path, make_run):
    make_run("mine", record(0, verdict="complete", kinds="complete"))
    shown = ssltool("watch", tmp_path, "--terminal")
    assert "mine" in shown.out and "1/4" in shown.out and "complete" in shown.out
    assert json.loads(ssltool("watch", tmp_path, "--json").out)["runs"][0]["name"] == "mine"


def test_the_server_starts_without_torch_and_numpy():
    program = (
        "import sys, ssltool.stages.watch.serve, ssltool.stages.watch.app; "
        "sys.exit(str([m for m in ('torch', 'numpy', 'matplotlib', 'pandas') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.stderr.strip() == "[]"


def test_a_diagnosis_that_failed_is_made_again_when_the_run_is_opened_again(tmp_path, make_run, monkeypatch):
    make_run()
    wanted = []
    monkeypatch.setattr(Jobs, "want", lambda self, *args, again=False: wanted.append(again) or Job([], "1", "failed"))
    with client(tmp_path) as page:
        (run,) = page.get("/api/runs").json()["runs"]
        for ask in (page.post, page.get, page.get, page.post):
            assert ask(f"/api/runs/{run['id']}/diagnosis").json()["state"] == "failed"
    assert wanted == [True, False, False, True]


def test_a_job_that_failed_is_tried_again_when_it_is_asked_for_again(tmp_path):
    async def ask() -> list[str]:
        jobs, states = Jobs(), []
        program = ["-c", f"open({str(tmp_path / 'mounted')!r}).close(); print('{{}}')"]
        for again in (False, False, True):
            jobs.want("a job", "1", program, again=again)
            while jobs.get("a job").state in ("waiting", "working"):
                await asyncio.sleep(0.01)
            states.append(jobs.get("a job").state)
            (tmp_path / "mounted").touch()
        await jobs.close()
        return states

    assert asyncio.run(ask()) == ["failed", "failed", "done"]
