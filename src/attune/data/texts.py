"""What the transcripts of a corpus are made of: characters, words, scripts, and sentences that stand in two splits."""

import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import regex
from datasets import Dataset
from jaxtyping import Bool, Float32, Int

from attune.data.findings import Findings
from attune.text.normalise import characters, normalise
from attune.text.tokens import Tokens

RARE = 2  # a word that is said at most so often
TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "BOPOMOFO": "CJK"}  # written in one word
FEWEST_PACED = 10  # rows that a median is taken of
FAST, SLOW = 2.5, 5.0  # times the median
SLOWEST_FAST = 8.0  # characters a second: what nobody calls fast in any script
SHORTEST_SLOW_S = 2.0  # a long pause around one short word is usual
DIGITS = regex.compile(r"\S*\p{Nd}\S*")  # a word that holds one
TEXT_COLUMNS = ["id", "text", "language", "speaker", "place"]


@dataclass
class SplitTexts:
    """The texts of one split.

    Args:
        spoken, spoken_words: of each row how many characters and words it has, normalised.
        hashes: of each row's normalised text. sentences: all of them, but for those without a word.
        words, letters: how often each; letters as written. Where a language is written without spaces, each character
            is a word, as for WER.
        speakers: who, and in how many utterances.
    """

    spoken: array = field(default_factory=lambda: array("i"))
    spoken_words: array = field(default_factory=lambda: array("i"))
    hashes: array = field(default_factory=lambda: array("q"))
    sentences: set[int] = field(default_factory=set)
    words: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    speakers: Counter[str] = field(default_factory=Counter)

    def leave_out(self, dataset: Dataset, usable: Bool[np.ndarray, "row"]) -> None:
        """Take what rows that cannot be used say, and who says it, out of sentences, words, letters and speakers."""
        if usable.all():
            return
        self.sentences &= {said for said, is_usable in zip(self.hashes, usable, strict=True) if is_usable}
        for row in iterate(dataset.select(np.flatnonzero(~usable)), TEXT_COLUMNS):
            self.words.subtract(normalise(row["text"], row["language"]).split())
            self.letters.subtract(row["text"])
            self.speakers.subtract([row["speaker"]] * (row["speaker"] is not None))
        # Without those that nobody is left to say.
        self.words, self.letters, self.speakers = +self.words, +self.letters, +self.speakers

    @property
    def rare(self) -> list[str]:
        return [word for word, times in self.words.items() if times <= RARE]


def read_texts(split: str, dataset: Dataset, tokens: Tokens, findings: Findings) -> SplitTexts:
    """Go once over a split's texts."""
    texts, spelling = SplitTexts(), Spelling(tokens)
    for row in iterate(dataset, TEXT_COLUMNS):
        written, words = row["text"], normalise(row["text"], row["language"])
        said = characters(words, row["language"])
        texts.spoken.append(len(said))
        texts.spoken_words.append(len(words.split()))
        texts.letters.update(written)
        texts.words.update(words.split())
        if row["speaker"] is not None:
            texts.speakers[row["speaker"]] += 1
        texts.hashes.append(hash(words))
        if hash(words) in texts.sentences:
            findings.add("duplicate_text", split, row, f"{said[:60]!r} stands above")
        elif words:
            texts.sentences.add(hash(words))
        _judge(split, row, words, spelling, findings)
    return texts


def iterate(dataset: Dataset, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row; a thousand rows are held at a time."""
    for batch in dataset.select_columns(columns).iter(1000):
        yield from (dict(zip(columns, cells, strict=True)) for cells in zip(*(batch[c] for c in columns), strict=True))  # type: ignore[index, call-overload]


def read_names(dataset: Dataset, indices: Int[np.ndarray, "row"]) -> Iterator[dict[str, Any]]:
    """id and place of some rows, read together: one by one, a hundred thousand would take half a minute."""
    return iterate(dataset.select(indices), ["id", "place"])


def _judge(split: str, row: Mapping[str, Any], words: str, spelling: "Spelling", findings: Findings) -> None:
    written = row["text"]
    if not written.strip():
        return findings.add("empty_text", split, row, "no text")
    if not words:
        findings.add("no_words", split, row, f"{written[:60]!r} has no word")
    if mixed := next((word for word in words.split() if count_scripts(word) > 1), None):
        findings.add("mixed_scripts", split, row, f"{mixed!r} holds {' and '.join(sorted(find_scripts(mixed)))}")
    if digits := DIGITS.search(words):
        findings.add("digits", split, row, f"{digits[0]!r}")
    if strange := spelling.find_in_bytes(written):
        findings.add("spelt_in_bytes", split, row, "".join(sorted(strange))[:20])


class Spelling:
    """Which characters a tokenizer has no token for, asked once each."""

    def __init__(self, tokens: Tokens):
        self.tokenizer = tokens.tokenizer
        self.known: set[str] = {" ", "\n"}
        self.in_bytes: set[str] = set()

    def find_in_bytes(self, text: str) -> set[str]:
        letters = set(text)
        for letter in letters - self.known:
            self.known.add(letter)
            if len(self.tokenizer.encode(letter, add_special_tokens=False)) > 1:
                self.in_bytes.add(letter)
        return letters & self.in_bytes


@lru_cache(maxsize=100_000)
def count_scripts(word: str) -> int:
    return 1 if word.isascii() else len(find_scripts(word))


def find_scripts(word: str) -> set[str]:
    """The scripts of a word's letters, by their Unicode names: LATIN, CYRILLIC; Chinese and Japanese are one."""
    return {script for letter in word if letter.isalpha() if (script := _find_script(letter))}


@lru_cache(maxsize=10_000)
def _find_script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0]
    return TOGETHER.get(name, name)


def judge_pace(
    split: str, dataset: Dataset, texts: SplitTexts, durations_s: Float32[np.ndarray, "row"], findings: Findings
) -> None:
    """Compare each row's characters a second with the split's median: text too long for its audio, or too short.

    Rows of 0 s are left out.

    The median takes the script into account: a Chinese character is a syllable, a Latin one less than half of it.
    """
    spoken = np.asarray(texts.spoken)
    heard = (durations_s > 0) & (spoken > 0)
    if heard.sum() < FEWEST_PACED:
        return
    pace = np.divide(spoken, durations_s, out=np.zeros(len(spoken)), where=heard)
    median = float(np.median(pace[heard]))
    fast = heard & (pace > FAST * median) & (pace > SLOWEST_FAST)
    slow = heard & (pace < median / SLOW) & (durations_s > SHORTEST_SLOW_S)
    for rule, wrong in (("too_fast", fast), ("too_slow", slow)):
        indices = np.flatnonzero(wrong)
        for index, row in zip(indices, read_names(dataset, indices), strict=True):
            findings.add(rule, split, row, f"{pace[index]:.1f} characters a second, and {median:.1f} is usual here")


@dataclass(frozen=True)
class Shared:
    """What a scored split has in common with what is learnt.

    Args:
        ids: utterances whose sentence is learnt too.
        speakers: who is also learnt from.
    """

    ids: frozenset[str] = frozenset()
    speakers: tuple[str, ...] = ()


def find_shared(
    split: str,
    dataset: Dataset,
    own: SplitTexts,
    usable: Bool[np.ndarray, "row"],
    learnt: Sequence[SplitTexts],
    findings: Findings,
) -> Shared:
    """Sentences and speakers of a scored split that are learnt too; sentences are compared normalised.

    Args:
        own, usable: of the split, and which of its rows are scored.
    """
    sentences = set().union(*(texts.sentences for texts in learnt))
    speakers = set().union(*(texts.speakers.keys() for texts in learnt))
    if own.sentences.isdisjoint(sentences) and speakers.isdisjoint(own.speakers):
        return Shared()
    ids: list[str] = []
    who: dict[str, None] = {}
    for row, said, is_scored in zip(iterate(dataset, TEXT_COLUMNS), own.hashes, usable, strict=True):
        if not is_scored:
            continue
        if said in sentences:
            ids.append(row["id"])
            findings.add("shared_sentences", split, row, f"{row['text'].strip()[:60]!r} is learnt too")
        if row["speaker"] in speakers and row["speaker"] not in who:
            who[row["speaker"]] = None
            findings.add("shared_speakers", split, row, f"{row['speaker']} is learnt from too")
    return Shared(frozenset(ids), tuple(who))
