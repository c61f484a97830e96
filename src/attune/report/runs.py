"""The runs that a table is made of: found in folders, planned by a sweep, and each counted once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.errors import InputError
from attune.report.record import RunRecord, hash_config, read_record, write_atomically

PLAN = "sweep.json"
ALSO_NAMED = "also_named.txt"  # in a run's folder: other names under which a sweep has asked for it
Runs = list[tuple[Path, RunRecord]]


def read_runs(folders: Sequence[Path]) -> Runs:
    """Every run in some folders, in the order of their names, then those that a sweep in them planned and never began.

    One whose run.json is damaged, or of another schema, is a failed run that says so.

    Raises:
        InputError: a folder is no run, holds none and plans none.
    """
    runs: Runs = []
    for folder in dict.fromkeys(folders):
        inside = sorted(path.parent for path in folder.glob("*/run.json"))
        found = [(run, _read(run)) for run in ([folder] if (folder / "run.json").is_file() else inside)]
        known = {run.resolve() for run, _ in runs}
        found += _find_missing(folder, {name for run, record in found for name in _list_names(run, record)})
        if not found:
            raise InputError(
                f"{folder} holds no run.json, and no folder in it does. Accepted: run folders that train.py wrote, and "
                "folders of them, such as runs/DATE_TIME_ablation."
            )
        runs += [(run, record) for run, record in found if run.resolve() not in known]
    return runs


def _read(run: Path) -> RunRecord:
    try:
        return read_record(run)
    except InputError as error:
        return RunRecord(name=run.name, seed=0, config={}, status="failed", error=str(error))


def drop_repeats(runs: Runs) -> tuple[Runs, list[str]]:
    """Each config once, seed included: its first finished run, or else its last attempt; and what was left out.

    Two finished runs of one config would count as two seeds, and an attempt that a later one made good is no fault.
    """
    attempts: dict[str, Runs] = {}
    for folder, record in runs:
        key = hash_config(record.config) if record.config else str(folder)
        attempts.setdefault(key, []).append((folder, record))
    kept: Runs = []
    notes: list[str] = []
    for tries in attempts.values():
        finished = [each for each in tries if each[1].status == "finished"]
        kept.append(finished[0] if finished else tries[-1])
        notes += [f"{folder} computes the same as {finished[0][0]}, and is left out." for folder, _ in finished[1:]]
    places = {folder: place for place, (folder, _) in enumerate(runs)}
    return sorted(kept, key=lambda run: places[run[0]]), notes


def write_plan(folder: Path, plan: Mapping[str, Any]) -> Path:
    """Leave in a sweep's folder what it was asked to do: `jobs`, the words of each run, and who is at it."""
    return write_atomically(folder / PLAN, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")


def read_plan(folder: Path) -> dict[str, Any]:
    """What a sweep was asked to do; {} where the folder holds no plan that can be read."""
    try:
        plan = json.loads((folder / PLAN).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) and isinstance(plan.get("jobs"), list) else {}


def count_finished(folder: Path) -> int:
    """How many of a sweep's planned runs have finished."""
    runs = [(run, record) for run, record in _read_all(folder) if record.status == "finished"]
    finished = {name for run, record in runs for name in _list_names(run, record)}
    return sum(name_job(job) in finished for job in read_plan(folder).get("jobs", []))


def find_finished(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The finished run below a folder that has computed what a config says; None where there is none."""
    key = hash_config(config)
    runs = _read_all(folder)
    return next((run for run, each in runs if each.status == "finished" and hash_config(each.config) == key), None)


def note_name(run: Path, name: str) -> None:
    """Remember that a finished run stands for a planned one of another name too: the two compute the same."""
    names = _list_names(run, read_record(run))
    if name not in names:
        write_atomically(run / ALSO_NAMED, "".join(f"{each}\n" for each in [*names[1:], name]))


def _list_names(run: Path, record: RunRecord) -> list[str]:
    try:
        also = (run / ALSO_NAMED).read_text("utf-8").splitlines()
    except OSError:
        also = []
    return [record.name, *also]


def _read_all(folder: Path) -> Runs:
    return [(path.parent, _read(path.parent)) for path in sorted(folder.glob("*/run.json"))]


def name_job(words: Sequence[str]) -> str:
    """The name of the run that a job of a sweep becomes: its swept words, as Hydra's override_dirname joins them."""
    return ",".join(sorted(words))


def _find_missing(folder: Path, names: set[str]) -> Runs:
    """The planned runs that have no folder yet, as records that hold nothing, named as a table names settings."""
    missing: Runs = []
    for job in read_plan(folder).get("jobs", []):
        if name_job(job) in names:
            continue
        seeds = [word.partition("=")[2] for word in job if word.startswith("seed=")]
        setting = sorted(
            (word for word in job if not word.startswith("seed=")), key=lambda word: "." in word.split("=")[0]
        )
        record = RunRecord(
            name=" ".join(setting) or name_job(job),
            seed=int(seeds[0]) if seeds and seeds[0].isdigit() else 0,
            config={},
            status="missing",
            error="never begun; the same command again, or hydra.sweep.dir=" + str(folder) + ", runs what is missing",
        )
        missing.append((folder / name_job(job), record))
    return missing
