"""What the audit looks for, how grave each is, and what it found."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from attune.errors import InputError
from attune.text.cells import defuse

SEVERITIES = ("error", "warning", "note")
# name: (severity, what it means). An error sets the row aside; a warning is printed; a note stands in audit.html.
RULES: dict[str, tuple[str, str]] = {
    "clipping": ("warning", "more than 0.5 % of the samples stand at full scale"),
    "dc_offset": ("warning", "the mean of the samples is more than 3 % of full scale away from 0"),
    "silence": ("note", "for more than 60 % of the time it is 40 dB below its loudest moment"),
    "too_fast": ("warning", "more characters a second than anybody says: the text may be that of more audio"),
    "too_slow": ("warning", "far fewer characters a second than the others have: text may be missing"),
    "no_words": ("warning", "the text holds nothing that is spoken, such as punctuation alone"),
    "empty_text": ("note", "no text: it is trained and scored as an utterance without speech"),
    "mixed_scripts": ("warning", "a word mixes letters of two scripts, as a Cyrillic a in a Latin word"),
    "digits": ("note", "the text holds digits, which are counted as errors where the model writes words"),
    "spelt_in_bytes": ("note", "a character that the tokenizer has no token for and spells in bytes"),
    "duplicate_text": ("note", "another utterance of this split has the same words"),
    "duplicate_audio": ("warning", "another utterance of this split has the same samples"),
    "validation_is_test": ("warning", "a recording of validation that is also in test: what is reported was chosen on"),
    "shared_sentences": ("warning", "a sentence that is scored and also learnt"),
    "shared_speakers": ("warning", "a speaker who is scored and also learnt"),
    "shared_audio": ("error", "a recording that is scored and also learnt, whatever its encoding or gain"),
}
ALWAYS = "unusable"  # what cannot be decoded, or cannot be an utterance: no rule switches it off
OF_SPLITS = ("shared_audio", "shared_sentences", "shared_speakers", "validation_is_test", "duplicate_text",
             "duplicate_audio", "too_fast", "too_slow")  # fmt: skip  # what no row shows by itself
KEPT = 1000  # findings of one rule in one split; further ones are only counted


@dataclass(frozen=True)
class Rejection:
    """One row of rejected.csv."""

    split: str
    id: str
    place: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """One row of audit.csv: a rule, and a row to which it applies."""

    rule: str
    severity: str
    split: str
    id: str
    place: str
    reason: str


@dataclass
class Findings:
    """What was found so far.

    Args:
        severities: rule -> severity of the rules that are on.
    """

    severities: Mapping[str, str]
    kept: list[Finding] = field(default_factory=list)
    set_aside: dict[tuple[str, str, str], str] = field(default_factory=dict)  # (split, id, place): the error of a row
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (rule, split): rows

    def add(self, rule: str, split: str, row: Mapping[str, Any], reason: str) -> None:
        """Note that a rule applies to a row; nothing where the rule is off."""
        if rule not in self.severities:
            return
        if self.severities[rule] == "error" and rule not in (ALWAYS, *OF_SPLITS):
            self.set_aside.setdefault((split, row["id"], row["place"]), f"{rule}: {reason}")
        self.counts[rule, split] += 1
        if self.counts[rule, split] <= KEPT:
            self.kept.append(Finding(rule, self.severities[rule], split, row["id"], row["place"], reason))

    def count(self, severity: str) -> dict[str, int]:
        """rule -> rows, of one severity, the most frequent first."""
        rules: Counter[str] = Counter()
        for (rule, _), rows in self.counts.items():
            if self.severities[rule] == severity:
                rules[rule] += rows
        return dict(rules.most_common())

    def of(self, rule: str) -> list[Finding]:
        return [finding for finding in self.kept if finding.rule == rule]


def read_rules(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """rule -> severity of the rules that are on.

    Args:
        settings: data.audit: rule -> error, warning, note, on (as it is by itself) or off.

    Raises:
        InputError: there is no such rule or severity, or an error is asked for where a row cannot be set aside.
    """
    chosen = {ALWAYS: "error"} | {name: severity for name, (severity, _) in RULES.items()}
    for name, value in (settings or {}).items():
        if name not in RULES:
            near = get_close_matches(name, RULES, n=1)
            hint = f" Nearest: {near[0]}." if near else ""
            raise InputError(f"data.audit.{name}: there is no such rule.{hint} There are: {', '.join(RULES)}.")
        if value in (False, None, "off"):
            del chosen[name]
        elif value in SEVERITIES:
            chosen[name] = str(value)
        elif value not in (True, "on"):
            raise InputError(f"data.audit.{name}={value}: accepted are {', '.join(SEVERITIES)}, on and off.")
        if value == "error" and name in OF_SPLITS and name != "shared_audio":
            raise InputError(
                f"data.audit.{name}=error would set single rows aside, and this rule compares rows with each other. "
                "Accepted: warning, note, on, off."
            )
    return chosen


def write_rejections(rejections: Sequence[Rejection], path: Path) -> None:
    """rejected.csv: split, id, place, reason. Written even when empty: an empty file is an answer.

    A name that a spreadsheet would run as a formula gets an apostrophe in front (text/cells.py: `restore`).
    """
    _write([field.name for field in fields(Rejection)], [astuple(each) for each in rejections], path)


def write_findings(findings: Sequence[Finding], path: Path) -> None:
    """audit.csv: rule, severity, split, id, place, reason."""
    _write([field.name for field in fields(Finding)], [astuple(each) for each in findings], path)


def _write(names: Sequence[str], rows: Iterable[Sequence[str]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([defuse(cell) for cell in row] for row in rows)
