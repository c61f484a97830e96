"""Greedy decoding writes what transformers' `generate` writes."""

from collections.abc import Sequence

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from whispers import awaken, choose_end, copy_of, end_at, hear, make_batch

from attune.audio.waveform import WINDOW_POSITIONS
from attune.data.batch import Batch
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.whisper import Whisper
from attune.text.tokenizer import train_tokenizer
from attune.text.tokens import Tokens

TEXTS = ("a", "b", "c", "d", "e")  # only the sounds count here
LENGTHS_S = (1.3, 0.7, 3.9, 2.0, 3.0)
NEW = 24  # tokens


def write(
    whisper: Whisper, states: Float[Tensor, "batch position width"], batch: Batch, new: int = NEW
) -> list[list[int]]:
    return decode_greedily(whisper, states, batch.prefixes, [new] * len(batch))


def generate(whisper: Whisper, prefixes: Sequence[Sequence[int]], **inputs: object) -> list[list[int]]:
    """transformers' greedy search for rows of equal prefix; the new ids, without <|endoftext|> and what follows."""
    ids = torch.tensor(prefixes)
    output = whisper.network.generate(
        **inputs,  # type: ignore[arg-type]
        decoder_input_ids=ids,
        decoder_attention_mask=torch.ones_like(ids),
        num_beams=1,
        do_sample=False,
        max_new_tokens=NEW,
        language="en",
        task="transcribe",
    )
    rows = [row.tolist() for row in output]
    new = [
        row[len(prefix) :] if row[: len(prefix)] == list(prefix) else row
        for row, prefix in zip(rows, prefixes, strict=True)
    ]
    end = whisper.tokens.end_of_text
    return [row[: row.index(end)] if end in row else row for row in new]


def awaken_for_text(whisper: Whisper, seed: int) -> Whisper:
    """Random weights write timestamps into the middle of words, and `generate` then looks for the next segment."""
    awake = awaken(whisper, seed)
    config = awake.network.generation_config
    config.suppress_tokens = sorted({*config.suppress_tokens, *awake.tokens.special} - {awake.tokens.end_of_text})
    return awake


def make_writer(whisper: Whisper, seed: int, positions: int) -> tuple[Whisper, Batch, list[list[int]]]:
    """A Whisper with random weights in which rows of the batch end at different places, and what it writes."""
    lengths_s = [length * positions / 250 for length in LENGTHS_S]
    batch = make_batch(whisper.tokens, positions, TEXTS, lengths_s)
    awake = awaken_for_text(whisper, seed)
    writer = end_at(awake, choose_end(write(awake, hear(awake, batch), batch)))
    written = write(writer, hear(writer, batch), batch)
    assert len({len(row) for row in written}) >= 2 and min(map(len, written)) < NEW
    return writer, batch, written


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_full_window_from_input_features(any_whisper: Whisper, seed: int) -> None:
    writer, batch, written = make_writer(any_whisper, seed, WINDOW_POSITIONS)
    assert written == generate(writer, batch.prefixes, input_features=writer.log_mel(batch.waveform))


@pytest.mark.parametrize("seed", [3, 4, 5, 6])
def test_a_short_window_from_encoder_outputs(any_whisper: Whisper, seed: int) -> None:
    writer, batch, written = make_writer(any_whisper, seed, 250)
    states = hear(writer, batch)
    assert written == generate(writer, batch.prefixes, encoder_outputs=BaseModelOutput(states))


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_prompts_of_different_lengths(any_whisper: Whisper, seed: int) -> None:
    """Left-padded together, each row writes what it writes alone."""
    prompts = [None, "Once upon a time, in the harbour.", "No.", None, "Seven blue boats came in."]
    awake = awaken_for_text(any_whisper, seed)
    batch = make_batch(awake.tokens, 250, TEXTS, LENGTHS_S, prompts)
    assert len({len(prefix) for prefix in batch.prefixes}) == 4
    with torch.no_grad():
        states = hear(awake, batch)
        writer = end_at(awake, choose_end(write(awake, states, batch)))
        alone = [
            generate(writer, [prefix], encoder_outputs=BaseModelOutput(states[row : row + 1]))[0]
            for row, prefix in enumerate(batch.prefixes)
        ]
    assert write(writer, states, batch) == alone
    assert len({tuple(row) for row in alone}) > 2


@pytest.mark.parametrize("seed", [0, 1])
def test_suppressed_tokens_are_never_written_and_never_first(nano_like: Whisper, seed: int) -> None:
    writer, batch, written = make_writer(nano_like, seed, 250)
    states = hear(writer, batch)
    config = writer.network.generation_config
    favourite = max((token for row in written for token in row), key=lambda t: sum(row.count(t) for row in written))
    config.suppress_tokens = [*config.suppress_tokens, favourite]
    config.begin_suppress_tokens = sorted({row[0] for row in written if row} | {writer.tokens.end_of_text})
    obedient = write(writer, states, batch)
    assert obedient == generate(writer, batch.prefixes, encoder_outputs=BaseModelOutput(states))
    assert all(favourite not in row and row[0] not in config.begin_suppress_tokens for row in obedient)
    assert obedient != written


def test_each_row_has_a_limit_of_its_own(nano_like: Whisper) -> None:
    awake, limits = awaken(nano_like, 0), [3, 1, 11, 7, 4]
    batch = make_batch(awake.tokens, 250, TEXTS, LENGTHS_S)
    states = hear(awake, batch)
    free = write(awake, states, batch)
    cut = decode_greedily(awake, states, batch.prefixes, limits)
    assert [len(row) for row in free] == [NEW] * 5
    assert cut == [row[:limit] for row, limit in zip(free, limits, strict=True)]


def test_no_row_writes_beyond_the_decoder(nano_like: Whisper) -> None:
    awake = awaken(nano_like, 0)
    batch = make_batch(awake.tokens, 250, TEXTS[:2], LENGTHS_S[:2])
    written = decode_greedily(awake, hear(awake, batch), batch.prefixes, [10_000, 440])
    assert [len(row) for row in written] == [448 - 4, 440]


def test_neighbours_do_not_count(any_whisper: Whisper) -> None:
    writer, batch, written = make_writer(any_whisper, 1, 250)
    states = hear(writer, batch)
    for row in range(len(batch)):
        alone = decode_greedily(writer, states[row : row + 1], batch.prefixes[row : row + 1], [NEW])
        assert alone == [written[row]]


def test_decoding_changes_nothing(nano_like: Whisper) -> None:
    awake = awaken(nano_like, 2)
    batch = make_batch(awake.tokens, 250, TEXTS, LENGTHS_S)
    states = hear(awake, batch).detach()
    before, kept = states.clone(), {name: value.clone() for name, value in awake.state_dict().items()}
    written = write(awake, states, batch)
    assert torch.equal(states, before)
    assert all(torch.equal(value, kept[name]) for name, value in awake.state_dict().items())
    assert write(copy_of(awake).eval(), states, batch) == written


def test_the_cap_follows_the_audio() -> None:
    tokens = Tokens(train_tokenizer(["a"], merges=0))
    prefixes = [tokens.prefix(language) for language in ("en", "de", "ka")]
    assert cap_tokens(tokens, prefixes, torch.tensor([16_000, 0, 160_000])) == [56, 16, 416]  # it spells all in bytes
    tokens.paces = {"en": 12.0, "ka": 30.0}
    assert cap_tokens(tokens, prefixes, torch.tensor([16_000, 16_000, 160_000])) == [28, 56, 316]
    tokens.end_of_text = 50_257
    tokens.paces = {"de": 15.0}
    assert cap_tokens(tokens, prefixes, torch.tensor([16_000] * 3)) == [28, 31, 56]
