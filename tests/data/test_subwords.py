"""BPE dropout: other pieces, the same text, the same again under a seed."""

import random
from dataclasses import replace

import pytest
from whispers import make_batch

from attune.data.batch import Batch
from attune.data.subwords import SubwordDropout
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.tokens import IGNORED, Tokens

TEXTS = ("Seven blue boats sailed away.", "", "Nobody had watered the garden since August.")
PROMPTS = (None, None, "Yesterday, in the garden.")


def make(tokens: Tokens) -> Batch:
    return make_batch(tokens, 200, TEXTS, (1.0, 0.5, 2.0), PROMPTS)


def taught(labels: list[int]) -> list[int]:
    return [label for label in labels if label != IGNORED]


def test_the_text_stays_and_its_pieces_change(any_whisper: Whisper) -> None:
    tokens = any_whisper.tokens
    batch = make(tokens)
    spelled = SubwordDropout(tokens, 0.5).respell(batch, random.Random(1))
    for before, after, text in zip(batch.labels.tolist(), spelled.labels.tolist(), TEXTS, strict=True):
        assert tokens.transcript(taught(after)) == tokens.transcript(taught(before)) == text
        assert (len(taught(after)) > len(taught(before))) == bool(text)
        assert taught(after)[-1] == tokens.end_of_text
    again = SubwordDropout(tokens, 0.5).respell(batch, random.Random(1))
    other = SubwordDropout(tokens, 0.5).respell(batch, random.Random(2))
    assert spelled.labels.tolist() == again.labels.tolist() != other.labels.tolist()


def test_what_is_fed_is_what_was_taught_before(any_whisper: Whisper) -> None:
    batch = make(any_whisper.tokens)
    spelled = SubwordDropout(any_whisper.tokens, 0.7).respell(batch, random.Random(3))
    assert spelled.decoder_input_ids.shape == spelled.labels.shape
    tensors = (batch.decoder_input_ids, spelled.decoder_input_ids, spelled.labels)
    for text, before, ids, labels in zip(TEXTS, *(tensor.tolist() for tensor in tensors), strict=True):
        first = next(place for place, label in enumerate(labels) if label != IGNORED)
        last = first + len(taught(labels)) - 1
        assert ids[: first + 1] == before[: first + 1]  # a prompt is spelled as ever
        if text:
            assert ids[first + 1 : last + 1] == labels[first:last]


def test_without_a_chance_nothing_changes(any_whisper: Whisper) -> None:
    batch = make(any_whisper.tokens)
    same = SubwordDropout(any_whisper.tokens, 0.0).respell(batch, random.Random(1))
    assert same.labels.tolist() == batch.labels.tolist()
    assert same.decoder_input_ids.shape == batch.decoder_input_ids.shape


def test_every_merge_can_be_undone_and_no_special_token(any_whisper: Whisper) -> None:
    tokens = any_whisper.tokens
    dropout = SubwordDropout(tokens, 0.999999)
    ids = tokens.text("Nobody watered the garden.", "en")
    pieces = [piece for token in ids for piece in dropout.split(token, random.Random(0))]
    assert len(pieces) == len(" Nobody watered the garden.")  # bytes
    assert not dropout.halves.keys() & tokens.special


def test_a_row_that_would_not_fit_is_left(nano_like: Whisper) -> None:
    batch = make(nano_like.tokens)
    dropout = SubwordDropout(nano_like.tokens, 0.9)
    dropout.max_tokens = batch.labels.shape[1]
    spelled = dropout.respell(batch, random.Random(1))
    assert spelled.labels.shape[1] <= batch.labels.shape[1]


def test_the_rest_of_the_batch_is_untouched(nano_like: Whisper) -> None:
    batch = make(nano_like.tokens)
    spelled = SubwordDropout(nano_like.tokens, 0.5).respell(batch, random.Random(1))
    same = replace(spelled, labels=batch.labels, decoder_input_ids=batch.decoder_input_ids)
    assert all(getattr(same, name) is value for name, value in vars(batch).items())


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_chance_lies_below_one(nano_like: Whisper, share: float) -> None:
    with pytest.raises(InputError, match=r"augment.bpe_dropout"):
        SubwordDropout(nano_like.tokens, share)
