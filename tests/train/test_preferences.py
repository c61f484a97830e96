"""DPO and the reward model: closed forms, what is computed once, what a row without a pair feels."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_accumulation import cut
from whispers import awaken, change, copy_of, make_example

from attune.data.batch import Batch, collate
from attune.data.subwords import SubwordDropout
from attune.errors import InputError
from attune.model.additions import REWARD
from attune.model.finetune.full import Full
from attune.model.finetune.lora import Lora
from attune.model.reward_head import add_reward_head, score_transcripts
from attune.model.sample import Hypothesis
from attune.model.save import explain_additions, save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.text.tokens import IGNORED
from attune.train.objective.cross_entropy import CrossEntropy
from attune.train.objective.dpo import Dpo, score_pairs
from attune.train.objective.hypotheses import Hypotheses
from attune.train.objective.reward_model import RewardModel
from attune.train.objective.rewards import Rewards

CHOSEN = ("Seven blue boats.", "No.", "The kitchen door was open.", "Go.")
REJECTED = ("Seven blue votes, seven.", "", None, "Stop.")  # the third has no pair


@pytest.fixture
def whisper(nano_like: Whisper) -> Whisper:
    return awaken(nano_like, seed=5, factor=3.0)


@pytest.fixture
def batch(whisper: Whisper) -> Batch:
    tokens = whisper.tokens
    examples = [make_example(tokens, text, 1.0 + row, 250, row) for row, text in enumerate(CHOSEN)]
    pairs = [
        replace(example, rejected=None if text is None else tokens.sequence(text, "en"))
        for example, text in zip(examples, REJECTED, strict=True)
    ]
    return collate(pairs, tokens.end_of_text)


def prepare(objective: Any, whisper: Whisper, finetune: Any = None, is_varied: bool = False) -> Any:
    change(whisper, finetune or Full())
    objective.prepare(whisper, seed=0, is_varied=is_varied)
    return objective


def move(whisper: Whisper) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in whisper.network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


def test_both_transcripts_travel_through_a_batch(whisper: Whisper, batch: Batch) -> None:
    tokens = whisper.tokens
    other = batch.as_rejected()
    assert other.ids == batch.ids and torch.equal(other.waveform, batch.waveform)
    for row, text in enumerate(REJECTED):
        taught = [label for label in other.labels[row].tolist() if label != IGNORED]
        sequence = tokens.sequence(text, "en").labels if text is not None else []
        assert taught == [label for label in sequence if label != IGNORED]
    assert batch.to(torch.device("cpu")).rejected_labels is not None
    half = batch.cut(2)[1]
    assert len(half) == 2 and torch.equal(half.rejected_labels, batch.rejected_labels[2:])
    plain = collate([make_example(tokens, "No.", 1.0, 250, 0)], tokens.end_of_text)
    assert plain.rejected_labels is None
    with pytest.raises(ValueError, match="no utterance of this batch"):
        plain.as_rejected()


def test_both_transcripts_are_spelled_anew(whisper: Whisper, batch: Batch) -> None:
    spelled = SubwordDropout(whisper.tokens, 0.9).respell(batch, random.Random(1))
    for before, after in ((batch, spelled), (batch.as_rejected(), spelled.as_rejected())):
        texts = [
            [whisper.tokens.transcript([label for label in row if label >= 0]) for row in each.labels.tolist()]
            for each in (before, after)
        ]
        assert texts[0] == texts[1] and before.labels.shape[1] < after.labels.shape[1]


def sum_by_hand(whisper: Whisper, batch: Batch, row: int) -> torch.Tensor:
    """log p of text and end, of one row."""
    logits = whisper.project(whisper.decode(whisper.encode(batch.waveform), batch.decoder_input_ids))[row]
    chances, total = logits.log_softmax(dim=-1), torch.zeros(())
    for place, label in enumerate(batch.labels[row].tolist()):
        if 0 <= label <= whisper.tokens.end_of_text:
            total = total + chances[place, label]
    return total


def test_a_pair_is_scored_by_text_and_end(whisper: Whisper, batch: Batch) -> None:
    with torch.no_grad():
        scores = score_pairs(whisper, whisper.encode(batch.waveform), batch)
        for row in range(4):
            assert float(scores[row, 0]) == pytest.approx(float(sum_by_hand(whisper, batch, row)), rel=1e-4)
            rejected = float(sum_by_hand(whisper, batch.as_rejected(), row))
            assert float(scores[row, 1]) == pytest.approx(rejected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("finetune", [Full, lambda: Lora(rank=4)])
def test_dpo_in_closed_form(finetune: Callable[[], Any], whisper: Whisper, batch: Batch) -> None:
    """log 2 for each pair at step 0; then -log sigma of beta times the change of the margin."""
    objective = prepare(Dpo(beta=0.3, anchor=0.0), whisper, finetune())
    terms = objective.loss(whisper, batch)
    assert float(terms.total) == pytest.approx(3 * math.log(2), abs=1e-4) and terms.tokens == 4
    assert terms.logged["margin"] == pytest.approx(0.0, abs=1e-4)
    start = copy_of(whisper)
    move(whisper)
    expected = torch.zeros(())
    for row in (0, 1, 3):
        now, then = (
            sum_by_hand(each, batch, row) - sum_by_hand(each, batch.as_rejected(), row) for each in (whisper, start)
        )
        expected = expected - torch.nn.functional.logsigmoid(0.3 * (now - then.detach()))
    loss = objective.loss(whisper, batch).total
    assert float(loss) == pytest.approx(float(expected), rel=1e-3)
    learning = [each for each in whisper.network.parameters() if each.requires_grad]
    ours = torch.autograd.grad(loss, learning, allow_unused=True)
    theirs = torch.autograd.grad(expected, learning, allow_unused=True)
    for one, two in zip(ours, theirs, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, atol=1e-4 * max(1.0, float(two.abs().max())), rtol=1e-3)


def test_the_reference_is_computed_once(whisper: Whisper, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[list[str]] = []
    compute = Dpo._compute_reference
    monkeypatch.setattr(Dpo, "_compute_reference", lambda *a: computed.append(a[3].ids) or compute(*a))
    objective = prepare(Dpo(), whisper)
    first = objective.loss(whisper, cut_pairs(batch, [0, 2]))
    assert computed == [["utterance 0"]]  # the other has no pair
    move(whisper)
    together = objective.loss(whisper, batch)
    assert computed[1:] == [["utterance 1", "utterance 3"]]
    again = objective.loss(whisper, batch)
    assert len(computed) == 2 and float(again.total) == float(together.total)
    assert float(first.total) != float(together.total)
    wider = replace(batch, waveform=torch.nn.functional.pad(batch.waveform, (0, 50 * 320)))
    objective.loss(whisper, wider)
    assert len(computed) == 3  # another window is heard otherwise
    varied = prepare(Dpo(), copy_of(whisper), is_varied=True)
    for _ in range(2):
        varied.loss(whisper, batch)
    assert len(computed) == 5


def cut_pairs(batch: Batch, rows: list[int]) -> Batch:
    tensors = {name: getattr(batch, name)[rows] for name in ("rejected_input_ids", "rejected_labels")}
    return replace(cut(batch, rows), **tensors)


@pytest.mark.parametrize("make", [lambda anchor: Dpo(anchor=anchor), lambda anchor: RewardModel(anchor=anchor)])
def test_without_a_pair_only_the_anchor_is_felt(make: Callable[[float], Any], whisper: Whisper, batch: Batch) -> None:
    alone = cut_pairs(batch, [2])
    for rows in (alone, replace(alone, rejected_input_ids=None, rejected_labels=None)):
        free = prepare(make(0.0), copy_of(whisper))
        assert float(free.loss(whisper_with_head(whisper), rows).total) == 0.0
        held = prepare(make(0.5), copy_of(whisper))
        loss = float(held.loss(whisper_with_head(whisper), rows).total)
        assert loss > 0.1
        if isinstance(held, RewardModel):
            assert loss == pytest.approx(0.5 * float(CrossEntropy().loss(whisper, rows).total), rel=1e-5)


def whisper_with_head(whisper: Whisper) -> Whisper:
    changed = copy_of(whisper).eval()
    add_reward_head(changed.network)
    return changed


def test_a_reward_model_begins_without_an_opinion_and_learns_one(whisper: Whisper, batch: Batch) -> None:
    objective = prepare(RewardModel(), whisper)
    terms = objective.loss(whisper, batch)
    assert float(terms.total) == pytest.approx(3 * math.log(2), abs=1e-5) and terms.tokens == 4
    assert terms.logged["accuracy"] == 0.0
    optimizer = torch.optim.Adam([each for each in whisper.network.parameters() if each.requires_grad], lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        objective.loss(whisper, batch).total.backward()
        optimizer.step()
    terms = objective.loss(whisper, batch)
    assert terms.logged["accuracy"] == 1.0 and float(terms.total) < 1.0
    margins = objective.judge(whisper, whisper.encode(batch.waveform), batch)
    assert sum(margin is None for margin in margins) == 1 and all(margin is None or margin > 0 for margin in margins)
    delattr(whisper.network, REWARD)
    assert objective.judge(whisper, whisper.encode(batch.waveform), batch) == [None] * 4


def test_a_reward_model_is_saved_and_is_a_reward(whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    assert prepare(RewardModel(), copy_of(whisper)).prepare(whisper, 0, False) == 32 + 1
    with torch.no_grad():
        getattr(whisper.network, REWARD).weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(0)))
    save_whisper(whisper, tmp_path)
    assert "reward head" in (explain_additions(tmp_path) or "")
    loaded = load_whisper(str(tmp_path), load_tokens(str(tmp_path))).eval()
    with torch.no_grad():
        scores = [
            score_transcripts(each, each.encode(batch.waveform), batch.decoder_input_ids, batch.labels)
            for each in (whisper.eval(), loaded)
        ]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-5)
    assert scores[0].std() > 0

    rewards = Rewards({"model": 2.0}, reward_model=str(tmp_path))
    rewards.load()
    written = [Hypothesis((), True)] * 8
    texts = [text for chosen in CHOSEN for text in (chosen, "Something else.")]
    given = rewards.score(batch, Hypotheses(2, written, texts, [True] * 8))
    assert given.shape == (4, 2)
    torch.testing.assert_close(given[:, 0].float(), 2 * scores[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(given[:, 0], given[:, 1])


def test_a_model_without_a_reward_head_is_no_reward(whisper: Whisper, batch: Batch, tmp_path: Path) -> None:
    save_whisper(whisper, tmp_path)
    rewards = Rewards({"model": 1.0}, reward_model=str(tmp_path))
    with pytest.raises(InputError, match=r"no reward head.*objective.reward_model takes a run"):
        rewards.load()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dpo(beta=0), r"beta=0"),
        (lambda: Dpo(label_smoothing=0.5), r"label_smoothing=0.5"),
        (lambda: Dpo(anchor=-1), r"anchor=-1"),
        (lambda: RewardModel(label_smoothing=0.7), r"label_smoothing=0.7"),
    ],
)
def test_a_setting_that_makes_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
