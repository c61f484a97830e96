"""When tokens are said: the path through a table, and the heads that are asked."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import pad
from whispers import awaken, change, copy_of

from attune.audio.speech import Voice, speak
from attune.model.align import align, choose_heads, smooth, warp
from attune.model.decode import decode
from attune.model.finetune.ctc import Ctc
from attune.model.whisper import Whisper
from attune.use.words import find_audible, time_words


def warp_slowly(cost: np.ndarray, crowded: bool) -> float:
    """The cost of the cheapest path, cell by cell."""
    best = np.full(cost.shape, np.inf)
    for token in range(cost.shape[0]):
        for position in range(cost.shape[1]):
            before = [best[token, position - 1] if position else np.inf]
            before += [best[token - 1, position - 1] if token and position else np.inf]
            before += [best[token - 1, position] if token and crowded else np.inf]
            best[token, position] = cost[token, position] + (0 if not token and not position else min(before))
    return best[-1, -1]


@pytest.mark.parametrize(("tokens", "positions"), [(5, 12), (1, 9), (9, 9), (12, 5), (3, 1)])
def test_the_path_is_the_cheapest(tokens: int, positions: int) -> None:
    cost = np.random.default_rng(tokens).normal(size=(tokens, positions))
    starts = warp(cost)
    crowded = tokens > positions
    assert starts[0] == 0 and starts == sorted(starts) and starts[-1] < positions
    assert crowded or len(set(starts)) == tokens
    if not crowded:  # each token from its start up to the next one's
        ends = [*starts[1:], positions]
        total = sum(cost[token, a:b].sum() for token, (a, b) in enumerate(zip(starts, ends, strict=True)))
        assert total == pytest.approx(warp_slowly(cost, crowded))


def test_a_clear_path_is_found() -> None:
    starts = [0, 7, 9, 30, 31, 55]
    cost = np.zeros((6, 60))
    for token, (a, b) in enumerate(zip(starts, [*starts[1:], 60], strict=True)):
        cost[token, a:b] = -1.0
    assert warp(cost) == starts


def test_a_single_glance_is_smoothed_away() -> None:
    weights = torch.zeros(1, 40)
    weights[0, 10:20], weights[0, 30] = 1.0, 5.0
    assert torch.equal(smooth(weights).nonzero()[:, 1], torch.arange(10, 20))
    assert torch.equal(smooth(weights[:, 28:33]), weights[:, 28:33])


def test_the_heads_of_a_checkpoint_or_of_the_upper_half(nano_like: Whisper) -> None:
    assert choose_heads(nano_like.network) == {1: [0, 1]}
    named = copy_of(nano_like)
    named.network.generation_config.alignment_heads = [[0, 1], [1, 0], [0, 0]]
    assert choose_heads(named.network) == {0: [1, 0], 1: [0]}


def test_what_is_followed_is_what_the_decoder_attends_to(nano_like: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers' own weights, which its eager kernels give."""
    from attune.model import align as under_test

    whisper, seen = awaken(nano_like, seed=1).eval(), []
    monkeypatch.setattr(under_test, "warp", lambda cost: seen.append(cost) or [0, 1, 2, 3])
    states = torch.randn(1, 40, 32, generator=torch.Generator().manual_seed(0))
    prefix, ids = whisper.tokens.prefix("en"), [3, 4, 5]
    align(whisper, states, [prefix], [ids], [np.arange(30)])
    whisper.network.set_attn_implementation("eager")
    output = whisper.network.model.decoder(
        input_ids=torch.tensor([[*prefix, *ids]]), encoder_hidden_states=states, output_attentions=True
    )
    weights = output.cross_attentions[1][0, :, :, :30]  # (head, token, position): what stands behind the audio is cut
    weights = weights / weights.sum(dim=-1, keepdim=True)
    weights = (weights - weights.mean(dim=1, keepdim=True)) / weights.std(dim=1, keepdim=True, correction=0)
    expected = smooth(weights).mean(dim=0)[len(prefix) - 1 :].detach().numpy()
    assert seen[0].shape == (4, 30)
    assert np.allclose(-seen[0], expected, atol=1e-4)


def test_a_batch_gives_what_each_row_gives_alone(any_whisper: Whisper) -> None:
    whisper = awaken(any_whisper, seed=2).eval()
    states = torch.randn(2, 60, 32, generator=torch.Generator().manual_seed(1))
    prefixes, written = [whisper.tokens.prefix("en")] * 2, [[5, 6, 7, 8], [9]]
    together = align(whisper, states, prefixes, written, [np.arange(50), np.arange(5, 20)])
    for row in range(2):
        alone = align(
            whisper, states[row : row + 1], prefixes[:1], [written[row]], [[np.arange(50), np.arange(5, 20)][row]]
        )
        assert together[row] == alone[0] and len(alone[0]) == len(written[row])
    assert align(whisper, states[:1], prefixes[:1], [[]], [np.arange(50)]) == [[]]


def test_a_ctc_head_tells_by_itself(nano_like: Whisper) -> None:
    whisper = copy_of(nano_like)
    change(whisper, Ctc(train=[]))
    head: Any = whisper.network.ctc_head
    blank, path = head.out_features - 1, [7, 7, None, 7, 5, 5, None, None, 9]
    scores = torch.zeros(1, 9, head.out_features)
    for position, token in enumerate(path):
        scores[0, position, blank if token is None else token] = 1.0
    head.forward = lambda states: scores
    states = torch.zeros(1, 9, 32)
    written = decode(whisper, states, [[]], torch.tensor([9 * 320]))
    assert written == [[7, 7, 5, 9]]
    assert align(whisper, states, [[]], written, [np.arange(9)]) == [[(0, 2), (3, 4), (4, 6), (8, 9)]]


def test_a_pause_belongs_to_no_word(nano_like: Whisper) -> None:
    sound = torch.zeros(48_000)
    sound[8_000:16_000] = sound[32_000:40_000] = 0.1
    heard = find_audible(sound)
    assert {*range(25, 50), *range(100, 125)} <= {*heard.tolist()} <= {*range(23, 52), *range(98, 127)}
    assert find_audible(torch.zeros(3200)).tolist() == list(range(10))
    states = torch.randn(1, 150, 32, generator=torch.Generator().manual_seed(0))
    spans = align(awaken(nano_like, 1).eval(), states, [nano_like.tokens.prefix("en")], [[5, 6, 7]], [heard])[0]
    assert spans[0][0] == heard[0] and all({start, end - 1} <= {*heard.tolist()} for start, end in spans)


def test_more_tokens_than_the_decoder_holds(nano_like: Whisper) -> None:
    prefix, states = nano_like.tokens.prefix("en"), torch.randn(1, 50, 32)
    spans = align(nano_like, states, [prefix], [[5] * 450], [np.arange(50)])[0]
    assert len(spans) == 450 and spans[-1][0] == spans[-1][1] <= 50


def test_nano_tells_when_words_are_said() -> None:
    """A voice that it knows, a second of silence before and behind; the words' ends by what is said up to each."""
    from attune.use.transcribe import load_listening

    whisper, voice = load_listening("nano", "cpu"), Voice("en-us", "m1")
    words = ["Please", "sell", "the", "helmets."]
    lengths_s = [len(speak(" ".join(words[:count]), voice)) / 16_000 for count in range(1, 5)]
    sound = torch.cat([torch.zeros(16_000), speak(" ".join(words), voice), torch.zeros(16_000)])
    with torch.no_grad():
        states = whisper.encode(pad(sound, (0, 480_000 - len(sound)))[None])
    ids = whisper.tokens.text("Please sell the helmets.", "en")
    ((found,),) = time_words(whisper, states, [whisper.tokens.prefix("en")], [[ids]], [sound], ["en"])
    assert [word.text for word in found] == words
    starts_s = [1 + length_s for length_s in [0.0, *lengths_s[:3]]]
    off_s = [abs(word.start_s - start_s) for word, start_s in zip(found, starts_s, strict=True)]
    assert sum(off_s) / 4 < 0.3, found  # what is said up to a word ends more slowly where it ends there
    assert found[0].start_s + 0.05 >= 1.0 and found[-1].end_s <= 1 + lengths_s[3] + 0.05
