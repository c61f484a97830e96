"""Where the errors of a run are: which words and letters, in which utterances, and what no listener would write."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from math import nan

from scipy import stats

from attune.report.predictions import PredictionRow
from attune.score.metrics import Operation, align, align_characters
from attune.score.statistics import choose_units, standard_error
from attune.text.normalise import characters, normalise

MOST_CONFUSIONS, MOST_GROUPS, MOST_EXAMPLES = 15, 12, 5
LONGEST_LOOP = 10  # words of a phrase that is written again and again
FEWEST_TURNS = {1: 4}  # how often a phrase of so many words has to stand in a row to be a loop; 3 for longer ones
NO_END = 5  # words written behind the end of the reference
DURATION_S = (2.0, 4.0, 8.0, 16.0)
LENGTH_WORDS = (4, 8, 16, 32)
FEWEST_UNITS = 5  # of a group that has an interval: of fewer it would say nothing
RATE_WORDS_A_S = (1.5, 2.5, 3.5)
Pairs = list[tuple[Operation, str, str]]


@dataclass(frozen=True)
class Confusion:
    """`said` written as `written`, "" for nothing, and how often before and after."""

    said: str
    written: str
    before: int
    after: int


@dataclass(frozen=True)
class Group:
    """Utterances of one kind. Rates are fractions; `reach` is half a 95 % interval of `after`, nan where it is not
    told: for fewer than FEWEST_UNITS utterances, or speakers or recordings where those are the units, and where all
    have the same rate."""

    name: str
    utterances: int
    words: int
    before: float
    after: float
    reach: float


@dataclass(frozen=True)
class Suspect:
    """A sign of hallucination or of a lost end: the utterances that show it, before and after, some of them by id."""

    name: str
    explanation: str
    before: int
    after: int
    examples: list[str]


@dataclass(frozen=True)
class ErrorAnalysis:
    """What a panel's errors are: words and characters taken for others, and utterances that look made up or cut off."""

    words: list[Confusion]
    characters: list[Confusion]
    suspects: list[Suspect]
    groups: dict[str, list[Group]]  # kind: at most MOST_GROUPS, those with most errors after
    left_out: dict[str, int]  # kind: groups that are not shown


def analyse_errors(panels: Mapping[str, Sequence[PredictionRow]], target: str = "test") -> ErrorAnalysis:
    """Look into the errors of the target; the panels `test/NAME` are shown as its conditions.

    Args:
        panels: name -> predictions, in any order.
    """
    rows = panels.get(target, [])
    texts = [_normalise(row) for row in rows]
    letters = [tuple(characters(text, row.language) for text in of) for row, of in zip(rows, texts, strict=True)]
    kinds = group_utterances(rows)
    if conditions := {name.partition("/")[2]: of for name, of in panels.items() if name.startswith(f"{target}/")}:
        kinds["condition"] = {name: spoken for name, of in conditions.items() if (spoken := [r for r in of if r.words])}
    measured = {kind: [_measure(name, of) for name, of in groups.items()] for kind, groups in kinds.items()}
    return ErrorAnalysis(
        words=_count_confusions(texts, align),
        characters=_count_confusions(letters, align_characters),
        suspects=_find_suspects(rows, texts),
        groups={kind: _pick(groups) for kind, groups in measured.items()},
        left_out={kind: len(groups) - MOST_GROUPS for kind, groups in measured.items() if len(groups) > MOST_GROUPS},
    )


def _normalise(row: PredictionRow) -> tuple[str, str, str]:
    """Reference, before and after."""
    language = row.language
    return normalise(row.reference, language), normalise(row.before, language), normalise(row.after, language)


def group_utterances(rows: Sequence[PredictionRow]) -> dict[str, dict[str, list[PredictionRow]]]:
    """kind -> group -> its utterances, those without words left out; a kind that is not known of any is not there.

    Named groups stand in the order of their words, the largest first, measured ones in the order of what was measured.
    """
    spoken = [row for row in rows if row.words]
    kinds = {
        "accent": _by_name(spoken, lambda row: row.accent),
        "speaker": _by_name(spoken, lambda row: row.speaker),
        "language": _by_name(spoken, lambda row: row.language),
        "duration": _by_edge(spoken, lambda row: row.duration_s, DURATION_S, "s"),
        "length": _by_edge(spoken, lambda row: row.words, LENGTH_WORDS, "words"),
        "rate": _by_edge(spoken, lambda row: row.words / max(row.duration_s, 0.01), RATE_WORDS_A_S, "words/s"),
    }
    return {kind: groups for kind, groups in kinds.items() if groups}


def find_loop(text: str) -> int:
    """How often a phrase of up to ten words stands in a row, of the phrase that does so longest; 1 for no repeat.

    A word has to come four times, a longer phrase three times, before it counts: people say "no, no, no".
    """
    words, most = text.split(), 1
    for length in range(1, LONGEST_LOOP + 1):
        same = 0
        for place in range(length, len(words)):
            same = same + 1 if words[place] == words[place - length] else 0
            turns = same // length + 1
            if turns >= FEWEST_TURNS.get(length, 3):
                most = max(most, turns)
    return most


def count_at_end(reference: str, hypothesis: str, operation: Operation) -> int:
    """The words that were deleted, or inserted, behind the last one that both have. Both texts are normalised."""
    backwards = reversed(align(reference, hypothesis))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == operation, backwards))


def _count_confusions(texts: Iterable[tuple[str, ...]], pair: Callable[[str, str], Pairs]) -> list[Confusion]:
    """The most frequent ones, by how often they occur after and before together; what was written where nothing was
    said is none, as in WER.

    Args:
        texts: reference, before and after.
    """
    counts: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = (Counter(), Counter())
    for reference, *hypotheses in filter(lambda each: each[0], texts):
        for counter, hypothesis in zip(counts, hypotheses, strict=True):
            counter.update((said, written) for kind, said, written in pair(reference, hypothesis) if kind != "equal")
    before, after = counts
    found = sorted(before | after, key=lambda each: (-before[each] - after[each], each))
    return [Confusion(*each, before[each], after[each]) for each in found[:MOST_CONFUSIONS]]


def _find_suspects(rows: Sequence[PredictionRow], texts: Sequence[tuple[str, str, str]]) -> list[Suspect]:
    signs: list[tuple[str, str, Callable[[str, str], bool]]] = [
        (
            "Repeats",
            "A phrase in a row again and again, more often than it was said.",
            lambda said, heard: find_loop(heard) > find_loop(said),
        ),
        (
            "Words on silence",
            "Something was written where nothing was said.",
            lambda said, heard: not said and bool(heard),
        ),
        (
            "No end",
            f"{NO_END} words or more were written on behind the end of what was said.",
            lambda said, heard: bool(said) and count_at_end(said, heard, "insert") >= NO_END,
        ),
        (
            "Lost ends",
            "The last words are missing.",
            lambda said, heard: bool(said) and count_at_end(said, heard, "delete") > 0,
        ),
    ]
    suspects = []
    for name, explanation, shows in signs:
        before = sum(shows(said, heard) for said, heard, _ in texts)
        after = [row.id for row, (said, _, heard) in zip(rows, texts, strict=True) if shows(said, heard)]
        suspects.append(Suspect(name, explanation, before, len(after), after[:MOST_EXAMPLES]))
    return suspects


def _measure(name: str, rows: Sequence[PredictionRow]) -> Group:
    words = [row.words for row in rows]
    before, after = (
        sum(errors) / sum(words) for errors in ([r.errors_before for r in rows], [r.errors_after for r in rows])
    )
    units, _ = choose_units([row.speaker for row in rows], [row.recording for row in rows])
    error, count = standard_error([row.errors_after for row in rows], words, units)
    # Student's t and not 1.96: of five utterances that would hold the true rate less than nine times of ten.
    reach = float(stats.t.ppf(0.975, count - 1)) * error if count >= FEWEST_UNITS and error > 0 else nan
    return Group(name, len(rows), sum(words), before, after, reach)


def _pick(groups: Sequence[Group]) -> list[Group]:
    """Those with most errors after, in the order in which they came."""
    kept = sorted(groups, key=lambda group: -group.after * group.words)[:MOST_GROUPS]
    return [group for group in groups if group in kept]


def _by_name(
    rows: Sequence[PredictionRow], name: Callable[[PredictionRow], str | None]
) -> dict[str, list[PredictionRow]]:
    """In the order of their words; utterances of which it is not known are left out."""
    groups: dict[str, list[PredictionRow]] = {}
    for row in rows:
        if found := name(row):
            groups.setdefault(found, []).append(row)
    return dict(sorted(groups.items(), key=lambda group: (-sum(row.words for row in group[1]), group[0])))


def _by_edge(
    rows: Sequence[PredictionRow], measure: Callable[[PredictionRow], float], edges: Sequence[float], unit: str
) -> dict[str, list[PredictionRow]]:
    """From each edge up to the next one, that one not included; empty stretches are left out."""
    stretches = [*pairwise([float("-inf"), *edges, float("inf")])]
    groups = {
        _name_stretch(low, high, unit): [row for row in rows if low <= measure(row) < high] for low, high in stretches
    }
    return {name: found for name, found in groups.items() if found}


def _name_stretch(low: float, high: float, unit: str) -> str:
    if low == float("-inf"):
        return f"below {high:g} {unit}"
    return f"{low:g} {unit} and more" if high == float("inf") else f"{low:g} to {high:g} {unit}"
