"""Hypotheses: drawn with the chances that are computed, the same whatever stands beside them; searched in order."""

from collections import Counter

import pytest
import torch
from test_decode import LENGTHS_S, NEW, TEXTS, awaken_for_text, make_writer
from whispers import awaken, hear, make_batch

from attune.data.batch import Batch
from attune.model.likelihood import find_suppressed, score_hypotheses
from attune.model.sample import Hypothesis, draw_uniforms, invert, sample, search
from attune.model.whisper import Whisper


def draw(whisper: Whisper, batch: Batch, rows: list[int], samples: int = 3, new: int = NEW) -> list[list[Hypothesis]]:
    """Hypotheses of some rows of a batch, seeded by row."""
    with torch.no_grad():
        states = hear(whisper, batch)[rows]
    prefixes = [batch.prefixes[row] for row in rows]
    return sample(whisper, states, prefixes, [new - 2 * row for row in rows], [7 + row for row in rows], samples)


def test_inversion_takes_the_first_token_above() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().repeat(6, 1)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.9999])
    assert invert(logits, uniforms).tolist() == [0, 0, 1, 1, 3, 3]
    assert invert(torch.tensor([[0.0, 1.0]]).log(), torch.tensor([0.0])).tolist() == [1]


@pytest.mark.parametrize("size", [3, 255, 256, 257, 51_865])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_inversion_is_that_of_exact_sums(size: int, temperature: float) -> None:
    """But for numbers at the very edge between two tokens; and whatever the number, never a suppressed token."""
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(200, size, generator=generator)
    logits[:, ::2] = -torch.inf
    logits[:, -size // 3 :] = -torch.inf
    logits[:, 1] = 0.0
    uniforms = torch.rand(200, generator=generator)
    uniforms[:4] = torch.tensor([0.0, 1e-9, 1 - 1e-7, 1.0])
    found = invert(logits, uniforms, temperature)
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    wanted = uniforms.double()[:, None]
    assert (logits.gather(1, found[:, None]) > -torch.inf).all()
    assert (cumulative.gather(1, found[:, None]) > wanted - 1e-6).all()
    before = cumulative.gather(1, (found[:, None] - 1).clamp(min=0)).where(found[:, None] > 0, 0.0)
    assert (before < wanted + 1e-6).all()


def test_numbers_depend_on_their_own_seed_and_steps() -> None:
    together, alone = draw_uniforms([3, 4], 2, [5, 9]), draw_uniforms([3], 2, [5])
    assert together.shape == (2, 2, 9) and torch.equal(together[:1, :, :5], alone)
    assert not together[0, :, 5:].any() and ((together >= 0) & (together < 1)).all()


@pytest.mark.parametrize("temperature", [0.3, 0.15])
def test_tokens_are_drawn_with_the_chances_that_are_computed(nano_like: Whisper, temperature: float) -> None:
    """4000 draws of the first token: each of the five likeliest within four standard errors of its chance."""
    whisper, count = awaken(nano_like, 3), 4000
    batch = make_batch(whisper.tokens, 250, TEXTS[:1], LENGTHS_S[:1])
    with torch.no_grad():
        states = hear(whisper, batch)
        logits = whisper.project(whisper.decode(states, torch.tensor(batch.prefixes)))[0, -1]
        logits[[id for ids in find_suppressed(whisper) for id in ids]] = -torch.inf
        drawn = Counter(sample(whisper, states, batch.prefixes, [1], [11], count, temperature)[0])
        for token in logits.topk(5).indices.tolist():
            ended = token == whisper.tokens.end_of_text
            hypothesis = Hypothesis(() if ended else (token,), ended)
            chance = float(score_hypotheses(whisper, states, batch.prefixes, [hypothesis], temperature).of_rows.exp())
            assert chance == pytest.approx(float((logits / temperature).softmax(dim=-1)[token]), rel=1e-3)
            assert abs(drawn[hypothesis] / count - chance) < 4 * (chance * (1 - chance) / count) ** 0.5


@pytest.mark.parametrize("seed", [1, 4])
def test_neighbours_do_not_count(any_whisper: Whisper, seed: int) -> None:
    """Nor do prompts of other lengths beside them."""
    prompts = [None, "Once upon a time, in the harbour.", "No.", None, "Seven blue boats came in."]
    whisper = awaken_for_text(any_whisper, seed)
    batch = make_batch(whisper.tokens, 250, TEXTS, LENGTHS_S, prompts)
    together = draw(whisper, batch, [0, 1, 2, 3, 4])
    assert [draw(whisper, batch, [row])[0] for row in range(5)] == together
    assert all(len(group) == 3 for group in together)
    assert len({hypothesis for group in together for hypothesis in group}) > 10


@pytest.mark.parametrize("limit", [1, NEW])
def test_the_limit_cuts_off_and_the_end_does_not(any_whisper: Whisper, limit: int) -> None:
    """At so low a temperature it writes nearly what it writes greedily, and that ends at different places."""
    writer, batch, _ = make_writer(any_whisper, 1, 250)
    with torch.no_grad():
        states = hear(writer, batch)
    groups = sample(writer, states, batch.prefixes, [limit] * 5, range(5), 8, temperature=0.02)
    drawn = [hypothesis for group in groups for hypothesis in group]
    assert len(drawn) == 40
    for hypothesis in drawn:
        assert writer.tokens.end_of_text not in hypothesis.ids
        assert len(hypothesis.ids) < limit if hypothesis.ended else len(hypothesis.ids) == limit
    assert any(hypothesis.ended == (limit == NEW) for hypothesis in drawn)


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_one_beam_is_greedy(any_whisper: Whisper, seed: int) -> None:
    writer, batch, written = make_writer(any_whisper, seed, 250)
    with torch.no_grad():
        found = search(writer, hear(writer, batch), batch.prefixes, [NEW] * len(batch), 1)
    assert [list(group[0].ids) for group in found] == written
    assert [group[0].ended for group in found] == [len(row) < NEW for row in written]


@pytest.mark.parametrize("seed", [0, 5])
def test_beams_are_different_and_the_likeliest_comes_first(any_whisper: Whisper, seed: int) -> None:
    writer, batch, _ = make_writer(any_whisper, seed, 250)
    with torch.no_grad():
        states = hear(writer, batch)
        found = search(writer, states, batch.prefixes, [6, 9, 9, 6, 9], 4)
        assert [len(group) for group in found] == [4] * 5
        assert all(len(set(group)) == 4 for group in found)
        written = [hypothesis for group in found for hypothesis in group]
        prefixes = [prefix for prefix in batch.prefixes for _ in range(4)]
        scores = score_hypotheses(writer, states.repeat_interleave(4, dim=0), prefixes, written).of_rows.view(5, 4)
    assert (scores[:, :-1] >= scores[:, 1:] - 1e-3).all()
    alone = search(writer, states[1:2], batch.prefixes[1:2], [9], 4)
    assert alone[0] == found[1]


def test_a_wider_beam_finds_all_there_is(nano_like: Whisper) -> None:
    """With two tokens that may be written and two steps: the end at once, or behind one letter, or two letters."""
    whisper = awaken(nano_like, 2)
    config = whisper.network.generation_config
    allowed = {5, 6, whisper.tokens.end_of_text}
    config.suppress_tokens = [id for id in range(len(whisper.tokens.tokenizer)) if id not in allowed]
    batch = make_batch(whisper.tokens, 250, TEXTS[:1], LENGTHS_S[:1])
    with torch.no_grad():
        states = hear(whisper, batch)
        found = search(whisper, states, batch.prefixes, [2], 9)[0]
        total = score_hypotheses(whisper, states.repeat(7, 1, 1), batch.prefixes * 7, found).of_rows.exp().sum()
    letters = [(5,), (6,)]
    ended = [Hypothesis((), True), *(Hypothesis(one, True) for one in letters)]
    cut = [Hypothesis((*one, *other), False) for one in letters for other in letters]
    assert set(found) == {*ended, *cut} and len(found) == 7
    assert float(total) == pytest.approx(1.0, abs=1e-5)
