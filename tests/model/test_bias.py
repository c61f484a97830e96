"""The trie as tensors, row by row the same as the trie; and decoding that is drawn to its terms."""

import random

import pytest
import torch
from whispers import awaken, make_batch

from attune.model.bias import TermBias, TermProcessor, make_bias
from attune.model.decode import decode_greedily
from attune.model.whisper import Whisper
from attune.text.trie import BETWEEN, Spelling, Trie
from attune.text.vocabulary import Term

LETTERS, WEIGHT, ROWS = 6, 1.5, 9


def draw(seed: int) -> tuple[Trie, random.Random]:
    rng = random.Random(seed)
    spellings = [
        Spelling(
            tuple(rng.randrange(LETTERS) for _ in range(rng.randint(1, 5))), rng.choice([0.5, 1, 2]), rng.random() < 0.6
        )
        for _ in range(rng.randint(1, 12))
    ]
    return Trie(spellings, [rng.random() < 0.3 for _ in range(LETTERS)]), rng


@pytest.mark.parametrize("seed", range(40))
def test_every_row_gets_the_bonus_of_its_own_text(seed: int) -> None:
    trie, rng = draw(seed)
    bias = TermBias(trie, WEIGHT)
    states, nodes = bias.start(ROWS), [BETWEEN] * ROWS
    for _ in range(20):
        favoured = bias.favour(torch.full((ROWS, LETTERS), 0.25), states)
        expected = [[0.25 + WEIGHT * trie.walk(node, token)[1] for token in range(LETTERS)] for node in nodes]
        torch.testing.assert_close(favoured, torch.tensor(expected))
        tokens = [rng.randrange(LETTERS) for _ in range(ROWS)]
        states = bias.follow(states, torch.tensor(tokens))
        nodes = [trie.walk(node, token)[0] for node, token in zip(nodes, tokens, strict=True)]
        assert states.tolist() == nodes


def test_what_is_impossible_stays_so() -> None:
    bias = TermBias(draw(0)[0], WEIGHT)
    assert bool(torch.isinf(bias.favour(torch.full((2, LETTERS), -torch.inf), bias.start(2))).all())


@pytest.mark.parametrize("seed", range(5))
def test_transformers_is_told_the_same_also_when_it_reorders_rows(seed: int) -> None:
    trie, rng = draw(seed)
    bias, ids = TermBias(trie, WEIGHT), torch.tensor([[rng.randrange(LETTERS)] for _ in range(3)])
    processor = TermProcessor(bias)
    for _ in range(12):
        expected = []
        for row in ids.tolist():
            node = BETWEEN
            for token in row:
                node = trie.walk(node, token)[0]
            expected.append([WEIGHT * trie.walk(node, token)[1] for token in range(LETTERS)])
        torch.testing.assert_close(processor(ids, torch.zeros(3, LETTERS)), torch.tensor(expected))
        beams = torch.tensor([rng.randrange(3) for _ in range(3)]) if rng.random() < 0.3 else torch.arange(3)
        ids = torch.cat([ids[beams], torch.tensor([[rng.randrange(LETTERS)] for _ in range(3)])], dim=1)


def test_decoding_is_drawn_to_a_term(any_whisper: Whisper) -> None:
    awake = awaken(any_whisper, seed=0)
    batch = make_batch(awake.tokens, positions=250)
    states = awake.encode(batch.waveform)
    limits = [24] * len(batch)
    plain = decode_greedily(awake, states, batch.prefixes, limits)
    bias = make_bias(awake, [Term("amoxicillin"), Term("warfarin")], 100.0)
    drawn = [
        awake.tokens.transcript(ids).lower() for ids in decode_greedily(awake, states, batch.prefixes, limits, bias)
    ]
    assert all(text.startswith(("amoxicillin", "warfarin")) for text in drawn)
    assert decode_greedily(awake, states, batch.prefixes, limits, bias.reweigh(0.0)) == plain


def test_neighbours_do_not_count(nano_like: Whisper) -> None:
    awake = awaken(nano_like, seed=1)
    batch = make_batch(awake.tokens, positions=250)
    states = awake.encode(batch.waveform)
    bias = make_bias(awake, [Term("amoxicillin"), Term("ulna"), Term("uterus", weight=2.0)], 0.7)
    together = decode_greedily(awake, states, batch.prefixes, [5, 12, 24], bias)
    for row, limit in enumerate([5, 12, 24]):
        alone = decode_greedily(awake, states[row : row + 1], batch.prefixes[row : row + 1], [limit], bias)
        assert alone == [together[row]]
