"""What a run's numbers say, in words."""

from collections.abc import Mapping
from typing import Any

from attune.report.record import (
    Panel,
    RunRecord,
    compute_change,
    format_interval,
    format_percent,
    is_clear,
    is_known,
    list_panels,
)
from attune.text.counted import count_of

NO_CHANGE = 0.0005  # rounds to 0.0 points of WER


def summarise(record: RunRecord) -> str:
    """One sentence: what fine-tuning gained on the target, and what it forgot. What may be chance is called so."""
    if judged := record.result.get("test", {}).get("pairs"):
        return _describe_judge(judged)
    means = _name_means(record)
    if (record.result.get("test") or record.baseline.get("test", {})).get("words") == 0:
        silent = "Nothing is said in the target's test set, so it has no word error rate"
        return f"{silent}; {_describe_retention(record)}." if means else f"{silent}. Nothing was trained."
    if not means:
        wer = format_percent(record.result.get("test", {}).get("wer"))
        return f"Nothing was trained: the model has a word error rate of {wer} % on the target."
    change = compute_change(record.baseline.get("test", {}), record.result.get("test", {}))
    if change is None:
        return "The target was not scored both before and after, so nothing can be said about what this run gained."
    before, after = record.baseline["test"], record.result["test"]
    target = f"{means} {_describe_change(change, before['wer'])} on the target"
    doubt = "" if abs(change) < NO_CHANGE else _describe_doubt(before, after)
    return f"{target}{doubt}; {_describe_retention(record)}."


def _describe_doubt(before: Panel, after: Panel) -> str:
    if is_clear(before, after):
        return ""
    if format_interval(before) and format_interval(after):
        return ", a change that the 95 % intervals do not tell from chance"
    return ", a change that may be chance: of so few utterances there is no 95 % interval"


def _describe_judge(judged: Mapping[str, Any]) -> str:
    ends, pairs = judged["ordered_ci95"], count_of(judged["pairs"], "pair")
    interval = f" [{'–'.join(map(format_percent, ends))}]" if is_known(*ends) else ""
    return (
        f"The reward model puts {format_percent(judged['ordered'])} %{interval} of {pairs} of the test set in their "
        "order; 50 % would be chance. What it writes itself is no longer of use, unless objective.anchor held it."
    )


def describe_remainder(record: RunRecord) -> str:
    """The WER of the test utterances whose sentence is not learnt, beside the whole; "" where no sentence is shared."""
    before, after = (scores.get("test", {}).get("remainder") for scores in (record.baseline, record.result))
    rest = after or before
    if not rest:
        return ""
    whole, others = (record.result.get("test") or record.baseline["test"])["utterances"], rest["utterances"]
    of_whole = f"of the {count_of(whole, 'test utterance')}"
    shared = f"{count_of(whole - others, f'{of_whole} has', f'{of_whole} have')} a sentence that is learnt too"
    if not others:
        return f"{shared}; no other is left to be scored by itself."
    named = "one" if others == 1 else others
    if not rest["words"]:
        return f"{shared}; in the other {named} nothing is said, so that no word is left to be scored."
    rates = " → ".join(format_percent(each["wer"]) for each in (before, after) if each)
    return f"{shared}; the WER of the other {named} is {rates} %."


def describe_other_rates(record: RunRecord) -> str:
    """The target's WER as other publications count it; "" in records without it."""
    after = record.result.get("test", {})
    if not is_known(after.get("wer_whisper")):
        return ""
    raw, theirs = format_percent(after.get("wer_raw")), format_percent(after["wer_whisper"])
    return f"The same transcripts of the target: {raw} % as written, {theirs} % by Whisper's own normaliser."


def describe_units(record: RunRecord) -> str:
    """What the intervals of the panels resample: "speaker", or "speaker on test and by utterance on retention/us"; ""
    where there are none."""
    panels: dict[str, list[str]] = {}
    for name in list_panels(record):
        scored = record.result.get(name) or record.baseline[name]
        if format_interval(scored) and scored.get("ci_unit"):
            panels.setdefault(scored["ci_unit"], []).append(name)
    if len(panels) < 2:
        return "".join(panels)
    return " and by ".join(f"{unit} on {', '.join(names)}" for unit, names in panels.items())


def _name_means(record: RunRecord) -> str:
    """What was done to the model between the two scores; "" for nothing."""
    shown = record.in_context.get("examples", 0)
    examples = "one example in context" if shown == 1 else f"{shown} examples in context"
    has_list = bool(record.vocabulary.get("bias") or record.vocabulary.get("prompt"))
    helps = " and ".join([examples] * bool(shown) + ["a list of terms"] * has_list)
    if record.parameters.get("trainable") == 0:
        return f"Without training, {helps}" if helps else ""
    return f"Fine-tuning with {helps}" if helps else "Fine-tuning"


def describe_interpolation(record: RunRecord) -> str:
    """What the kept model has of the whole way's gain and of its forgetting, unless it is the end of the way; "" where
    nothing was interpolated."""
    if not record.interpolation:
        return ""
    points = {point["alpha"]: point["wer"] for point in record.interpolation["points"]}
    start, chosen, end = points[0.0], record.interpolation["chosen"], max(points)
    if chosen == end or any(rate is None for wer in points.values() for rate in wer.values()):
        return f"Kept: {chosen:g} of the way to the trained model."
    gains = [f"{100 * (start['test'] - points[alpha]['test']):.1f}" for alpha in (chosen, end)]
    panels = [name for name in start if name.startswith("retention/")]
    rises = [sum(points[alpha][name] - start[name] for name in panels) / len(panels) for alpha in (chosen, end)]
    return (
        f"Kept: {chosen:g} of the way to the trained model. It has {gains[0]} of the {gains[1]} points that {end:g} of "
        f"the way gains on the target, and changes the WER on retention by {format_points(rises[0])} instead of "
        f"{format_points(rises[1])} points."
    )


def _describe_change(change: float, before: float) -> str:
    if abs(change) < NO_CHANGE:
        return "changed nothing"
    verb = "lowered the word error rate by" if change < 0 else "raised the word error rate by"
    relative = f" ({100 * abs(change) / before:.0f} % relative)" if before > 0 else ""
    return f"{verb} {100 * abs(change):.1f} points{relative}"


def _describe_retention(record: RunRecord) -> str:
    changes: dict[str, list[str]] = {"forgot": [], "kept": [], "gained": []}
    for name in list_panels(record):
        before, after = record.baseline.get(name, {}), record.result.get(name, {})
        change = compute_change(before, after)
        if name.startswith("retention/") and change is not None:
            verdict = "kept" if not is_clear(before, after) else "forgot" if change > 0 else "gained"
            changes[verdict].append(f"“{name.removeprefix('retention/')}” ({format_points(change)} points)")
    if not any(changes.values()):
        return "no retention panel was scored, so what it forgot is unknown"
    phrases = {"forgot": "forgot some of", "kept": "shows no clear change on", "gained": "also gained on"}
    said = [f"{phrases[verdict]} {', '.join(names)}" for verdict, names in changes.items() if names]
    return f"it {' and '.join(said)}"


def format_points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "−")
