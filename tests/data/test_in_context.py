"""In-context examples: which stand before an utterance, what the model then hears and reads, and what is scored."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from datasets import Dataset
from whispers import make_sound

from attune.audio.context import AudioContext, FullContext
from attune.audio.waveform import SAMPLES_PER_POSITION, encode_wav, load_waveform
from attune.data.corpora.schema import build_dataset
from attune.data.few_shot import draw_shots
from attune.data.in_context import InContext
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

PAUSE = 8_000  # samples: half a second
EXAMPLES = [("One boat.", 2.0, "anna"), ("Two.", 1.0, "ben"), ("Three seas, far away.", 3.5, "anna"), ("", 1.5, "ben")]


def make_row(split: str, number: int, text: str, length_s: float, speaker: str | None, **more: Any) -> dict[str, Any]:
    audio = {"path": None, "bytes": encode_wav(make_sound(length_s, number))}
    row = {"id": f"{split}-{number}", "audio": audio, "text": text, "language": "en", "duration_s": length_s}
    return {**row, "speaker": speaker, "place": f"{split}, line {number}", **more}


def make_split(split: str, rows: list[tuple[str, float, str]], **more: Any) -> Dataset:
    return build_dataset([make_row(split, number, *row, **more) for number, row in enumerate(rows)])


TRAIN = make_split("train", EXAMPLES)


def listen(split: Dataset, index: int) -> torch.Tensor:
    return load_waveform(split[index]["audio"]["bytes"])


class Handmade:
    def __init__(self, test: Dataset):
        self.test = test

    def splits(self) -> Mapping[str, Dataset]:
        return {"train": TRAIN, "validation": self.test, "test": self.test}


def make_data(tokens: Tokens, test: Dataset, **settings: Any) -> SpeechDataModule:
    context = settings.pop("context", FullContext())
    data = SpeechDataModule(Handmade(test), tokens, context, workers=0, allow_leakage=True, **settings)
    data.prepare()
    return data


def indices(in_context: InContext, scored: Dataset) -> list[list[int]]:
    return [[shown.index for shown in chosen] for chosen in in_context.plan(scored)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_heard_and_read_is_built_by_hand(seed: int, nano_tokens: Tokens) -> None:
    test = make_split("test", [("Seven blue boats.", 1.25, "dora")])
    data = make_data(nano_tokens, test, in_context=2, seed=seed)
    first, second = draw_shots(["all"] * 3, 2, seed)  # the fourth says nothing, and is never shown
    (batch,) = data.panel_dataloader("test", in_context=True)
    pause, own = torch.zeros(PAUSE), listen(test, 0)
    heard = torch.cat([listen(TRAIN, first), pause, listen(TRAIN, second), pause, own])
    assert torch.equal(batch.waveform[0, : len(heard)], heard)
    assert not batch.waveform[0, len(heard) :].any()
    texts = [nano_tokens.text(EXAMPLES[index][0], "en") for index in (first, second)]
    assert batch.prefixes == [[*nano_tokens.prefix("en"), *texts[0], *texts[1]]]
    assert nano_tokens.transcript(batch.prefixes[0]) == f"{EXAMPLES[first][0]} {EXAMPLES[second][0]}"
    assert batch.references == ["Seven blue boats."]
    assert batch.lengths.tolist() == [len(own)]  # what the hypothesis may be as long as, and what rtf is over


def test_without_being_asked_scoring_has_no_examples(nano_tokens: Tokens) -> None:
    test = make_split("test", [("Seven blue boats.", 1.25, "dora")])
    data = make_data(nano_tokens, test, in_context=2)
    for batch in (*data.panel_dataloader("test"), *data.val_dataloader()):
        assert batch.prefixes == [nano_tokens.prefix("en")]
        assert torch.equal(batch.waveform[0, : batch.lengths[0]], listen(test, 0))
    (batch,) = make_data(nano_tokens, test).panel_dataloader("test", in_context=True)
    assert batch.prefixes == [nano_tokens.prefix("en")]


def test_the_window_grows_by_the_examples(nano_tokens: Tokens) -> None:
    context = AudioContext()
    test = make_split("test", [("Seven.", 1.25, "dora"), ("Eight.", 20.0, "dora")])
    data = make_data(nano_tokens, test, in_context=3, context=context)
    before_s = sum(length_s for _, length_s, _ in EXAMPLES[:3]) + 3 * 0.5
    for batch in data.panel_dataloader("test", in_context=True):
        own_s = {"test-0": 1.25, "test-1": 20.0}[batch.ids[0]]
        positions = context.positions(own_s + before_s, None)
        assert batch.waveform.shape == (1, positions * SAMPLES_PER_POSITION)


def test_what_does_not_fit_into_30_s_is_left_out_and_the_next_one_tried(nano_tokens: Tokens) -> None:
    in_context = InContext(TRAIN, nano_tokens, count=3)
    lengths_s = [22.0, 22.1, 25.5, 26.0, 26.5, 28.5, 29.0, 30.0]
    test = make_split("test", [("Word.", length_s, "dora") for length_s in lengths_s])
    # With their pauses the three take 2.5, 1.5 and 4 s.
    assert indices(in_context, test) == [[0, 1, 2], [0, 1], [0, 1], [0, 1], [0], [1], [], []]
    assert in_context.count_examples([test]) == {"examples": 3, "utterances": 8, "given": 11, "left_out": 13}


def test_examples_and_prompt_take_half_of_the_decoder(nano_tokens: Tokens) -> None:
    words = "boat " * 200
    ids = nano_tokens.text(words, "en")
    cut = nano_tokens.tokenizer.decode(ids[:150])
    size = len(nano_tokens.text(cut, "en"))
    train = make_split("train", [(cut, 1.0, "anna"), (cut, 1.0, "anna"), ("Two.", 1.0, "anna")])
    in_context = InContext(train, nano_tokens, count=3)
    assert 112 < size < 220
    assert indices(in_context, make_split("test", [("No.", 1.0, "dora")])) == [[0, 2]]
    prompted = make_split("test", [("No.", 1.0, "dora")], prompt=cut)
    assert indices(in_context, prompted) == [[2]]
    for chosen in in_context.plan(prompted):
        prompt = nano_tokens.prompt(cut, room=224)
        assert len(prompt) + sum(len(shown.ids) for shown in chosen) <= 224


def test_examples_of_the_speaker_where_training_has_that_one(nano_tokens: Tokens) -> None:
    in_context = InContext(TRAIN, nano_tokens, count=2, per="speaker", seed=1)
    test = make_split("test", [("Word.", 1.0, who) for who in ("anna", "ben", "dora")])
    assert indices(in_context, test) == [[0, 2], [1], draw_shots(["all"] * 3, 2, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_context": -1}, r"data.in_context is -1; accepted: .* 0 or more"),
        ({"in_context": 1.5}, r"data.in_context=1.5: accepted are whole numbers"),
        ({"in_context": 1, "in_context_per": "label"}, r"data.in_context_per is 'label'; accepted: all, speaker"),
    ],
)
def test_what_cannot_be_asked_for(settings: dict[str, Any], message: str, nano_tokens: Tokens) -> None:
    with pytest.raises(InputError, match=message):
        make_data(nano_tokens, TRAIN, **settings)


def test_there_must_be_something_to_show(nano_tokens: Tokens) -> None:
    silent = make_split("train", [("", 1.0, "anna")])
    with pytest.raises(InputError, match="data.in_context needs training utterances with a text"):
        InContext(silent, nano_tokens, count=1)
