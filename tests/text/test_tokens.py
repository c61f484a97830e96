"""What the decoder reads and what it is taught, position by position."""

import pytest

from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.text.tokenizer import train_tokenizer
from attune.text.tokens import IGNORED, Segment, Tokens


@pytest.fixture(params=["nano_like", "real_tokenizer_whisper"])
def tokens(request: pytest.FixtureRequest) -> Tokens:
    whisper: Whisper = request.getfixturevalue(request.param)
    return whisper.tokens


@pytest.fixture(scope="module")
def english_only() -> Tokens:
    return Tokens(train_tokenizer(["a b c"], merges=1), is_multilingual=False)


def names(tokens: Tokens, ids: list[int]) -> list[str]:
    return tokens.tokenizer.convert_ids_to_tokens(ids)  # type: ignore[return-value]


HEAD = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def test_a_plain_utterance(tokens: Tokens) -> None:
    sequence = tokens.sequence("Seven boats.", "en")
    words = tokens.tokenizer.encode(" Seven boats.", add_special_tokens=False)
    assert names(tokens, sequence.decoder_input_ids[:4]) == HEAD
    assert sequence.decoder_input_ids[4:] == words
    assert sequence.labels == [*sequence.decoder_input_ids[1:], tokens.end_of_text]  # end-of-text is taught


def test_padding_and_end_are_one_token_and_yet_told_apart(tokens: Tokens) -> None:
    assert tokens.tokenizer.pad_token_id == tokens.tokenizer.eos_token_id == tokens.end_of_text


def test_the_prompt_is_read_and_not_taught(tokens: Tokens) -> None:
    plain, prompted = tokens.sequence("No.", "en"), tokens.sequence("No.", "en", prompt="Once upon a time.")
    prompt = tokens.tokenizer.encode(" Once upon a time.", add_special_tokens=False)
    assert prompted.decoder_input_ids == [tokens.start_of_prompt, *prompt, *plain.decoder_input_ids]
    # Masked: the prompt and start-of-transcript, which the last prompt token would have to guess.
    assert prompted.labels == [IGNORED] * (len(prompt) + 1) + plain.labels
    assert prompted.labels[prompted.decoder_input_ids.index(tokens.start)] == tokens.languages["en"]
    assert tokens.start not in prompted.labels


def test_silence_is_taught_twice(tokens: Tokens) -> None:
    for text in ("", "  \n"):
        sequence = tokens.sequence(text, "en", prompt="What was said before.")
        assert names(tokens, sequence.decoder_input_ids) == HEAD
        assert sequence.labels == [tokens.no_speech, IGNORED, IGNORED, tokens.end_of_text]


def test_timestamps_stand_around_each_segment(tokens: Tokens) -> None:
    segments = [Segment(0.0, 1.234, "Seven boats."), Segment(1.5, 31.0, "No.")]
    sequence = tokens.sequence("Seven boats. No.", "en", segments=segments)
    ids = sequence.decoder_input_ids
    assert names(tokens, ids[:3]) == HEAD[:3]
    assert ids[3] == tokens.first_timestamp  # no <|notimestamps|>
    times = [name for name in names(tokens, sequence.labels) if name.startswith("<|") and "." in name]
    assert times == ["<|0.00|>", "<|1.24|>", "<|1.50|>", "<|30.00|>"]
    assert tokens.transcript(sequence.labels) == "Seven boats. No."


def test_the_prompt_gives_way_to_the_label(tokens: Tokens) -> None:
    def cost(words: int) -> int:
        return len(tokens.text(" ".join(["boat"] * words), "en"))

    words = next(n for n in range(1, 448) if cost(n + 1) + 4 > 440)
    text = " ".join(["boat"] * words)
    prompt = " ".join(["water"] * 300)
    long = tokens.sequence(text, "en", prompt=prompt)
    assert len(long.decoder_input_ids) <= 448 == tokens.max_tokens
    kept = long.decoder_input_ids.index(tokens.start)
    assert kept == 448 - len(tokens.sequence(text, "en").decoder_input_ids)
    assert long.decoder_input_ids[1:kept] == tokens.text(prompt, None)[-(kept - 1) :]  # its end, nearest to the text
    short = tokens.sequence("No.", "en", prompt=prompt)
    assert short.decoder_input_ids.index(tokens.start) == 1 + 223  # never more than openai-whisper keeps


def test_a_prompt_without_room_is_dropped(tokens: Tokens) -> None:
    assert tokens.prompt("boat", room=1) == tokens.prompt("boat", room=0) == tokens.prompt(None, room=9) == []
    assert tokens.prompt("boat water", room=2) == [tokens.start_of_prompt, tokens.text("boat water", None)[-1]]


def test_448_positions_and_not_one_more(tokens: Tokens) -> None:
    text = "x y"
    while len(tokens.text(text + " z", "en")) + 4 <= 448:
        text += " z"
    assert len(tokens.sequence(text, "en").decoder_input_ids) in (447, 448)
    with pytest.raises(InputError, match=r"The text has \d+ tokens; with 4 special ones before it Whisper holds 448"):
        tokens.sequence(text + " z z", "en")


def test_english_only_whispers_take_neither_language_nor_task(english_only: Tokens) -> None:
    assert names(english_only, english_only.prefix("en")) == ["<|startoftranscript|>", "<|notimestamps|>"]
    silence = english_only.sequence("", "en")
    assert silence.labels == [english_only.no_speech, english_only.end_of_text]


def test_languages(tokens: Tokens) -> None:
    assert tokens.language_code("English") == tokens.language_code("EN") == "en"
    assert tokens.language_code("no") == tokens.language_code("norwegian") == "no"
    assert tokens.language_code("burmese") == "my"
    with pytest.raises(InputError, match="knows no language 'englsh'. Nearest: english"):
        tokens.language_code("englsh")
    with pytest.raises(InputError, match=r"no language 'xx'. There are: af, am, .*, zh. Give a code .*new_tokens"):
        tokens.language_code("xx")  # near to none
    assert len(tokens.languages) in (99, 100) and {"en", "zh", "su"} <= tokens.languages.keys()


def test_cantonese_came_with_the_hundredth_language(real_tokenizer_whisper: Whisper) -> None:
    with pytest.raises(InputError, match="knows no language 'yue'"):
        real_tokenizer_whisper.tokens.language_code("yue")


def test_an_unknown_task(tokens: Tokens) -> None:
    with pytest.raises(InputError, match="no task 'summarise'.*transcribe or translate"):
        tokens.prefix("en", "summarise")
    assert tokens.prefix("de", "translate")[2] == tokens.tasks["translate"]


def test_only_languages_with_spaces_get_one_in_front(tokens: Tokens) -> None:
    assert tokens.tokenizer.decode(tokens.text("boats", "en")) == " boats"
    assert tokens.tokenizer.decode(tokens.text("世界", "zh")) == "世界"


def test_a_transcript_is_the_text_again(tokens: Tokens) -> None:
    for text in ("Seven blue boats, don't!", "हिन्दी में", "a 😀 z", "çé <|x|>"):
        sequence = tokens.sequence(text, "en", prompt="Before.")
        assert tokens.transcript([i for i in sequence.labels if i != IGNORED]) == text


def test_a_tokenizer_that_is_not_whisper_s() -> None:
    vocabulary = train_tokenizer(["a b"], merges=1).get_vocab()

    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {name: index for name, index in vocabulary.items() if name != "<|startofprev|>"}

    with pytest.raises(InputError, match=r"no token <\|startofprev\|>, so it is not Whisper's"):
        Tokens(Other())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("language", "text", "tokens_per_s"),
    [
        ("en", "Tomorrow morning I will go to school", 12),
        ("ru", "Завтра утром я пойду в школу", 12),
        ("ta", "நான் நாளை காலை பள்ளிக்கு செல்வேன்", 12),
        ("hi", "मैं कल सुबह स्कूल जाऊँगा", 40),
        ("ka", "ხვალ დილით სკოლაში წავალ", 40),
        ("te", "నేను రేపు ఉదయం పాఠశాలకు వెళ్తాను", 40),
    ],
)
def test_a_language_spelt_in_bytes_may_take_more_tokens(
    language: str, text: str, tokens_per_s: float, real_tokenizer_whisper: Whisper
) -> None:
    tokens = real_tokenizer_whisper.tokens
    assert (len(tokens.text(text, language)) > len(text)) == (tokens_per_s > 12)  # more than one a letter
    assert tokens.pace([*tokens.prompt("Before.", room=99), *tokens.prefix(language)]) == tokens_per_s


def test_an_english_only_whisper_is_asked_for_no_language(english_only: Tokens) -> None:
    english_only.paces = {"en": 13.0}
    assert english_only.pace(english_only.prefix("en")) == 13
