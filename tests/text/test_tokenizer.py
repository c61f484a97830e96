"""More tokens, or other pieces, in a tokenizer that stays Whisper's kind."""

from pathlib import Path

import pytest
import torch
from transformers import WhisperTokenizer

from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.tokenizer import add_to_tokenizer, exchange_pieces, learn_pieces, train_tokenizer
from attune.text.tokens import Tokens

TERMS = [" Kubernetes", " café crème", "€", " x-ray"]
TEXT = " We x-ray Kubernetes, not Kuber, in the café crème for 3€."


@pytest.fixture
def old(any_whisper: Whisper) -> Tokens:
    return any_whisper.tokens


@pytest.fixture
def new(old: Tokens) -> Tokens:
    return Tokens(add_to_tokenizer(old.tokenizer, TERMS, ["gsw", "xx"], prompts=3))


def test_every_kind_of_token_stands_where_whisper_has_it(old: Tokens, new: Tokens) -> None:
    ids = new.tokenizer.get_vocab()
    assert new.end_of_text == old.end_of_text + len(TERMS)
    assert [ids[term] for term in TERMS] == list(range(old.end_of_text, new.end_of_text))
    assert new.start == new.end_of_text + 1
    assert list(new.languages) == [*old.languages, "gsw", "xx"]
    assert new.tasks["translate"] == new.languages["xx"] + 1
    assert new.soft_prompt == [new.no_timestamps - 3, new.no_timestamps - 2, new.no_timestamps - 1]
    assert old.soft_prompt == []
    assert new.last_timestamp == len(new.tokenizer) - 1 == len(old.tokenizer) - 1 + len(TERMS) + 2 + 3
    assert new.tokenizer.convert_ids_to_tokens(new.last_timestamp) == "<|30.00|>"


def test_the_old_tokenizer_is_left_alone(old: Tokens) -> None:
    before = dict(old.tokenizer.get_vocab())
    new = add_to_tokenizer(old.tokenizer, TERMS, ["gsw"], prompts=2)
    assert new is not old.tokenizer and old.tokenizer.get_vocab() == before
    assert old.tokenizer.encode(TEXT) != new.encode(TEXT)


def test_a_term_is_one_token_wherever_it_stands_and_reads_as_written(old: Tokens, new: Tokens) -> None:
    ids = new.text(TEXT, "en")
    names = new.tokenizer.convert_ids_to_tokens(ids)
    assert {term for term in TERMS if term in names} == set(TERMS)
    assert len(ids) < len(old.text(TEXT, "en"))
    assert new.transcript(ids) == TEXT.strip()
    assert not set(ids) & new.special
    for text in ("Seven boats.", "हिन्दी में", "çé"):  # what has no term in it is spelt as before
        assert new.text(text, "en") == old.text(text, "en")


def test_transformers_pipeline_keeps_the_terms(new: Tokens) -> None:
    """Its reading of ids takes everything behind <|notimestamps|> for a time."""
    ids = torch.tensor([[*new.prefix("gsw"), *new.text(TEXT, "en"), new.end_of_text]])
    output = [{"tokens": ids[:, len(new.prefix("gsw")) : -1]}]
    text, _ = new.tokenizer._decode_asr(output, return_timestamps=None, return_language=None, time_precision=0.02)
    assert text.strip() == TEXT.strip()


def test_saved_and_loaded_it_is_the_same(new: Tokens, tmp_path: Path) -> None:
    new.tokenizer.save_pretrained(tmp_path)
    loaded = Tokens(WhisperTokenizer.from_pretrained(tmp_path))
    assert loaded.tokenizer.get_vocab() == new.tokenizer.get_vocab()
    assert loaded.text(TEXT, "en") == new.text(TEXT, "en")
    assert (loaded.soft_prompt, loaded.languages, loaded.special) == (new.soft_prompt, new.languages, new.special)
    more = Tokens(add_to_tokenizer(loaded.tokenizer, [" y-ray"], ["yy"]))  # and once more on top of it
    assert more.text(TEXT, "en") == new.text(TEXT, "en")
    assert more.languages["yy"] == more.languages["xx"] + 1 and len(more.soft_prompt) == 3


def test_listed_special_tokens_stay_listed_in_order(new: Tokens) -> None:
    """Published tokenizers list theirs, and transformers counts times from the last one on."""
    listing = train_tokenizer(["a b"], merges=1)
    listing.extra_special_tokens = ["<|startoftranscript|>", "<|notimestamps|>"]
    grown = add_to_tokenizer(listing, languages=["gsw"], prompts=1)
    assert grown.extra_special_tokens == ["<|startoftranscript|>", "<|gsw|>", "<|soft_prompt_0|>", "<|notimestamps|>"]
    assert new.tokenizer.extra_special_tokens == []


def test_other_pieces_and_the_same_special_tokens(old: Tokens) -> None:
    learner = learn_pieces(["seven boats", "seven seas"] * 20, merges=8)
    new = Tokens(exchange_pieces(old.tokenizer, learner))
    assert new.end_of_text == 256 + 8
    assert new.transcript(new.text("Seven seas, çé, हिन्दी", "en")) == "Seven seas, çé, हिन्दी"
    assert len(new.text("seven", "en")) <= 3
    behind = len(old.tokenizer) - old.end_of_text
    assert len(new.tokenizer) - new.end_of_text == behind
    assert list(new.languages) == list(old.languages)
    assert new.tokenizer.convert_ids_to_tokens(new.first_timestamp) == "<|0.00|>"


def test_a_learned_prompt_stands_in_front_of_every_sequence(old: Tokens, new: Tokens) -> None:
    learned = [new.start_of_prompt, *new.soft_prompt]
    plain = new.sequence("No.", "en")
    assert plain.decoder_input_ids[: len(learned) + 1] == [*learned, new.start]
    assert plain.labels[: len(learned)] == [-100] * len(learned)
    assert plain.labels[len(learned)] == new.languages["en"]
    prompted = new.sequence("No.", "en", prompt="Once upon a time.")
    words = new.text("Once upon a time.", None)
    assert prompted.decoder_input_ids[: len(learned) + len(words)] == [*learned, *words]
    silent = new.sequence("", "en")
    assert silent.decoder_input_ids == [*learned, *new.prefix("en")]
    assert len(silent.labels) == len(silent.decoder_input_ids) and silent.labels[len(learned)] == new.no_speech
    assert new.transcript(plain.decoder_input_ids) == "No."


def test_a_learned_prompt_takes_room_and_is_never_cut(new: Tokens) -> None:
    text = "x y"
    while len(new.text(text + " z", "en")) + 4 + 4 <= 448:
        text += " z"
    full = new.sequence(text, "en", prompt="water " * 300)
    assert len(full.decoder_input_ids) in (447, 448)
    assert full.decoder_input_ids[1:4] == new.soft_prompt
    with pytest.raises(InputError, match="with 8 special ones before it Whisper holds 448"):
        new.sequence(text + " z z", "en")
    long = new.prompt("water " * 300, room=224)
    assert len(long) == 224 and long[1:4] == new.soft_prompt
