"""Log-probabilities of given tokens, in one piece or in several, under the distribution that is decoded from."""

import pytest
import torch
from whispers import awaken, copy_of, make_batch

from attune.model import likelihood
from attune.model.likelihood import compute_token_scores, score_hypotheses
from attune.model.sample import Hypothesis
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED


@pytest.fixture
def whisper(any_whisper: Whisper) -> Whisper:
    return awaken(any_whisper, seed=5, factor=3.0)


def test_log_probabilities_are_those_of_the_logits(whisper: Whisper) -> None:
    batch = make_batch(whisper.tokens, 250)
    with torch.no_grad():
        states = whisper.encode(batch.waveform)
        scores = compute_token_scores(whisper, states, batch.decoder_input_ids, batch.labels)
        logits = whisper.project(whisper.decode(states, batch.decoder_input_ids))
    distributions = torch.distributions.Categorical(logits=logits)
    is_taken = batch.labels != IGNORED
    expected = distributions.log_prob(batch.labels.clamp(min=0)) * is_taken
    torch.testing.assert_close(scores.log_probabilities, expected[is_taken], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.of_rows, expected.sum(dim=1), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(scores.entropies, distributions.entropy()[is_taken], atol=1e-3, rtol=1e-3)
    assert scores.lengths.tolist() == is_taken.sum(dim=1).tolist()


def test_chunks_change_neither_values_nor_gradients(nano_like: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients, values = [], []
    for at_once in (likelihood.LOGITS_AT_ONCE, 7 * len(nano_like.tokens.tokenizer)):
        monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", at_once)
        whisper = awaken(nano_like, seed=5, factor=3.0)
        batch = make_batch(whisper.tokens, 250)
        states = whisper.encode(batch.waveform)
        scores = compute_token_scores(whisper, states, batch.decoder_input_ids, batch.labels)
        (scores.of_rows * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
        values.append(scores.log_probabilities.detach())
        gradients.append(whisper.network.model.decoder.embed_tokens.weight.grad)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


def test_hypotheses_are_scored_without_what_is_suppressed(whisper: Whisper) -> None:
    """By hand: the letter and the end behind a prefix; a token that may not come first; a temperature."""
    batch, temperature = make_batch(whisper.tokens, 250), 0.7
    never, not_first, end = 9, 11, whisper.tokens.end_of_text
    config = whisper.network.generation_config
    config.suppress_tokens = [*(config.suppress_tokens or []), never]
    config.begin_suppress_tokens = [*(config.begin_suppress_tokens or []), not_first]
    hypotheses = [Hypothesis((5, not_first), True), Hypothesis((6,), False), Hypothesis((), False)]
    with torch.no_grad():
        states = whisper.encode(batch.waveform)
        scores = score_hypotheses(whisper, states, batch.prefixes, hypotheses, temperature)
        ids = torch.tensor([[*batch.prefixes[0], 5, not_first]])
        logits = whisper.project(whisper.decode(states[:1], ids))[0, len(batch.prefixes[0]) - 1 :]
    logits[:, config.suppress_tokens] = -torch.inf
    logits[0, config.begin_suppress_tokens] = -torch.inf
    expected = (logits / temperature).log_softmax(dim=-1)[range(3), [5, not_first, end]]
    torch.testing.assert_close(scores.log_probabilities[:3], expected, atol=1e-4, rtol=1e-4)
    assert scores.lengths.tolist() == [3, 1, 0]
    assert float(scores.of_rows[2]) == 0.0 and torch.isfinite(scores.entropies).all()


def test_a_model_is_left_as_it_was(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    batch = make_batch(whisper.tokens, 250)
    states = whisper.encode(batch.waveform).detach()
    before = {name: value.clone() for name, value in whisper.state_dict().items()}
    score_hypotheses(whisper, states, batch.prefixes, [Hypothesis((5,), True)] * 3)
    assert all(torch.equal(value, before[name]) for name, value in whisper.state_dict().items())
