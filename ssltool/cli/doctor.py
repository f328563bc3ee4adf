"""``ssltool doctor``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import DoctorConfig
from ssltool.errors import SSLToolError, counted
from ssltool.settings import Record

GIB = 2**30


@click.command("doctor", cls=Command)
@click.argument("folders", metavar="[FOLDERS...]", nargs=-1)
@settings(DoctorConfig, positional=("folders",))
@json_option
def command(config: DoctorConfig, as_json: bool) -> None:
    """Check this installation and this machine, and measure how fast they are.

    It imports the required packages, lists the optional ones and what each gives, describes processor, memory and
    devices, writes a file into the current folder, the temporary one and FOLDERS, and measures a matrix product, the
    views of JPEG files and a short training. It exits with 1 if something does not work.

    \b
    ssltool doctor
    ssltool doctor /data /runs
    ssltool doctor --json > doctor.json
    """
    from ssltool.stages.doctor import run

    found = run(config)
    emit(found, _text(found), as_json)
    if found["problems"]:
        raise SSLToolError(f"{counted(len(found['problems']), 'problem')}; see 'problem' in the output for what to do")


def _text(found: Record) -> str:
    parts = [
        table(_machine(found)),
        table([[p["name"], p["version"], p["problem"] or "works"] for p in found["packages"]], ["package", "", ""]),
        table([[e["name"], _present(e), e["gives"]] for e in found["extras"]], ["extra", "", "what it gives"]),
        table([_folder(one) for one in found["folders"]], ["folder", "GiB free", "MB/s", ""]),
    ]
    if found["speed"] is not None:
        header = ["speed", "here", "unit", "reference", "ratio"]
        rows = [[s["name"], s["value"], s["unit"], s["reference"], s["ratio"]] for s in found["speed"]["measured"]]
        parts.append(table(rows, header) + f"\nreference: {found['speed']['reference_machine']}")
    ends = [["note:", text] for text in found["notes"]] + [["problem:", text] for text in found["problems"]]
    parts.append(table(ends) if ends else "no problems")
    return "\n\n".join(parts)


def _machine(found: Record) -> list[list[str]]:
    cpu, memory, python = found["cpu"], found["memory"], found["python"]
    limit = "" if memory["limit_bytes"] is None else f"; this process may use {memory['limit_bytes'] / GIB:.1f}"
    rows = [
        ["ssltool", f"{found['ssltool']}, {found['path']}"],
        ["Python", f"{python['version']}, {python['path']}"],
        ["system", found["system"]],
        ["processor", f"{cpu['model']}; {cpu['cores']} of {counted(cpu['machine_cores'], 'core')}"],
        ["features", " ".join(cpu["features"]) or "none of those that matter here"],
        ["memory", f"{_gib(memory['bytes'])} GiB, {_gib(memory['available_bytes'])} available{limit}"],
        ["/dev/shm", f"{_gib(memory['shared_free_bytes'])} GiB free"],
        ["open files", "?" if found["open_files"] is None else f"{found['open_files']:,}"],
        *(["GPU", f"{one['name']}, {_gib(one['bytes'])} GiB, {one['capability']}"] for one in found["devices"]),
    ]
    if found["torch"] is not None:
        torch = found["torch"]
        rows.append(["torch", f"{counted(torch['threads'], 'thread')}, built for {torch['built_for']}"])
        rows.append(["--device auto", torch["device"]])
        rows.append(["--precision auto", torch["precision"]])
    rows.append(["set", " ".join(f"{k}={v}" for k, v in found["environment"].items()) or "no variable that matters"])
    return rows


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.1f}"


def _present(extra: Record) -> str:
    if extra["present"]:
        return ", ".join(str(version) for version in extra["packages"].values())
    return f"pip install 'ssltool[{extra['name']}]'"


def _folder(one: Record) -> list[str | float | None]:
    free = None if one["free_bytes"] is None else round(one["free_bytes"] / GIB, 1)
    return [one["path"], free, one["mb_per_second"], one["problem"] or "can be written"]
