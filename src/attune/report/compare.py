"""Runs beside each other: what differs between them, and the numbers of each run and of the mean over its seeds."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from attune.report.record import RunRecord

NO_SETTING = {"name", "folder", "resume", "seed", "choices"}  # of a config: who a run is, not what it does
ONE_SETTING = "(one setting)"
MEASURED = (
    "train_utterances", "trainable", "wer_before", "wer_after", "wer_low", "wer_high", "cer_after",
    "substitutions", "deletions", "insertions",
    "retention_before", "retention_after", "seconds", "peak_memory_gb", "energy_kj",
    "recall_before", "recall_after", "recall_low", "recall_high", "term_precision", "false_insertions",
    "unbiased_wer_before", "unbiased_wer_after",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of an ablation's table: a run, or the mean over the runs of one setting.

    WER is a fraction, of the panel `test`; `seconds` and energy are inside training steps; memory is 10^9 bytes; None
    is what was not measured. The interval of a mean is the mean of its runs' 95 % intervals: the noise of this test
    set. The noise of the seeds stands apart from it, in `wer_sd`.

    Args:
        setting: the words that differ from other runs, the seed aside: "finetune=lora data.shots=8".
        seed: of a run; "mean of 3".
        runs: how many finished runs are in it.
        is_setting: it stands for its setting: the mean over several seeds, or the only run that finished.
        wer_sd: standard deviation of wer_after over the runs of a mean.
        retention_before, retention_after: WER, the mean over all retention panels.
        to_untouched, to_first: WER less that of the untouched model, and of the first setting, on the same utterances,
            with 95 % interval and p-values; report/differences.py fills them in.
        recall_before, recall_after, term_precision, false_insertions, unbiased_wer_before, unbiased_wer_after: of a
            vocabulary's terms (score/terms.py); None without one.
        error: why the run did not finish.
    """

    setting: str
    seed: str
    status: str
    runs: int
    train_utterances: float | None = None
    trainable: float | None = None
    wer_before: float | None = None
    wer_after: float | None = None
    wer_low: float | None = None
    wer_high: float | None = None
    wer_sd: float | None = None
    retention_before: float | None = None
    retention_after: float | None = None
    seconds: float | None = None
    peak_memory_gb: float | None = None
    energy_kj: float | None = None
    cer_after: float | None = None
    substitutions: float | None = None
    deletions: float | None = None
    insertions: float | None = None
    to_untouched: float | None = None
    to_untouched_low: float | None = None
    to_untouched_high: float | None = None
    to_untouched_p: float | None = None
    to_untouched_p_holm: float | None = None
    to_untouched_mapsswe_p: float | None = None
    to_first: float | None = None
    to_first_low: float | None = None
    to_first_high: float | None = None
    to_first_p: float | None = None
    to_first_p_holm: float | None = None
    to_first_mapsswe_p: float | None = None
    recall_before: float | None = None
    recall_after: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    term_precision: float | None = None
    false_insertions: float | None = None
    unbiased_wer_before: float | None = None
    unbiased_wer_after: float | None = None
    is_setting: bool = False
    folder: str = ""
    error: str | None = None

    @property
    def is_mean(self) -> bool:
        return not self.folder


def make_rows(runs: Sequence[tuple[Path, RunRecord]]) -> list[Row]:
    """The rows of a table: settings in the order of their first runs, of each the mean over several, and every run."""
    settings = describe_settings([record for _, record in runs])
    rows: dict[str, list[Row]] = defaultdict(list)
    for (folder, record), setting in zip(runs, settings, strict=True):
        rows[setting].append(_measure(folder, record, setting))
    return [row for group in rows.values() for row in _stand_for(group)]


def _measure(folder: Path, record: RunRecord, setting: str) -> Row:
    before, after = record.baseline.get("test", {}), record.result.get("test", {})
    low, high = after.get("wer_ci95") or (None, None)
    panels = [name for name in record.result if name.startswith("retention/")]
    terms, terms_before = after.get("terms") or {}, before.get("terms") or {}
    recall_low, recall_high = terms.get("recall_ci95") or (None, None)
    return Row(
        setting=setting,
        seed=str(record.seed),
        status=record.status,
        runs=int(record.status == "finished"),
        train_utterances=record.splits.get("train", {}).get("utterances"),
        trainable=record.parameters.get("trainable"),
        wer_before=before.get("wer"),
        wer_after=after.get("wer"),
        wer_low=low,
        wer_high=high,
        retention_before=_mean([record.baseline.get(name, {}).get("wer") for name in panels]),
        retention_after=_mean([record.result[name].get("wer") for name in panels]),
        seconds=record.train.get("seconds"),
        peak_memory_gb=record.train.get("peak_memory_gb"),
        energy_kj=record.train.get("energy_kj"),
        cer_after=after.get("cer"),
        substitutions=after.get("substitutions"),
        deletions=after.get("deletions"),
        insertions=after.get("insertions"),
        recall_before=terms_before.get("recall"),
        recall_after=terms.get("recall"),
        recall_low=recall_low,
        recall_high=recall_high,
        term_precision=terms.get("precision"),
        false_insertions=terms.get("false_insertions"),
        unbiased_wer_before=terms_before.get("unbiased_wer"),
        unbiased_wer_after=terms.get("unbiased_wer"),
        folder=str(folder),
        error=record.error,
    )


def _stand_for(group: Sequence[Row]) -> list[Row]:
    """The rows of one setting, before them the mean over its finished runs where there are two or more."""
    finished = [row for row in group if row.runs]
    if len(finished) < 2:
        return [replace(row, is_setting=bool(row.runs)) for row in group]
    return [_average(finished), *group]


def _average(finished: Sequence[Row]) -> Row:
    means = {name: _mean([getattr(row, name) for row in finished]) for name in MEASURED}
    rates = [row.wer_after for row in finished if row.wer_after is not None]
    spread = stdev(rates) if len(rates) > 1 else None
    return replace(
        finished[0],
        seed=f"mean of {len(finished)}",
        runs=len(finished),
        wer_sd=spread,
        is_setting=True,
        folder="",
        error=None,
        **means,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def describe_settings(records: Sequence[RunRecord]) -> list[str]:
    """Of each run, the words of its config that differ between the runs.

    Where runs took different options of a group, the option's name stands for all that it holds: `finetune=lora`, not
    its rank. An option that follows from another's, as objective=joint_ctc from finetune=ctc, is named where it is not
    what most runs took. A key below a group is a word of its own if runs with the same option differ in it. What
    follows the seed, or another word, by interpolation is none. A run without a config is described by its name.
    """
    described = [record for record in records if record.config]
    choices = [{name: str(option) for name, option in _choices(record).items()} for record in described]
    flat = [dict(_flatten(record.config)) for record in described]
    words: list[list[str]] = [[] for _ in described]
    groups = dict.fromkeys(group for chosen in choices for group in chosen)
    differing = [group for group in groups if len({chosen.get(group) for chosen in choices}) > 1]
    for group in differing:
        usual = _find_usual(choices, group, differing)
        for said, chosen in zip(words, choices, strict=True):
            said += [f"{group}={chosen[group]}"] if chosen.get(group) not in (None, usual) else []
    seen = {tuple(str(record.seed) for record in described)}
    for key in sorted({key for config in flat for key in config}, key=lambda key: (key.count("."), key)):
        values = tuple(config.get(key, "") for config in flat)
        if values not in seen and _differs(key.split(".")[0], values, choices):
            seen.add(values)
            for said, config in zip(words, flat, strict=True):
                said += [f"{key}={config[key]}"] if key in config else []
    settings = iter([" ".join(said) or ONE_SETTING for said in words])
    return [next(settings) if record.config else record.name for record in records]


def _choices(record: RunRecord) -> Mapping[str, Any]:
    return record.config.get("choices") or {}


def _find_usual(choices: Sequence[Mapping[str, str]], group: str, others: Sequence[str]) -> str | None:
    """The option of a group that most runs took, where each option of another group goes with one of this group's, and
    not the other way round; None for a group that was chosen by itself."""
    taken = Counter(chosen.get(group) for chosen in choices)
    for other in others:
        pairs = {(chosen.get(other), chosen.get(group)) for chosen in choices}
        if len(taken) < len({option for option, _ in pairs}) == len(pairs):
            option, count = taken.most_common(1)[0]
            return option if 2 * count > len(choices) else None
    return None


def _differs(group: str, values: Sequence[str], choices: Sequence[Mapping[str, str]]) -> bool:
    """Whether runs that took the same option of a group differ in a value."""
    of_option: dict[str, set[str]] = defaultdict(set)
    for value, chosen in zip(values, choices, strict=True):
        of_option[chosen.get(group, "")].add(value)
    return any(len(found) > 1 for found in of_option.values())


def _flatten(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """("finetune.rank", "8"): the words that a command line would say."""
    for key, value in config.items():
        if not above and key in NO_SETTING:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", _spell(value)


def _spell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_spell, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
