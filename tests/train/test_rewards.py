"""Each reward by hand, their weighted sum, and what is refused."""

from pathlib import Path

import pytest
import torch
from whispers import make_batch

from attune.errors import InputError
from attune.model.sample import Hypothesis
from attune.model.whisper import Whisper
from attune.train.objective.hypotheses import Hypotheses
from attune.train.objective.rewards import (
    Candidate,
    Rewards,
    find_function,
    make_term_recall,
    score_cer,
    score_ended,
    score_length,
    score_no_repeat,
    score_wer,
    take_terms,
)


def candidate(hypothesis: str, reference: str, ended: bool = True, language: str = "en") -> Candidate:
    return Candidate(hypothesis, reference, ended, language, duration_s=2.0, id="a")


def brevity(candidate: Candidate) -> float:
    return -candidate.duration_s * len(candidate.hypothesis)


NUMBER = 3


def test_error_rates() -> None:
    assert score_wer(candidate("seven blue votes", "Seven blue boats!")) == pytest.approx(-1 / 3)
    assert score_wer(candidate("a b c d", "no")) == -4.0
    assert score_wer(candidate("", "")) == 0.0
    assert score_wer(candidate("you are", "")) == -2.0  # finite where nobody spoke
    assert score_cer(candidate("abd", "abc")) == pytest.approx(-1 / 3)
    assert score_cer(candidate("你好 世界", "你好世界", language="zh")) == 0.0


def test_repetition_end_and_length() -> None:
    loop = "so it goes and so it goes and so it goes"  # 9 triples, of which 4 are different
    assert score_no_repeat(candidate(loop, "so it goes")) == pytest.approx(-5 / 9)
    assert score_no_repeat(candidate(loop, loop)) == 0.0
    assert score_no_repeat(candidate("no", "no")) == 0.0
    assert (score_ended(candidate("a", "a")), score_ended(candidate("a", "a", ended=False))) == (1.0, 0.0)
    assert score_length(candidate("abc", "abc")) == 0.0
    assert (
        score_length(candidate("", "abc")) == score_length(candidate("abc", "")) < score_length(candidate("ab", "abc"))
    )


def test_without_spaces_a_word_is_a_character_and_no_comma_is_one() -> None:
    loop = "我们去我们去我们去"  # 7 triples, of which 3 are different
    assert score_no_repeat(candidate(loop, "我们去", language="zh")) == pytest.approx(-4 / 7)
    assert score_length(candidate("你好，世界", "你好世界", language="zh")) == 0.0


def test_term_recall() -> None:
    recall = make_term_recall(take_terms(["Xeljanz", "left lung"]))
    reference = "The left lung, then Xeljanz and Xeljanz again."
    assert recall(candidate("the left lung then zeldans and xeljanz again", reference)) == pytest.approx(2 / 3)
    assert recall(candidate("left a lung", reference)) == 0.0
    assert recall(candidate("xeljanz xeljanz xeljanz", "xeljanz")) == 1.0
    assert recall(candidate("xeljanz", "nothing of the kind")) == 1.0


def test_terms_come_from_a_list_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("Xeljanz\n\nleft lung\n")
    assert [term.spelling for term in take_terms(str(tmp_path / "terms.txt"))] == ["Xeljanz", "left lung"]
    with pytest.raises(InputError, match=r"objective.terms=.*gone.txt"):
        take_terms(str(tmp_path / "gone.txt"))
    with pytest.raises(InputError, match=r"objective.terms, which objective.rewards.term_recall needs"):
        Rewards({"term_recall": 1.0})


def test_a_weighted_sum_of_every_hypothesis(nano_like: Whisper) -> None:
    batch = make_batch(nano_like.tokens, 250, ("seven blue boats", "no"), (1.0, 2.0))
    texts = ["seven blue boats", "seven boats", "no", "yes"]
    written = [Hypothesis((), ended) for ended in (True, True, False, True)]
    rewards = Rewards({"wer": 1.0, "ended": 0.5, "cer": 0.0, "own": 0.01}, own=f"{__name__}.brevity")
    rewards.load()
    given = rewards.score(batch, Hypotheses(2, written, texts, [True] * 4))
    own = [-0.01 * seconds * len(text) for seconds, text in zip((1.0, 1.0, 2.0, 2.0), texts, strict=True)]
    expected = [0 + 0.5, -1 / 3 + 0.5, 0 + 0.0, -1 + 0.5]
    assert given.dtype == torch.float64
    assert given.flatten().tolist() == pytest.approx([one + two for one, two in zip(expected, own, strict=True)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"bleu": 1.0}}, r"objective.rewards has no bleu. It has: wer, cer"),
        ({"weights": {"wer": 0.0}}, r"every weight is 0"),
        ({"weights": {"model": 1.0}}, r"objective.rewards.model needs objective.reward_model"),
        ({"weights": {"own": 1.0}}, r"objective.own=None"),
        ({"weights": {"own": 1.0}, "own": "nowhere.at_all"}, r"objective.own=nowhere.at_all: No module named"),
        ({"weights": {"own": 1.0}, "own": f"{__name__}.gone"}, r"has no attribute 'gone'"),
        ({"weights": {"own": 1.0}, "own": f"{__name__}.NUMBER"}, r"is a int and no function"),
    ],
)
def test_what_is_no_reward(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rewards(**settings)


def test_a_function_is_found_by_its_path() -> None:
    assert find_function(f"{__name__}.brevity")(candidate("ab", "ab")) == -4.0
