"""MWER and GRPO against sums over every sequence of a model so small that they can all be written down.

It writes a, b or the end, at most three tokens, and its chances are a table: softmax(table[what was written before]).
"""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from attune.model.likelihood import TokenScores
from attune.train.objective.dpo import compute_preference_loss
from attune.train.objective.grpo import Grpo, compute_advantages, compute_policy_terms
from attune.train.objective.mwer import compute_expected_errors, compute_posteriors

END, LONGEST = 2, 3
PREFIXES = [prefix for length in range(LONGEST) for prefix in product((0, 1), repeat=length)]
# With its end where it has one; what reaches three letters is cut off.
SEQUENCES = [(*prefix, END) for prefix in PREFIXES] + list(product((0, 1), repeat=LONGEST))


@pytest.fixture
def table() -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(len(PREFIXES), 3, generator=generator, dtype=torch.float64).requires_grad_()


def score(table: Tensor, sequences: list[tuple[int, ...]]) -> TokenScores:
    places = [
        (row, PREFIXES.index(sequence[:place]), token)
        for row, sequence in enumerate(sequences)
        for place, token in enumerate(sequence)
    ]
    rows, prefixes, tokens = (torch.tensor(column) for column in zip(*places, strict=True))
    chances = table.log_softmax(dim=-1)
    entropies = -(chances.exp() * chances).sum(dim=-1)[prefixes].detach()
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return TokenScores(chances[prefixes, tokens], entropies, rows, lengths)


def compute_gradient(value: Tensor, table: Tensor) -> Tensor:
    return torch.autograd.grad(value, table, retain_graph=True)[0]


def draw_worth(seed: int) -> Tensor:
    return torch.randint(0, 6, (len(SEQUENCES),), generator=torch.Generator().manual_seed(seed)).double()


def test_these_are_all_the_sequences(table: Tensor) -> None:
    assert len(SEQUENCES) == 15
    assert float(score(table, SEQUENCES).of_rows.exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_mwer_over_all_sequences_is_the_expected_number_of_errors(table: Tensor) -> None:
    errors, is_first = draw_worth(1)[None], torch.ones(1, len(SEQUENCES), dtype=torch.bool)
    chances = score(table, SEQUENCES).of_rows
    loss = compute_expected_errors(compute_posteriors(chances[None], is_first), errors, is_first).sum()
    expected = (chances.exp() * errors[0]).sum()
    torch.testing.assert_close(compute_gradient(loss, table), compute_gradient(expected, table), atol=1e-5, rtol=0)
    assert float(loss) == pytest.approx(float(expected - errors.mean()), abs=1e-9)


def test_mwer_over_some_renormalises_and_counts_a_repetition_once(table: Tensor) -> None:
    chosen, errors = [3, 8, 3, 11, 0], draw_worth(2)
    is_first = torch.tensor([[True, True, False, True, True]])
    chances = score(table, [SEQUENCES[place] for place in chosen]).of_rows
    loss = compute_expected_errors(compute_posteriors(chances[None], is_first), errors[chosen][None], is_first).sum()
    once = [3, 8, 11, 0]
    each = score(table, [SEQUENCES[place] for place in once]).of_rows.exp()
    expected = (each * errors[once]).sum() / each.sum()
    torch.testing.assert_close(compute_gradient(loss, table), compute_gradient(expected, table), atol=1e-5, rtol=0)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_grpo_in_expectation_over_all_groups_raises_the_expected_reward(table: Tensor, clip: float | None) -> None:
    """sum over all pairs p(y) p(y') gradient = -(1 - 1/G) gradient of sum p(y) r(y): the baseline is unbiased but for
    the hypothesis's own part in it."""
    objective = Grpo(samples=2, divide_by_deviation=False, length_normalised=False, kl=0.0)
    rewards, total = draw_worth(3), torch.zeros_like(table)
    chances = score(table, SEQUENCES).of_rows.exp()
    for one, other in product(range(len(SEQUENCES)), repeat=2):
        scores = score(table, [SEQUENCES[one], SEQUENCES[other]])
        advantages = compute_advantages(rewards[[one, other]][None], None, divide_by_deviation=False)
        terms = compute_policy_terms(scores, None, None, advantages.flatten(), clip)
        gradient = compute_gradient(objective._sum(terms.surrogate, scores), table)
        total += float(chances[one] * chances[other]) * gradient
    expected = compute_gradient((chances * rewards).sum(), table)
    torch.testing.assert_close(total, -(1 - 1 / 2) * expected, atol=1e-5, rtol=0)


def test_self_critical_training_in_expectation_raises_the_expected_reward(table: Tensor) -> None:
    """Whatever the baseline: sum p(y) gradient = -gradient of sum p(y) r(y)."""
    objective = Grpo(samples=1, baseline="greedy", divide_by_deviation=False, length_normalised=False, kl=0.0)
    rewards, total = draw_worth(5), torch.zeros_like(table)
    chances = score(table, SEQUENCES).of_rows.exp()
    for place, sequence in enumerate(SEQUENCES):
        scores = score(table, [sequence])
        advantages = compute_advantages(rewards[place].view(1, 1), torch.tensor([[2.5]]).double(), False)
        terms = compute_policy_terms(scores, None, None, advantages.flatten(), None)
        total += float(chances[place]) * compute_gradient(objective._sum(terms.surrogate, scores), table)
    torch.testing.assert_close(total, -compute_gradient((chances * rewards).sum(), table), atol=1e-5, rtol=0)


def test_the_divergence_in_expectation_is_the_kl(table: Tensor) -> None:
    """sum_y p(y) sum_t estimate = sum over prefixes of the chance to come there times KL(p || q) there."""
    other = torch.randn(table.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    scores, reference = score(table, SEQUENCES), score(other, SEQUENCES).log_probabilities
    terms = compute_policy_terms(scores, None, reference, torch.zeros(len(SEQUENCES)).double(), 0.2)
    estimated = (scores.of_rows.exp() * scores.sum_rows(terms.divergence)).sum()
    ours, theirs = table.log_softmax(dim=-1), other.log_softmax(dim=-1)
    exact = torch.zeros(()).double()
    for prefix in PREFIXES:
        coming = score(table, [prefix]).of_rows.exp()[0] if prefix else torch.ones(())
        place = PREFIXES.index(prefix)
        exact = exact + coming * (ours[place].exp() * (ours[place] - theirs[place])).sum()
    assert float(estimated) == pytest.approx(float(exact), abs=1e-9)
    assert (terms.divergence >= 0).all()
    same = compute_policy_terms(scores, None, scores.log_probabilities.detach(), torch.zeros(15).double(), 0.2)
    assert float(same.divergence.abs().max()) == 0.0
    assert not compute_gradient(same.divergence.sum(), table).abs().max() > 1e-12


def test_the_ratio_is_clipped_where_it_has_gone_far_enough(table: Tensor) -> None:
    """rho = 1.5, 1.5, 0.5, 0.5 with A = 1, -1, 1, -1: the first stays at 1.2 and the last at 0.8, without gradient."""
    scores = score(table, [(END,)] * 4)
    before = scores.log_probabilities.detach() - torch.tensor([1.5, 1.5, 0.5, 0.5]).double().log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
    terms = compute_policy_terms(scores, before, None, advantages, 0.2)
    assert terms.surrogate.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert terms.clip_share == 0.5
    for place, moves in enumerate([False, True, True, False]):
        gradient = torch.autograd.grad(terms.surrogate[place], table, retain_graph=True)[0]
        assert bool(gradient.abs().max() > 1e-9) == moves
    free = compute_policy_terms(scores, before, None, advantages, None)
    assert free.surrogate.tolist() == pytest.approx([-1.5, 1.5, -0.5, 0.5]) and free.clip_share == 0.0


@pytest.mark.parametrize("divide", [True, False])
def test_advantages_by_hand(divide: bool) -> None:
    rewards = torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.1, 0.1, 0.1, 0.1]]).double()
    advantages = compute_advantages(rewards, None, divide)
    deviation = math.sqrt(0.5) if divide else 1.0
    assert advantages[0].tolist() == pytest.approx([-1 / deviation, 1 / deviation, 0.0, 0.0])
    assert advantages[1].tolist() == [0.0] * 4  # exactly, whatever the mean of tenths rounds to
    against = compute_advantages(rewards[:, :1], torch.tensor([[0.5], [0.1]]).double(), divide)
    assert against.flatten().tolist() == pytest.approx([0.5, 0.0])


def test_length_normalisation_counts_hypotheses_alike(table: Tensor) -> None:
    scores, losses = score(table, [(0, 0, END), (END,)]), torch.tensor([3.0, 3.0, 3.0, 5.0]).double()
    assert float(Grpo(samples=2, length_normalised=True)._sum(losses, scores)) == pytest.approx((3 + 5) / 2)
    assert float(Grpo(samples=2, length_normalised=False)._sum(losses, scores)) == pytest.approx((9 + 5) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_preference_in_closed_form(smoothing: float) -> None:
    margins = torch.tensor([0.3, -1.2, 0.0]).double().requires_grad_()
    losses = compute_preference_loss(margins, smoothing)
    sigmoid = [1 / (1 + math.exp(-margin)) for margin in margins.tolist()]
    expected = [-(1 - smoothing) * math.log(s) - smoothing * math.log(1 - s) for s in sigmoid]
    assert losses.tolist() == pytest.approx(expected, abs=1e-9)
    gradient = torch.autograd.grad(losses.sum(), margins)[0]
    assert gradient.tolist() == pytest.approx([s - (1 - smoothing) for s in sigmoid], abs=1e-9)
