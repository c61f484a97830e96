"""What a list of terms did, as a person reads it: in a run's last lines, on its page and in an ablation's table."""

from collections.abc import Sequence
from typing import Any

from attune.report.predictions import PredictionRow
from attune.report.record import Panel, RunRecord, format_percent
from attune.text.counted import count_of

DROPPED_SHOWN = 5


def describe_list(vocabulary: dict[str, Any]) -> str:
    """Which list a run has, what it was spoken for, and which terms have no room in a prompt."""
    parts = [f"terms: {vocabulary['terms']} of {vocabulary['source']}"]
    if vocabulary.get("spoken"):
        parts.append(f"{count_of(vocabulary['spoken'], 'synthetic utterance')} of them to learn from")
    dropped = vocabulary.get("prompt", {}).get("dropped", [])
    if dropped:
        named = ", ".join(dropped[:DROPPED_SHOWN]) + (", ..." if len(dropped) > DROPPED_SHOWN else "")
        parts.append(
            f"a prompt has room for {vocabulary['terms'] - len(dropped)} of them, and these are left out: {named} "
            "(vocabulary.prompt=found chooses for each utterance)"
        )
    return "; ".join(parts)


def describe_terms(record: RunRecord) -> str:
    """What became of the terms on the target; "" without a list, or where none was said."""
    before, after = find_terms(record.baseline, "test"), find_terms(record.result, "test")
    if not before or not after or not after["said"]:
        return ""
    recall = f"{format_percent(before['recall'])} → {format_percent(after['recall'])} %{_describe_interval(after)}"
    bias = record.vocabulary.get("bias")
    chosen = f"; bias {bias:g}" if bias is not None else ""
    changes = [_describe_change(before, after, key) for key in ("precision", "biased_wer", "unbiased_wer")]
    return (
        f"Terms on the target: recall {recall} of {after['said']} said, precision {changes[0]}, "
        f"{after['false_insertions']} written and not said (before: {before['false_insertions']}); WER of their words "
        f"{changes[1]}, of all others {changes[2]}{chosen}."
    )


def find_terms(panels: dict[str, Panel], name: str) -> dict[str, Any]:
    """A panel's measures of terms; {} where there was no list."""
    return (panels.get(name) or {}).get("terms") or {}


def list_term_panels(record: RunRecord) -> list[dict[str, Any]]:
    """One entry a panel for the page: what was measured before and after."""
    names = dict.fromkeys([*record.baseline, *record.result])
    rows = [(name, find_terms(record.baseline, name), find_terms(record.result, name)) for name in names]
    return [{"name": name, "before": before, "after": after} for name, before, after in rows if before and after]


def choose_missed(record: RunRecord, panel: str, rows: Sequence[PredictionRow]) -> list[PredictionRow]:
    """The utterances in which most terms were said and not written, as the record names them."""
    by_id = {row.id: row for row in rows}
    missed = find_terms(record.result, panel).get("missed", {})
    return [by_id[id] for id in missed if id in by_id]


def _describe_change(before: dict[str, Any], after: dict[str, Any], key: str) -> str:
    return f"{format_percent(before[key])} → {format_percent(after[key])} %"


def _describe_interval(terms: dict[str, Any]) -> str:
    ends = terms.get("recall_ci95")
    return f" [{format_percent(ends[0])}–{format_percent(ends[1])}]" if ends else ""
