import math
from dataclasses import replace

import pytest

from attune.errors import InputError
from attune.score.metrics import Prediction
from attune.score.panel import score_panel

ONE = Prediction("one", "Hello, World.", "hello word", speaker=None, language="en", duration_s=2.0)
TWO = Prediction("two", "a b c d", "a b c d", speaker=None, language="en", duration_s=3.0)
SILENT = Prediction("silent", "", "thank you", speaker=None, language="en", duration_s=1.0)
QUIET = Prediction("quiet", "", "", speaker=None, language="en", duration_s=4.0)


def say(id: str, reference: str, hypothesis: str, language: str = "en") -> Prediction:
    return Prediction(id, reference, hypothesis, speaker=None, language=language, duration_s=1.0)


def test_a_panel_worked_out_by_hand() -> None:
    score = score_panel([ONE, TWO, SILENT, QUIET], seconds=5.0)
    assert score.wer == pytest.approx(1 / 6)  # "world" -> "word"
    assert score.wer_raw == pytest.approx(2 / 6)  # "Hello," and "World."
    assert score.cer == pytest.approx(1 / 18)  # one of 11 + 7 characters
    assert score.wer_ci95 == (0.0, 0.5)  # both from "two", both from "one"
    assert (score.substitutions, score.deletions, score.insertions, score.words) == (1, 0, 0, 6)
    assert (score.utterances, score.ci_unit, score.seconds) == (4, "utterance", 5.0)
    assert score.hallucination_rate == 0.5
    assert score.rtf == pytest.approx(0.5)


def test_pairs_in_their_order_are_counted_by_hand() -> None:
    margins = {"a": 0.5, "b": -0.1, "c": 0.0, "d": 2.0, "e": None}
    said = [replace(say(id, "one", "one"), margin=margin) for id, margin in margins.items()]
    pairs = score_panel(said, seconds=1.0).pairs
    assert pairs is not None and pairs.pairs == 4 and pairs.ordered == 2.5 / 4  # a tie is half a pair
    low, high = pairs.ordered_ci95
    assert 0 <= low < 2.5 / 4 < high <= 1
    alone = score_panel(said[:1], seconds=1.0).pairs
    assert alone is not None and alone.ordered == 1 and all(map(math.isnan, alone.ordered_ci95))
    assert score_panel(said[-1:], seconds=1.0).pairs is None


def test_repeats_of_a_distributed_sampler_are_scored_once() -> None:
    once = score_panel([ONE, TWO], seconds=1.0)
    assert score_panel([ONE, TWO, ONE, replace(ONE, hypothesis="padding moved it")], seconds=1.0) == once
    assert once.utterances == 2
    assert once.hallucination_rate is None


def test_one_id_for_two_utterances_is_refused() -> None:
    with pytest.raises(InputError, match="'one' has the texts 'Hello, World.'.*'another'"):
        score_panel([ONE, replace(ONE, reference="another")], seconds=1.0)


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(InputError, match="got 0 predictions"):
        score_panel([], seconds=1.0)


def test_speakers_are_the_unit_where_there_are_enough_of_them() -> None:
    # Speakers differ and their utterances do not: five of ten say everything wrong.
    predictions = [
        Prediction(f"{speaker}-{index}", "a b", "x y" if speaker < 5 else "a b", f"speaker {speaker}", "en", 1.0)
        for speaker in range(10)
        for index in range(20)
    ]
    score = score_panel(predictions, seconds=1.0)
    unknown = score_panel([replace(each, speaker=None) for each in predictions], seconds=1.0)
    assert (score.ci_unit, unknown.ci_unit) == ("speaker", "utterance")
    assert score.wer == unknown.wer == 0.5
    # Binomial(10, .5) / 10 at .86 and 99.14 %: Student's t with 9 degrees of freedom times sqrt(10 / 9) is 2.38. Of all
    # resamples .1 % have no such speaker, 1.1 % one or none, 5.5 % two or fewer.
    assert score.wer_ci95[0] in (0.1, 0.2) and score.wer_ci95[1] in (0.8, 0.9)
    assert unknown.wer_ci95 == pytest.approx((0.43, 0.57), abs=0.006)  # .5 -+ 1.98 * .5 / sqrt(200)


def test_recordings_are_the_unit_where_no_speaker_is_known() -> None:
    predictions = [
        replace(ONE, id=f"{recording}-{index}", recording=f"talk {recording}.wav")
        for recording in range(10)
        for index in range(2)
    ]
    assert score_panel(predictions, seconds=1.0).ci_unit == "recording"
    assert score_panel(predictions[:18], seconds=1.0).ci_unit == "utterance"


def test_a_panel_without_speech_has_a_hallucination_rate_and_no_other() -> None:
    score = score_panel([SILENT, QUIET], seconds=1.0)
    assert score.hallucination_rate == 0.5
    assert score.words == 0
    assert all(math.isnan(value) for value in (score.wer, score.wer_raw, score.cer, *score.wer_ci95))


def test_cer_of_an_unspaced_language_ignores_punctuation() -> None:
    score = score_panel([Prediction("zh", "你好，世界", "你好世间", None, "zh", 1.0)], seconds=1.0)
    assert score.cer == 0.25
    assert all(math.isnan(value) for value in score.wer_ci95)  # one utterance shows no spread


def test_the_rate_lies_in_an_interval_of_no_width() -> None:
    # 1/3 in float32 is greater than 1/3 in float64.
    score = score_panel([replace(ONE, id=str(index), reference="a b c", hypothesis="a b") for index in range(3)], 1.0)
    assert score.wer_ci95 == (score.wer, score.wer) == (1 / 3, 1 / 3)


def test_what_is_not_learnt_is_scored_beside_the_whole() -> None:
    predictions = [say("a", "one two", "one two"), say("b", "three four", "three"), say("c", "five", "six")]
    assert score_panel(predictions, 1.0).remainder is None
    score = score_panel(predictions, 1.0, learnt={"a"})
    assert score.wer == 2 / 5 and score.remainder is not None
    assert (score.remainder.utterances, score.remainder.words, score.remainder.wer) == (2, 3, 2 / 3)
    nothing = score_panel(predictions, 1.0, learnt={"a", "b", "c"}).remainder
    assert nothing is not None and nothing.utterances == 0 and math.isnan(nothing.wer)


def test_the_rate_by_whispers_own_normaliser() -> None:
    """It joins number words, folds spellings that a published tokenizer lists, and drops what is in brackets."""
    english = [say("a", "The colour is twenty one", "[noise] the color's 21", "en")]
    assert score_panel(english, 1.0, spellings={"colour": "color"}).wer_whisper == 0
    assert score_panel(english, 1.0).wer_whisper == 1 / 4
    hindi = [say("a", "कि", "की", "hi")]  # which differ in a vowel sign
    score = score_panel(hindi, 1.0)
    assert (score.wer, score.wer_whisper) == (1.0, 0.0)


def test_without_spaces_the_headline_is_cer() -> None:
    score = score_panel([say("a", "你好，世界", "你好世间", "zh"), say("b", "好", "好", "zh")], 1.0)
    assert score.wer == score.cer == 1 / 5 and score.words == 5
    assert score.wer_ci95[0] <= score.wer <= score.wer_ci95[1] and score.wer_whisper == 1 / 5
