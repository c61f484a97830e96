"""The trie against its definition, read off the spellings by brute force."""

import random
from collections.abc import Sequence

import pytest

from attune.errors import InputError
from attune.text.tokens import Tokens
from attune.text.trie import BETWEEN, Spelling, Trie, find_openings, spell_terms
from attune.text.vocabulary import Term

LETTERS = 5


def earned(history: Sequence[int], spellings: Sequence[Spelling], opens: Sequence[bool]) -> float:
    """From left to right the longest completed spelling, and what may still become one at the end."""
    total, place = 0.0, 0
    while place < len(history):
        between = place == 0 or opens[history[place - 1]]
        allowed = [spelling for spelling in spellings if spelling.anywhere or between]
        rest = tuple(history[place:])
        if any(spelling.ids[: len(rest)] == rest for spelling in allowed):
            return total + weigh(rest, allowed)
        complete = [n for n in range(1, len(rest) + 1) if any(spelling.ids == rest[:n] for spelling in allowed)]
        total += weigh(rest[: max(complete)], allowed) if complete else 0.0
        place += max(complete, default=1)
    return total


def weigh(path: tuple[int, ...], allowed: Sequence[Spelling]) -> float:
    """Each token earns the largest weight of the spellings that begin as the path does up to it."""
    ends = range(1, len(path) + 1)
    return sum(max(each.weight for each in allowed if each.ids[:end] == path[:end]) for end in ends)


def follow(trie: Trie, history: Sequence[int]) -> list[float]:
    """The bonus of every token."""
    node, bonuses = BETWEEN, []
    for token in history:
        node, bonus = trie.walk(node, token)
        bonuses.append(bonus)
    return bonuses


def draw(rng: random.Random) -> tuple[list[Spelling], list[bool]]:
    spellings = [
        Spelling(
            tuple(rng.randrange(LETTERS) for _ in range(rng.randint(1, 5))),
            rng.choice([0.5, 1.0, 2.0]),
            rng.random() < 0.6,
        )
        for _ in range(rng.randint(1, 8))
    ]
    return spellings, [rng.random() < 0.3 for _ in range(LETTERS)]


@pytest.mark.parametrize("seed", range(300))
def test_every_path_earns_what_the_definition_says(seed: int) -> None:
    rng = random.Random(seed)
    spellings, opens = draw(rng)
    trie = Trie(spellings, opens)
    for _ in range(20):
        history = [rng.randrange(LETTERS) for _ in range(14)]
        bonuses = follow(trie, history)
        for length in range(1, len(history) + 1):
            assert sum(bonuses[:length]) == pytest.approx(earned(history[:length], spellings, opens)), history[:length]


def make(*spellings: Sequence[int]) -> Trie:
    return Trie([Spelling(tuple(ids), 1.0, True) for ids in spellings], [False] * 10)


def test_a_broken_match_gives_everything_back() -> None:
    assert follow(make([1, 2, 3, 4]), [1, 2, 3, 9]) == [1, 1, 1, -3]
    assert follow(make([1, 2, 3, 4]), [1, 2, 3, 4]) == [1, 1, 1, 1]


def test_a_term_that_begins_inside_a_broken_one_is_found() -> None:
    assert sum(follow(make([1, 2, 3, 4], [2, 3, 5]), [1, 2, 3, 5])) == 3
    assert follow(make([1, 2, 3, 4], [2, 3]), [1, 2, 3, 9]) == [1, 1, 1, -1]  # 2 3 is complete


def test_a_term_that_is_the_beginning_of_another_keeps_its_own() -> None:
    trie = make([1, 2], [1, 2, 3, 4])
    assert follow(trie, [1, 2, 9]) == [1, 1, 0]
    assert follow(trie, [1, 2, 3, 9]) == [1, 1, 1, -1]
    assert sum(follow(trie, [1, 2, 3, 1, 2])) == 4


def test_a_repeated_beginning() -> None:
    assert sum(follow(make([1, 1, 2]), [1, 1, 1, 2])) == 3


def encode(tokens: Tokens, text: str) -> list[int]:
    return tokens.tokenizer.encode(text, add_special_tokens=False)


def make_of(tokens: Tokens, *terms: str) -> Trie:
    return Trie(
        spell_terms([Term(term, place=f"line {n}") for n, term in enumerate(terms)], tokens),
        find_openings(tokens, len(tokens.tokenizer)),
    )


@pytest.mark.parametrize("before", ["", ' "', " a", " (", " half-"])
@pytest.mark.parametrize("written", [" warfarin", " Warfarin", "warfarin", "Warfarin"])
def test_spaces_and_cases(nano_tokens: Tokens, before: str, written: str) -> None:
    trie, ids = make_of(nano_tokens, "Warfarin"), encode(nano_tokens, before + written)
    is_inside_a_word = before == " a" and not written.startswith(" ")
    assert sum(follow(trie, ids)) == (0 if is_inside_a_word else len(encode(nano_tokens, written)))


def test_no_term_begins_inside_a_word(nano_tokens: Tokens) -> None:
    trie = make_of(nano_tokens, "or")
    assert sum(follow(trie, encode(nano_tokens, " aorta"))) == 0
    assert sum(follow(trie, encode(nano_tokens, " a or"))) > 0


def test_scripts_without_spaces_begin_a_term_anywhere(nano_tokens: Tokens) -> None:
    trie = make_of(nano_tokens, "北京", "京都")
    term = len(encode(nano_tokens, "北京"))
    assert sum(follow(trie, encode(nano_tokens, "我在北京工作"))) == term
    assert sum(follow(trie, encode(nano_tokens, "我在北京都"))) == term  # the first of two that overlap
    assert sum(follow(trie, encode(nano_tokens, "我在京都"))) == term


def test_characters_that_no_piece_has_are_spelt_in_bytes(nano_tokens: Tokens) -> None:
    ids = encode(nano_tokens, " ☃")
    assert len(ids) >= 3 and follow(make_of(nano_tokens, "☃x"), ids) == [1.0] * len(ids)


def test_special_tokens_open_a_word(nano_tokens: Tokens) -> None:
    trie = make_of(nano_tokens, "warfarin")
    ids = encode(nano_tokens, "warfarin")
    assert sum(follow(trie, [nano_tokens.first_timestamp, *ids])) == len(ids)


def test_a_term_that_no_token_spells(nano_tokens: Tokens) -> None:
    terms = [Term("fine"), Term("<|endoftext|>", place="terms.txt, line 7")]
    with pytest.raises(InputError, match=r"terms.txt, line 7: no tokens that this Whisper may write spell"):
        spell_terms(terms, nano_tokens)
    hash_sign = encode(nano_tokens, "#")
    with pytest.raises(InputError, match=r"spell the term 'C#'"):
        spell_terms([Term("C#")], nano_tokens, suppressed=hash_sign)
