"""audit.html: what is in a corpus and what is wrong with it, on one page that loads nothing from anywhere."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from attune.data.audit import LEARNT, Audit
from attune.data.findings import ALWAYS, RULES, SEVERITIES, Finding, write_findings, write_rejections
from attune.report.record import write_atomically
from attune.text.counted import count_of

QUANTITIES = (
    ("duration_s", "Duration", "s"),
    ("spoken", "Characters a second", ""),
    ("spoken_words", "Words a second", ""),
)
BINS = 24
EXAMPLES = 12  # of a rule, on the page; audit.csv has up to a thousand
LETTERS = 150
WORDS = 40
WIDTH, HEIGHT = 360, 110  # of a histogram, in its own units


@dataclass(frozen=True)
class SplitFacts:
    """One row of the page's table."""

    name: str
    utterances: int
    hours: float
    speakers: int
    rates: str
    words: int
    distinct: int
    rare: int
    pace: float  # median, characters a second


@dataclass(frozen=True)
class Histogram:
    """Bars of what is learnt behind a line of what is scored; shares of each, on one scale."""

    title: str
    unit: str
    low: float
    high: float
    bars: list[tuple[float, float, float]]  # x, y, height
    line: str  # points of a polyline; "" for none


@dataclass(frozen=True)
class RuleFacts:
    """A rule that applies somewhere."""

    name: str
    severity: str
    meaning: str
    counts: dict[str, int]
    examples: list[Finding]


def write_audit_page(audit: Audit, path: Path, title: str) -> Path:
    """Write audit.html."""
    template = Environment(
        loader=PackageLoader("attune", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("audit_page.html.j2")
    letters = sum((texts.letters for texts in audit.texts.values()), Counter[str]())
    page = template.render(
        title=title,
        lines=describe_audit(audit),
        splits=[measure_split(audit, split) for split in audit.splits],
        histograms=list(draw_histograms(audit)),
        rules=list_rules(audit),
        overlaps=list_overlaps(audit),
        letters=[(show_letter(letter), name_letter(letter), count) for letter, count in letters.most_common(LETTERS)],
        distinct_letters=len(letters),
        unheard=find_unheard(audit),
        count_of=count_of,
        off=sorted(RULES.keys() - audit.findings.severities.keys()),
        not_compared=audit.not_compared,
    )
    return write_atomically(path, page)


def leave_audit(folder: Path, audit: Audit, title: str) -> None:
    """rejected.csv, audit.csv and audit.html in a folder that exists."""
    write_rejections(audit.rejections, folder / "rejected.csv")
    write_findings(audit.findings.kept, folder / "audit.csv")
    write_audit_page(audit, folder / "audit.html", title)


def describe_audit(audit: Audit) -> list[str]:
    """One or two lines for a person who is about to train."""
    splits = [measure_split(audit, split) for split in audit.splits]
    speakers = len({name for texts in audit.texts.values() for name in texts.speakers})
    told = count_of(sum(each.utterances for each in splits), "utterance")
    told += f", {sum(each.hours for each in splits):.2f} h"
    told += f", {count_of(speakers, 'speaker')}" if speakers else ""
    told += describe_listened(audit)
    counts = {severity: audit.findings.count(severity) for severity in SEVERITIES}
    kinds = [f"{name}s: {_list_counts(rules)}" for name, rules in counts.items() if rules and name != "note"]
    if notes := sum(counts["note"].values()):
        kinds.append(count_of(notes, "note"))
    return ["; ".join([f"audit: {told}", *(kinds or ["nothing found"])]), *describe_overlaps(audit)]


def describe_listened(audit: Audit) -> str:
    """Of which splits only a part was heard, and how much; "" where all was."""
    parts = {split: sounds.heard for split, sounds in audit.sounds.items() if not sounds.heard.all()}
    told = ", ".join(f"{int(heard.sum()):,} of {len(heard):,} in {split}" for split, heard in parts.items())
    return f", listened to {told} (data.listen_up_to; the others as they are read)" if told else ""


def describe_overlaps(audit: Audit) -> list[str]:
    """What the target's test has in common with what is learnt; [] for nothing."""
    shared, own = audit.shared.get("test"), audit.splits.get("test")
    if shared is None or own is None or not (shared.ids or shared.speakers):
        return []
    sentences = len(shared.ids)
    speakers = count_of(len(audit.texts["test"].speakers), "speaker")
    told = [f"{sentences} of {count_of(len(own), 'sentence')}"] * bool(sentences)
    told += [f"{len(shared.speakers)} of {speakers}"] * bool(shared.speakers)
    beside = "; the WER of the other sentences is told beside the whole" if 0 < sentences < len(own) else ""
    return [f"test shares with what is learnt: {', '.join(told)}{beside}"]


def summarise_audit(audit: Audit) -> dict[str, Any]:
    """The `audit` part of run.json."""
    splits = {split: measure_split(audit, split) for split in audit.splits}
    return {
        "hours": sum(each.hours for each in splits.values()),
        "speakers": {split: each.speakers for split, each in splits.items()},
        "listened": {split: int(sounds.heard.sum()) for split, sounds in audit.sounds.items()},
        "sampling_rates_hz": {split: sounds.rates_hz for split, sounds in audit.sounds.items()},
        "findings": {severity: audit.findings.count(severity) for severity in SEVERITIES},
        "shared": {
            split: {"sentences": len(each.ids), "speakers": len(each.speakers)}
            for split, each in audit.shared.items()
            if each.ids or each.speakers
        },
    }


def measure_split(audit: Audit, split: str) -> SplitFacts:
    texts, sounds = audit.texts[split], audit.sounds[split]
    pace = _compute_paces(audit, split, texts.spoken)
    rates = sorted(sounds.rates_hz.items(), key=lambda item: -item[1])
    return SplitFacts(
        split,
        int(sounds.usable.sum()),
        float(sounds.duration_s[sounds.usable].sum()) / 3600,
        len(texts.speakers),
        ", ".join(f"{rate_hz / 1000:g} kHz" for rate_hz, _ in rates[:4]),
        sum(texts.words.values()),
        len(texts.words),
        len(texts.rare),
        float(np.median(pace)) if len(pace) else float("nan"),
    )


def _compute_paces(audit: Audit, split: str, counts: Sequence[int]) -> np.ndarray:
    """Characters or words a second of every usable utterance that says something."""
    sounds, said = audit.sounds[split], np.asarray(counts)
    kept = sounds.usable & (said > 0)
    return said[kept] / sounds.duration_s[kept]


def draw_histograms(audit: Audit) -> list[Histogram]:
    """One of each of QUANTITIES."""
    learnt = [split for split in audit.splits if split in LEARNT]
    scored = [split for split in audit.splits if split == "test"]  # without its conditions, such as test/snr_00

    def gather(splits: Sequence[str], name: str) -> np.ndarray:
        if name == "duration_s":
            parts = [audit.sounds[split].duration_s[audit.sounds[split].usable] for split in splits]
        else:
            parts = [_compute_paces(audit, split, getattr(audit.texts[split], name)) for split in splits]
        return np.concatenate([np.zeros(0), *parts])

    return [_draw(title, unit, gather(learnt, name), gather(scored, name)) for name, title, unit in QUANTITIES]


def _draw(title: str, unit: str, learnt: np.ndarray, scored: np.ndarray) -> Histogram:
    everything = np.concatenate([learnt, scored])
    high = float(np.quantile(everything, 0.998)) * 1.05 if len(everything) else 1.0  # outliers join the last bar
    shares = [np.histogram(np.minimum(part, high), BINS, (0, high))[0] / max(1, len(part)) for part in (learnt, scored)]
    scale, width = HEIGHT / max(1e-9, *(share.max() for share in shares)), WIDTH / BINS
    bars = [(bin * width, HEIGHT - share * scale, share * scale) for bin, share in enumerate(shares[0]) if share]
    points = [
        (x, HEIGHT - share * scale) for bin, share in enumerate(shares[1]) for x in (bin * width, (bin + 1) * width)
    ]
    return Histogram(
        title, unit, 0.0, high, bars, " ".join(f"{x:.1f},{y:.1f}" for x, y in points) if len(scored) else ""
    )


def list_rules(audit: Audit) -> list[RuleFacts]:
    """What was found, the gravest first."""
    found = audit.findings
    counts: dict[str, dict[str, int]] = {}
    for (rule, split), rows in found.counts.items():
        counts.setdefault(rule, {})[split] = rows
    meanings = {ALWAYS: "it cannot be decoded, or no model could hear anything in it"}
    meanings |= {rule: meaning for rule, (_, meaning) in RULES.items()}
    order = {severity: rank for rank, severity in enumerate(SEVERITIES)}
    rules = sorted(counts, key=lambda rule: (order[found.severities[rule]], -sum(counts[rule].values())))
    return [
        RuleFacts(rule, found.severities[rule], meanings[rule], counts[rule], found.of(rule)[:EXAMPLES])
        for rule in rules
    ]


def list_overlaps(audit: Audit) -> list[tuple[str, int, int, int, int]]:
    """(scored split, shared sentences, utterances, shared speakers, speakers)."""
    return [
        (
            split,
            len(each.ids),
            int(audit.sounds[split].usable.sum()),
            len(each.speakers),
            len(audit.texts[split].speakers),
        )
        for split, each in audit.shared.items()
    ]


def find_unheard(audit: Audit) -> tuple[int, int, list[str]]:
    """Of the distinct words of `test`: how many are never learnt, how many there are, and some, the most frequent."""
    known = set[str]().union(*(audit.texts[split].words for split in LEARNT if split in audit.texts))
    if "test" not in audit.texts:
        return 0, 0, []
    words = audit.texts["test"].words
    new = [word for word, _ in words.most_common() if word not in known]
    return len(new), len(words), new[:WORDS]


def show_letter(letter: str) -> str:
    """A combining mark on a dotted circle, a space by its sign; all else as it is."""
    if unicodedata.category(letter)[0] == "M":
        return "\u25cc" + letter
    return letter if letter.isprintable() and not letter.isspace() else "\u2423" if letter == " " else "\ufffd"


def name_letter(letter: str) -> str:
    return f"U+{ord(letter):04X} {unicodedata.name(letter, '')}".strip()


def _list_counts(rules: dict[str, int]) -> str:
    """ "2 shared sentences, 1 shared speaker, 3 clipping"."""
    named = {rule: rule.replace("_", " ") for rule in rules}
    one = {rule: name.removesuffix("s") if rule.startswith("shared_") else name for rule, name in named.items()}
    return ", ".join(count_of(count, one[rule], named[rule]) for rule, count in rules.items())
