"""A window that was cut hears what the whole one hears: its silence stands for all of it up to 30 s."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from attune.audio.context import AudioContext
from attune.audio.waveform import SAMPLES_PER_POSITION, WINDOW_POSITIONS
from attune.data.batch import Batch
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.model.decode import decode
from attune.model.sample import search
from attune.model.silence import find_ends, split_states, spread_silence
from attune.model.whisper import NANO, Whisper, encode, load_tokens, load_whisper
from attune.train.objective.cross_entropy import CrossEntropy


def make_waveforms(lengths: list[int], positions: int) -> Float[Tensor, "batch sample"]:
    rows = [torch.full((length,), 0.1) for length in lengths]
    return torch.stack([pad(row, (0, positions * SAMPLES_PER_POSITION - len(row))) for row in rows])


@pytest.fixture(scope="module")
def nano() -> Whisper:
    return load_whisper(NANO, load_tokens(NANO)).eval()


@pytest.fixture(scope="module")
def speech(corpus: SyntheticCorpus, nano: Whisper) -> Batch:
    """Six utterances in one window, which is longer than any."""
    data = SpeechDataModule(corpus, nano.tokens, AudioContext(bucket=300), workers=0)
    data.prepare()
    (batch,) = data.panel_dataloader("test")
    return batch


def whole(waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch sample"]:
    return pad(waveform, (0, WINDOW_POSITIONS * SAMPLES_PER_POSITION - waveform.shape[1]))


@pytest.mark.parametrize(("positions", "length"), [(150, 16_000), (200, 16_001), (250, 70_000), (1450, 5), (150, 0)])
def test_the_places_go_to_the_end_of_30_s_and_together_stand_for_all_of_it(positions: int, length: int) -> None:
    spread = spread_silence(make_waveforms([length], positions))
    places, counts = spread.places[0], spread.log_counts[0].exp()
    ends = int(find_ends(make_waveforms([length], positions)))
    assert places[:ends].tolist() == list(range(ends)) and torch.all(counts[:ends] == 1)
    assert torch.all(places.diff() >= 1) and places[-1] == WINDOW_POSITIONS - 1 and counts[-1] == 1
    assert float(counts.sum()) == pytest.approx(WINDOW_POSITIONS, rel=1e-5)


def test_the_end_is_behind_all_that_the_convolutions_hear() -> None:
    for length in (1, 320, 321, 16_000, 16_319):
        cut, longer = make_waveforms([length], 150), make_waveforms([length], 200)
        assert torch.equal(find_ends(cut), find_ends(longer))
        heard = -(-length // SAMPLES_PER_POSITION)
        assert heard + 2 <= int(find_ends(cut)) <= heard + 3


@pytest.mark.parametrize("positions", [150, WINDOW_POSITIONS])
def test_what_has_no_silence_or_all_of_it_stays_as_it_is(positions: int) -> None:
    samples = positions * SAMPLES_PER_POSITION
    spread = spread_silence(make_waveforms([samples if positions == 150 else 9_000], positions))
    assert spread.places[0].tolist() == list(range(positions)) and not spread.log_counts.any()


def test_a_window_that_is_nearly_full_of_sound_ends_where_30_s_do() -> None:
    waveform = make_waveforms([147 * SAMPLES_PER_POSITION, 146 * SAMPLES_PER_POSITION], 150)
    places = spread_silence(waveform).places
    assert places[:, -1].tolist() == [149, WINDOW_POSITIONS - 1]  # the first has no silence left


@torch.no_grad()
def test_states_and_decoder_are_those_of_the_whole_window(nano: Whisper, speech: Batch) -> None:
    """Within a hundredth, of a trained Whisper; cut without it they are ten times as far away."""
    width = nano.network.config.d_model
    states, mask = split_states(nano.encode(speech.waveform), width)
    expected = nano.encode(whole(speech.waveform))
    assert mask is not None and mask.shape == (len(speech), 1, 1, states.shape[1])
    assert split_states(expected, width) == (expected, None)
    plain = encode(nano.network, nano.log_mel(speech.waveform))

    def distance(found: Tensor) -> float:
        sounds = [slice(0, int(end)) for end in find_ends(speech.waveform)]
        off = sum((found[row, sound] - expected[row, sound]).square().sum() for row, sound in enumerate(sounds))
        return float(off / sum(expected[row, sound].square().sum() for row, sound in enumerate(sounds))) ** 0.5

    def diverge(found: Tensor) -> float:
        """Mean Kullback-Leibler divergence of the next token from what the whole window says, in nats."""
        said, ours = (
            nano.project(nano.decode(each, speech.decoder_input_ids)).log_softmax(-1) for each in (expected, found)
        )
        return float((said.exp() * (said - ours)).sum(-1).flatten()[speech.taught].mean())

    assert distance(states) < 0.01 < 0.05 < distance(plain)
    assert diverge(nano.encode(speech.waveform)) < 1e-3 < 1e-2 < diverge(plain)


def test_what_is_written_is_what_the_whole_window_writes(nano: Whisper, speech: Batch) -> None:
    with torch.no_grad():
        cut, full = nano.encode(speech.waveform), nano.encode(whole(speech.waveform))
    written = [decode(nano, states, speech.prefixes, speech.lengths) for states in (cut, full)]
    assert written[0] == written[1] and all(written[0])
    likeliest = [
        [group[0].ids for group in search(nano, each, speech.prefixes, [24] * len(speech), 3)] for each in (cut, full)
    ]
    assert likeliest[0] == likeliest[1]


def test_few_queries_are_attended_to_as_many_are(nano: Whisper, speech: Batch) -> None:
    """Greedy decoding token by token, and the decoder fed with what it wrote."""
    with torch.no_grad():
        states = nano.encode(speech.waveform)
        written = decode(nano, states, speech.prefixes, speech.lengths)
        for row, ids in enumerate(written):
            fed = torch.tensor([[*speech.prefixes[row], *ids]])
            logits = nano.project(nano.decode(states[row : row + 1], fed))[0, len(speech.prefixes[row]) - 1 : -1]
            assert logits.argmax(dim=-1).tolist() == ids


def test_gradients_are_those_of_the_whole_window(nano: Whisper, speech: Batch) -> None:
    """What is learnt in a cut window is what would be learnt at 30 s."""
    found = []
    for waveform in (speech.waveform, whole(speech.waveform)):
        nano.network.zero_grad()
        CrossEntropy().loss(nano, replace(speech, waveform=waveform)).total.backward()
        found.append({name: p.grad.clone() for name, p in nano.network.named_parameters() if p.grad is not None})
    nano.network.zero_grad()
    assert found[0].keys() == found[1].keys() and "model.encoder.layers.0.self_attn.k_proj.weight" in found[0]
    off = sum((found[0][name] - found[1][name]).square().sum() for name in found[0])
    assert float(off / sum(gradient.square().sum() for gradient in found[1].values())) ** 0.5 < 0.03
