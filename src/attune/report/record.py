"""The run's record: run.json, and the table at the end of a run.

A panel is a set of utterances that is scored before and after: `test` (the target), `test@full` (the same utterances in
Whisper's whole 30 s window) or `retention/NAME` (something that should not be forgotten).
"""

import hashlib
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from attune.errors import InputError
from attune.train.files import write_atomically

SCHEMA_VERSION = 1
PACKAGES = ("attune", "torch", "torchaudio", "transformers", "lightning", "peft", "datasets", "torchmetrics")
# Of a config: who a run is and where it tells of itself, not what it computes.
NOT_COMPUTED = ("name", "folder", "resume", "choices", "logger")

Panel = dict[str, Any]  # a PanelScore as a dict; a number that does not exist is None


@dataclass(kw_only=True)
class RunRecord:
    """run.json. Rates are fractions, durations are seconds, memory is 10^9 bytes; `baseline` is the untouched model."""

    schema_version: int = SCHEMA_VERSION
    name: str
    seed: int
    config: dict[str, Any]
    git: dict[str, Any] | None = None  # commit, dirty
    versions: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)  # total, trainable, added
    context: str = "full"
    splits: dict[str, dict[str, float]] = field(default_factory=dict)  # split: utterances, minutes; after the audit
    # With data.in_context: examples (asked for before each utterance), utterances, given, left_out.
    in_context: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, Panel] = field(default_factory=dict)
    result: dict[str, Panel] = field(default_factory=dict)
    # steps, seconds, utterances_per_second, audio_seconds_per_second, peak_memory_gb, energy_kj, mfu,
    # first_step_after_s
    train: dict[str, float | None] = field(default_factory=dict)
    evaluate: dict[str, float | None] = field(default_factory=dict)  # seconds, utterances_per_second
    # Of a run with interpolate=[...]: chosen, rule, judged (panels), points [{alpha, wer {panel: fraction}}]
    interpolation: dict[str, Any] | None = None
    # Of a run with a vocabulary: source, terms, spoken, prompt {kind, dropped}, bias, and where validation chose it
    # tuning [{bias, f1, recall, unbiased_wer, wer}] and rule
    vocabulary: dict[str, Any] = field(default_factory=dict)
    # Of the objective: unit and validation_unit of the logged losses, monitored (what the kept weights have the least
    # of); {} where there is none, and in records from before it was written
    loss: dict[str, str] = field(default_factory=dict)
    normaliser: str | None = None  # of the words that WER counts; None in records from before it was written
    # What the run was foreseen to need at its fullest moment: parameters, gradients, optimiser, activations, logits,
    # process, total; and available
    memory: dict[str, float] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)  # reason: utterances
    # hours, speakers {split}, sampling_rates_hz {split}, findings {severity {rule: rows}}, shared {split}
    audit: dict[str, Any] = field(default_factory=dict)
    # missing: planned in a sweep and never begun, or unreadable; no run.json says so
    status: Literal["running", "finished", "failed", "interrupted", "missing"] = "running"
    error: str | None = None


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write run.json, atomically: whoever reads it meets the old record or the new one, never half of one."""
    text = json.dumps(_to_json(asdict(record)), indent=2, ensure_ascii=False, allow_nan=False)
    return write_atomically(folder / "run.json", text + "\n")


def read_record(folder: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises:
        InputError: run.json is missing, is not JSON, or has another schema than this attune writes.
    """
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is not a run: it holds no run.json. Accepted: a folder train.py wrote.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}. Accepted: the run.json that train.py wrote.") from None
    _check_schema(path, content)
    return RunRecord(**content)


def hash_config(config: Mapping[str, Any]) -> str:
    """The same for two configs that compute the same, seed included; whatever the runs are called."""
    told = {key: value for key, value in config.items() if key not in NOT_COMPUTED}
    text = json.dumps(_to_json(told), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]


def collect_versions() -> dict[str, str]:
    """The versions that decide what a run computes; "not installed" where a package is absent."""
    return {"python": platform.python_version()} | {package: _find_version(package) for package in PACKAGES}


def collect_git(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository around `folder`, and whether its files differ from it; None where there is no commit.

    `dirty` is true as well where git did not say: a record may not claim more than is known.
    """
    commit = _ask_git(folder, "rev-parse", "HEAD")
    status = _ask_git(folder, "status", "--porcelain") if commit else None
    return {"commit": commit, "dirty": status != ""} if commit else None


def result_table(record: RunRecord) -> Table:
    """One row a panel: WER in % with its 95 % interval, before and after. In 80 columns the interval wraps."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=_describe_interval(record))
    table.add_column("panel", overflow="fold", no_wrap=True)
    for heading in ("utts", "words"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("WER % before", "WER % after"):
        table.add_column(heading, justify="right")
    table.add_column("change", justify="right", no_wrap=True)
    table.add_column("S/D/I after", justify="right", no_wrap=True)
    for name in dict.fromkeys([*record.baseline, *record.result]):
        table.add_row(Text(name), *_to_cells(record.baseline.get(name, {}), record.result.get(name, {})))
    return table


def list_panels(record: RunRecord) -> list[str]:
    """What was scored, before or after."""
    return list(dict.fromkeys([*record.baseline, *record.result]))


def compute_change(before: Panel, after: Panel) -> float | None:
    """WER after minus WER before, a fraction: below zero is better. None where one of them does not exist."""
    return after["wer"] - before["wer"] if is_known(before.get("wer"), after.get("wer")) else None


def is_clear(before: Panel, after: Panel) -> bool:
    """Whether the two 95 % intervals are apart. Cautious: the utterances are the same, and a paired test sees more."""
    earlier, later = list(before.get("wer_ci95") or ()), list(after.get("wer_ci95") or ())
    if not is_known(*earlier) or not is_known(*later):
        return False
    return later[1] < earlier[0] or earlier[1] < later[0]


def format_percent(fraction: float | None) -> str:
    return f"{100 * fraction:.1f}" if fraction is not None and is_known(fraction) else "n/a"


def format_interval(panel: Panel) -> str:
    """[lower–upper] in %, or "" where no interval was computed."""
    interval = panel.get("wer_ci95") or ()
    return f"[{'–'.join(map(format_percent, interval))}]" if is_known(*interval) else ""


def is_known(*values: float | None) -> bool:
    """Numbers, and at least one: a rate that does not exist is NaN in memory and None in a record that was read."""
    return bool(values) and all(value is not None and math.isfinite(value) for value in values)


def _to_json(value: Any) -> Any:
    """Only what JSON has: NaN and infinity become null, paths and other objects their text."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_json(item) for item in value]
    if hasattr(value, "item"):  # a numpy or torch scalar
        return _to_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _check_schema(path: Path, content: Any) -> None:
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {found!r}; this attune reads {SCHEMA_VERSION}. "
            "Read it with the attune that wrote it, or run again."
        )
    known = {column.name for column in fields(RunRecord)}
    required = {"name", "seed", "config"}
    if not required <= content.keys() <= known:
        raise InputError(
            f"{path} is not a record: missing {sorted(required - content.keys())}, "
            f"unknown {sorted(content.keys() - known)}. Accepted: {', '.join(sorted(known))}."
        )


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _ask_git(folder: Path, *question: str) -> str | None:
    # No optional locks: the runs of a sweep start together and would meet at git's index.
    command = ["git", "--no-optional-locks", "-C", str(folder), *question]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _to_cells(before: Panel, after: Panel) -> Iterable[Text]:
    panel = after or before
    for count in ("utterances", "words"):
        yield Text(str(panel.get(count, "n/a")))
    for scored in (before, after):
        # One space: on a narrow terminal the interval moves to a second line, as a whole.
        yield Text.assemble(format_percent(scored.get("wer")), " ", (format_interval(scored), "dim"))
    change = compute_change(before, after)
    colour = ("green" if (change or 0) < 0 else "red") if is_clear(before, after) else ""
    yield Text("n/a" if change is None else f"{100 * change:+.1f}", style=colour)
    yield Text("/".join(str(after.get(kind, "–")) for kind in ("substitutions", "deletions", "insertions")))


def _describe_interval(record: RunRecord) -> str:
    units = {panel["ci_unit"] for panel in record.result.values() if panel.get("ci_unit")}
    resampled = f" (resampled by {' or '.join(sorted(units))})" if units else ""
    return f"95 % intervals{resampled}; a coloured change is one whose intervals are apart; S/D/I count words"
