"""Padding: of waveforms to their window, of tokens by length."""

from dataclasses import replace

import torch
from whispers import make_batch, make_example, make_sound

from attune.audio.waveform import SAMPLES_PER_POSITION
from attune.data.batch import collate
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED


def test_waveforms_are_padded_with_silence_to_the_window(any_whisper: Whisper) -> None:
    batch = make_batch(any_whisper.tokens, 250)
    assert batch.waveform.shape == (3, 250 * SAMPLES_PER_POSITION)
    assert batch.lengths.tolist() == [20_800, 11_200, 62_400]
    for row, (length, seconds) in enumerate(zip(batch.lengths, (1.3, 0.7, 3.9), strict=True)):
        assert torch.equal(batch.waveform[row, :length], make_sound(seconds, row))
        assert not batch.waveform[row, length:].any()


def test_tokens_are_padded_by_length_although_padding_is_the_end(any_whisper: Whisper) -> None:
    tokens = any_whisper.tokens
    texts = ("Seven blue boats.", "No.", "")
    batch = make_batch(tokens, 250, texts)
    for row, text in enumerate(texts):
        sequence = tokens.sequence(text, "en")
        length = len(sequence.labels)
        assert batch.labels[row].tolist() == sequence.labels + [IGNORED] * (batch.labels.shape[1] - length)
        assert batch.decoder_input_ids[row, :length].tolist() == sequence.decoder_input_ids
        assert set(batch.decoder_input_ids[row, length:].tolist()) <= {tokens.end_of_text}
        assert (batch.labels[row] == tokens.end_of_text).sum() == 1
    assert batch.supervised == sum(label != IGNORED for text in texts for label in tokens.sequence(text, "en").labels)


def test_audio_beyond_the_window_is_cut_and_counted_as_cut(nano_like: Whisper) -> None:
    batch = collate([make_example(nano_like.tokens, "No.", 4.0, 150, 0)], nano_like.tokens.end_of_text)
    assert batch.lengths.tolist() == [48_000]
    assert torch.equal(batch.waveform[0], make_sound(4.0, 0)[:48_000])


def test_what_is_no_tensor_stays_in_order(nano_like: Whisper) -> None:
    tokens = nano_like.tokens
    batch = make_batch(tokens, 250, prompts=[None, "Before.", None])
    assert len(batch) == 3
    assert batch.ids == ["utterance 0", "utterance 1", "utterance 2"]
    assert batch.prefixes == [
        tokens.prefix("en"),
        [*tokens.prompt("Before.", 224), *tokens.prefix("en")],
        tokens.prefix("en"),
    ]
    moved = batch.to(torch.device("cpu"))
    assert moved.references == batch.references and torch.equal(moved.labels, batch.labels)


def test_what_is_counted_goes_along_and_is_counted_anew_where_it_changes(nano_like: Whisper) -> None:
    batch = make_batch(nano_like.tokens, 100)
    expected = [int(place) for place, label in enumerate(batch.labels.flatten()) if label != IGNORED]
    moved = batch.to(torch.device("cpu"))
    assert {"taught", "samples"} <= vars(moved).keys()
    assert moved.taught.tolist() == expected and moved.samples == int(batch.lengths.sum())
    part = moved.select(slice(1, None))
    assert part.supervised == int((batch.labels[1:] != IGNORED).sum()) < moved.supervised
    silent = replace(moved, labels=torch.full_like(batch.labels, IGNORED), lengths=batch.lengths // 2)
    assert silent.supervised == 0 and silent.samples == int((batch.lengths // 2).sum())
