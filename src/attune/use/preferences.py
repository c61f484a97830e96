"""What people are asked, and what they answered: a row of data=pairs an answer."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from attune.errors import InputError
from attune.score.agreement import Agreement, compute_agreement
from attune.score.metrics import align, align_characters, count_character_errors
from attune.text.normalise import spells_without_spaces
from attune.use.journal import Journal, Row
from attune.use.pairs import KEPT

CHOICES = ("a", "b", "tie", "bad", "correct")
ANSWERED = ("utterance", "answer", "chosen", "texts", "rater", "round")  # what every answer has
LONGEST_NAME = 40
LONGEST_TEXT = 2000  # more characters than 30 s of speech have
Asked = tuple[str, frozenset[str]]  # the utterance, and the two transcripts in whatever order
Marked = list[tuple[str, bool]]  # pieces of a text, and whether the other text has something else there


@dataclass(frozen=True)
class Question:
    """Which of two transcripts is better, as one rater sees it.

    Args:
        number: its row in candidates.jsonl.
        row: that row.
        order: which of the row's texts is A, and which is B: (0, 1) or (1, 0).
    """

    number: int
    row: Mapping[str, Any]
    order: tuple[int, int]

    @property
    def texts(self) -> tuple[str, str]:
        """A and B."""
        return self.row["texts"][self.order[0]], self.row["texts"][self.order[1]]


class Poll:
    """Questions and answers.

    Args:
        candidates: rows of `candidates.describe_candidate`; it may grow meanwhile.
        answers: what was answered before, in the form of `answer`.
        seed: of the order of A and B, which differs from rater to rater: nobody can tell which transcript is whose.
    """

    def __init__(self, candidates: Journal, answers: Journal, seed: int):
        self.candidates, self.answers, self.seed = candidates, answers, seed

    @property
    def round(self) -> int:
        """The latest; each is of one model."""
        return max((row["round"] for row in self.candidates.rows), default=1)

    def find_open(self, rater: str) -> list[Question]:
        """What a rater has not answered of this round. A pair that was judged in an earlier one is not asked again."""
        answered, latest = {_key(row) for row in self.answers.rows if row["rater"] == rater}, self.round
        return [
            self._ask(number, row, rater)
            for number, row in enumerate(self.candidates.rows)
            if row["round"] == latest and row["texts"] and _key(row) not in answered
        ]

    def _ask(self, number: int, row: Row, rater: str) -> Question:
        drawn = random.Random(f"order {self.seed} {row['round']} {row['id']} {rater}").random()
        return Question(number, row, (0, 1) if drawn < 0.5 else (1, 0))

    def answer(self, number: int, rater: str, choice: str, text: str = "") -> bool:
        """Write an answer down; False where this rater has answered it before, as in another tab.

        A corrected text is preferred to the transcript that it is nearest to, from which it differs by what was wrong
        there; one that equals A or B is a choice of that.

        Args:
            choice: one of CHOICES.
            text: the corrected one.

        Raises:
            InputError: there is no such question or choice, or the text is empty or too long.
            OSError: it could not be written.
        """
        if choice not in CHOICES:
            raise InputError(f"choice is {choice!r}; accepted: {', '.join(CHOICES)}.")
        with self.answers.lock:
            question = next((each for each in self.find_open(rater) if each.number == number), None)
            if question is None:
                if not 0 <= number < len(self.candidates.rows):
                    raise InputError(f"There is no question {number}.")
                return False
            self.answers.append(self._describe(question, rater, *_judge(question, choice, text)))
        return True

    def _describe(
        self, question: Question, rater: str, answer: str, chosen: str | None, rejected: str | None
    ) -> dict[str, Any]:
        row = question.row
        return {
            **{name: row[name] for name in ("audio", *KEPT) if name in row},
            "chosen": chosen,
            "rejected": rejected,
            # Several people may judge an utterance, and each of them several pairs of it: an id is one row's alone.
            "id": f"{row['id']}, round {row['round']}, {rater}",
            "utterance": row["id"],
            "answer": answer,
            "texts": row["texts"],
            "order": list(question.order),
            "rater": rater,
            "round": row["round"],
            "model": row["model"],
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def take_back(self, rater: str) -> bool:
        """Remove a rater's latest answer; False where there is none in this round."""
        with self.answers.lock:
            latest = self.round
            own = [row for row in self.answers.rows if row["rater"] == rater and row["round"] == latest]
            if own:
                self.answers.remove(own[-1])
            return bool(own)

    def count_pairs(self) -> int:
        """Answers that say which of two texts is better: what there is to learn from."""
        return sum(row["chosen"] is not None for row in self.answers.rows)

    def count_raters(self) -> dict[str, int]:
        """Answers of each rater, in the order in which they came."""
        return dict(Counter(row["rater"] for row in self.answers.rows))

    def compute_agreement(self) -> Agreement | None:
        """Over the questions that several people answered: the model's own text, the drawn one, tie, or both bad. Who
        corrects finds both bad."""
        given: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for row in self.answers.rows:
            given[row["utterance"], *row["texts"]].append("bad" if row["answer"] == "corrected" else row["answer"])
        return compute_agreement(list(given.values()))


def _key(row: Mapping[str, Any]) -> Asked:
    return row.get("utterance", row["id"]), frozenset(row["texts"] or ())


def _judge(question: Question, choice: str, text: str) -> tuple[str, str | None, str | None]:
    """(answer, chosen, rejected) of a choice."""
    if choice in ("tie", "bad"):
        return choice, None, None
    sides = list(question.texts)
    if choice == "correct":
        text = " ".join(text.encode("utf-8", errors="replace").decode().split())  # no half of a character
        if not text or len(text) > LONGEST_TEXT:
            raise InputError(
                f"A corrected text has 1 to {LONGEST_TEXT} characters, and this one {len(text)}. If nothing was said, "
                "choose “both bad”."
            )
        if text not in sides:
            return "corrected", text, min(sides, key=lambda side: count_character_errors(text, side).total)
        choice = "ab"[sides.index(text)]
    side = "ab".index(choice)
    return ("first", "second")[question.order[side]], sides[side], sides[1 - side]


def check_rater(name: str) -> str:
    """A name as it is written down.

    Raises:
        InputError: it is none.
    """
    name = " ".join(name.split())
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InputError(f"A rater's name has 1 to {LONGEST_NAME} characters that can be printed; this is {name!r}.")
    return name


def mark_differences(one: str, other: str, language: str | None) -> tuple[Marked, Marked]:
    """Two texts in pieces, word by word as written; character by character where words are not spaced."""
    spaced = not spells_without_spaces(language)
    pairs = align(one, other) if spaced else align_characters(one, other)
    sides: tuple[Marked, Marked] = ([], [])
    for differs, run in groupby(pairs, key=lambda pair: pair[0] != "equal"):
        for side, words in zip(sides, list(zip(*run, strict=True))[1:], strict=True):
            if piece := _join(words, spaced):
                side.append((piece, differs))
    return sides


def _join(words: Sequence[str], spaced: bool) -> str:
    return (" " if spaced else "").join(filter(None, words))
