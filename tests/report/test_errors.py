"""Error analysis: what is counted, in which group, and what is called suspicious."""

from collections.abc import Mapping
from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from attune.report.divergence import explain_divergence, find_divergence
from attune.report.errors import MOST_GROUPS, Confusion, analyse_errors, count_at_end, find_loop, group_utterances
from attune.report.predictions import PredictionRow
from attune.score.metrics import count_word_errors
from attune.score.statistics import standard_error


def make_row(
    identifier: str, reference: str, before: str, after: str, speaker: str | None = None, duration_s: float = 3.0
) -> PredictionRow:
    earlier, later = (count_word_errors(reference, text) for text in (before, after))
    counts = (later.words, earlier.total, later.total)
    accent = speaker.partition("+")[0] if speaker else None
    return PredictionRow(identifier, speaker, "en", duration_s, reference, before, after, *counts, accent=accent)


ROWS = [
    make_row("a", "the lamps went out", "a lamps went", "the lambs went out", "en-029+m5"),
    make_row("b", "the lamps went out", "the lamps went out", "the lambs went out", "en-029+m5"),
    make_row("c", "one two", "one two", "one two three four five six seven", "en-gb-scotland+f1", 1.0),
    make_row("d", "", "thank you", "", None, 1.0),
    make_row("e", "go on", "go go go go go on", "go on", "en-gb-scotland+f1", 9.0),
]


def test_words_and_letters_are_confused() -> None:
    found = analyse_errors({"test": ROWS[:2]})
    assert found.words[0] == Confusion("lamps", "lambs", 0, 2)
    assert Confusion("the", "a", 1, 0) in found.words
    assert Confusion("out", "", 1, 0) in found.words
    assert Confusion("p", "b", 0, 2) in found.characters


def test_a_space_that_nobody_wrote_is_not_confused() -> None:
    row = replace(make_row("a", "我们去公园玩", "我们去公园玩", "我们去公玩"), language="zh")
    assert analyse_errors({"test": [row]}).characters == [Confusion("园", "", 0, 1)]


def test_what_is_written_on_silence_is_not_confused() -> None:
    """As in WER, which has no utterance without words."""
    found = analyse_errors({"test": [make_row("d", "", "thank you", "you")]})
    assert found.words == found.characters == []
    assert {suspect.name: suspect.after for suspect in found.suspects}["Words on silence"] == 1


def test_the_interval_of_a_small_group_is_wide_or_not_told() -> None:
    """By Student's t: with five utterances 2.8 standard errors; of fewer, or without an error, nothing is known."""
    heard = ["one two three four", "one two", "one two three four", "one", "one two"]
    rows = [make_row(str(i), "one two three four", "", text) for i, text in enumerate(heard)]
    (group,) = analyse_errors({"test": rows}).groups["duration"]
    error, _ = standard_error([0, 2, 0, 3, 2], [4] * 5)
    assert group.reach == pytest.approx(2.776 * error, rel=1e-3)
    for told in (rows[:4], rows[:1] * 5):
        assert isnan(analyse_errors({"test": told}).groups["duration"][0].reach)


def test_what_no_listener_would_write_is_counted() -> None:
    found = {
        suspect.name: (suspect.before, suspect.after, suspect.examples)
        for suspect in analyse_errors({"test": ROWS}).suspects
    }
    assert found == {
        "Repeats": (1, 0, []),
        "Words on silence": (1, 0, []),
        "No end": (0, 1, ["c"]),
        "Lost ends": (1, 0, []),
    }


@pytest.mark.parametrize(
    ("text", "turns"),
    [("", 1), ("no no no", 1), ("no no no no", 4), ("a b a b", 1), ("so a b a b a b then", 3), ("a b c " * 5, 5)],
)
def test_a_loop_is_longer_than_what_people_say(text: str, turns: int) -> None:
    assert find_loop(text) == turns


def test_errors_at_the_end() -> None:
    assert count_at_end("a b c d", "a b", "delete") == 2
    assert count_at_end("a b", "a b x y z", "insert") == 3
    assert count_at_end("a b", "x b", "delete") == 0
    assert count_at_end("a b", "", "delete") == 2
    assert count_at_end("", "", "insert") == 0


def test_utterances_stand_in_groups() -> None:
    groups = group_utterances(ROWS)
    assert {kind: {name: len(rows) for name, rows in found.items()} for kind, found in groups.items()} == {
        "accent": {"en-029": 2, "en-gb-scotland": 2},
        "speaker": {"en-029+m5": 2, "en-gb-scotland+f1": 2},
        "language": {"en": 4},
        "duration": {"below 2 s": 1, "2 to 4 s": 2, "8 to 16 s": 1},
        "length": {"below 4 words": 2, "4 to 8 words": 2},
        "rate": {"below 1.5 words/s": 3, "1.5 to 2.5 words/s": 1},
    }
    assert group_utterances([]) == {}
    assert "speaker" not in group_utterances([ROWS[3]])


def test_rates_of_groups_and_conditions() -> None:
    found = analyse_errors({"test": ROWS, "test/snr_00": ROWS[:1], "retention/us": ROWS})
    caribbean = found.groups["accent"][0]
    assert (caribbean.name, caribbean.words, caribbean.before, caribbean.after) == ("en-029", 8, 2 / 8, 2 / 8)
    assert [group.name for group in found.groups["condition"]] == ["snr_00"]
    many = [
        replace(make_row(str(index), "a b", "a b", "a x", f"s{index}"), accent=None) for index in range(MOST_GROUPS + 3)
    ]
    found = analyse_errors({"test": many})
    assert len(found.groups["speaker"]) == MOST_GROUPS and found.left_out == {"speaker": 3}


def test_nothing_scored_has_no_errors() -> None:
    found = analyse_errors({"test": []})
    assert found.words == [] and found.groups == {}
    assert all(suspect.after == 0 for suspect in found.suspects)


def make_curves(loss: list[float], wer: list[float]) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    steps = np.arange(len(loss)) * 10.0
    return {"val/loss": (steps, np.array(loss)), "val/wer": (steps, np.array(wer))}


def test_loss_that_falls_while_wer_rises_is_found_and_explained() -> None:
    found = find_divergence(make_curves([2.0, 1.5, 1.2, 1.0], [0.4, 0.2, 0.22, 0.25]))
    assert found is not None
    assert (found.first_step, found.last_step) == (10, 30)
    assert (found.first_wer, found.last_wer, found.first_loss, found.last_loss) == (0.2, 0.25, 1.5, 1.0)
    said = explain_divergence(found)
    assert "From step 10 to step 30" in said and "20.0 to 25.0 %" in said and "chosen by WER" in said
    assert "keep=last" in explain_divergence(found, "last")


@pytest.mark.parametrize(
    ("loss", "wer"),
    [
        ([2.0, 1.5, 1.2], [0.4, 0.3, 0.2]),
        ([2.0, 1.5, 1.6], [0.4, 0.2, 0.3]),  # both rise
        ([2.0, 1.5, 1.2], [0.4, 0.2, 0.202]),  # noise
        ([2.0], [0.4]),
    ],
)
def test_what_goes_together_is_not_called_apart(loss: list[float], wer: list[float]) -> None:
    assert find_divergence(make_curves(loss, wer)) is None
    assert explain_divergence(None) == ""
    assert find_divergence({}) is None
