"""Made models and made sound: a hearer that knows where the tones are shows every seam between windows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from attune.audio.tape import Tape
from attune.audio.waveform import SAMPLE_RATE_HZ, load_waveform
from attune.errors import InputError
from attune.model.decode import cap_tokens, decode_greedily
from attune.model.scratch import Scratch, make_tokens, make_whisper
from attune.model.whisper import Whisper, complete_generation_config, find_model
from attune.text.tokens import Segment, Tokens
from attune.use.attempts import Thresholds
from attune.use.listen import Listener
from attune.use.segments import Heard, split_segments, walk
from attune.use.transcribe import check_language, transcribe
from attune.use.transcript import Transcript

ONCE = Thresholds(temperatures=(0.0,))
TONES_S = [(0.5, 4.0), (5.0, 11.5), (12.0, 26.0), (27.0, 34.0), (36.0, 58.0), (59.9, 60.3), (61.0, 85.0), (88.0, 89.0)]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return make_tokens(50)


@pytest.fixture(scope="module")
def whisper(tokens: Tokens) -> Whisper:
    """Random weights that write words: special tokens other than the end and the times are suppressed."""
    torch.manual_seed(3)  # some draws write nothing but times
    made = make_whisper(tokens, Scratch(width=32, layers=1, heads=2)).eval()
    made.network.generation_config = complete_generation_config(made.network.generation_config, tokens)
    unspoken = [i for i in tokens.special if i < tokens.first_timestamp and i != tokens.end_of_text]
    made.network.generation_config.suppress_tokens = unspoken
    made.network.generation_config.begin_suppress_tokens = [tokens.end_of_text]
    return made


@contextmanager
def believing(whisper: Whisper, token: int) -> Iterator[None]:
    """A model that takes one token for nearly certain, always."""
    bias = torch.zeros(whisper.network.config.vocab_size)
    bias[token] = 30.0
    hook = whisper.network.proj_out.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    yield
    hook.remove()


def make_noise(duration_s: float, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(int(duration_s * SAMPLE_RATE_HZ), generator=torch.Generator().manual_seed(seed))


def write_noise(path: Path, duration_s: float, rate_hz: int = SAMPLE_RATE_HZ) -> str:
    soundfile.write(path, make_noise(duration_s).numpy(), rate_hz)
    return str(path)


def timed_ids(tokens: Tokens, *parts: float | str) -> list[int]:
    """0.0, "a", 2.0 -> <|0.00|> a <|2.00|>."""
    ids: list[int] = []
    for part in parts:
        ids += tokens.text(part, None) if isinstance(part, str) else [tokens.first_timestamp + round(part / 0.02)]
    return ids


@pytest.mark.parametrize(
    ("parts", "more", "segments", "advance_s"),
    [
        ((0.0, "a", 2.0), True, [(0.0, 2.0, "a")], 30.0),  # nothing is said behind the last time
        ((0.0, "a", 2.0, 2.5, "b", 9.0), True, [(0.0, 2.0, "a"), (2.5, 9.0, "b")], 30.0),
        ((0.0, "a", 2.0, 2.0, "b"), True, [(0.0, 2.0, "a")], 2.0),  # begun, not ended: heard again
        ((0.0, "a", 28.0, 28.0), True, [(0.0, 28.0, "a")], 28.0),
        ((0.0, "a", 9.0, 9.0, "b", 29.9), True, [(0.0, 9.0, "a")], 9.0),  # cut by the window's end: heard again
        ((0.0, "a", 9.0, 9.0, "b", 29.9), False, [(0.0, 9.0, "a"), (9.0, 29.9, "b")], 30.0),
        ((1.0, "a", 29.9), True, [(1.0, 29.9, "a")], 30.0),  # cut too, but there is no more room for it
        ((0.0, "a"), True, [(0.0, 30.0, "a")], 30.0),
        (("a",), True, [(0.0, 30.0, "a")], 30.0),
    ],
)
def test_timestamps_become_segments(
    tokens: Tokens, parts: tuple[float | str, ...], more: bool, segments: list[tuple], advance_s: float
) -> None:
    heard = split_segments(tokens, timed_ids(tokens, *parts), 30.0, more)
    assert [(s.start_s, s.end_s, s.text) for s in heard.segments] == [
        (pytest.approx(start_s), pytest.approx(end_s), text) for start_s, end_s, text in segments
    ]
    assert heard.advance_s == pytest.approx(advance_s)


def tone_hearer(tokens: Tokens, ends_what_is_cut: bool) -> Callable[[Tensor, bool], Heard]:
    """A perfect Whisper for tones: it writes when each begins and ends, and as text its level, 1 to 9."""

    def hear(window: Tensor, more: bool) -> Heard:
        levels = (10 * torch.nn.functional.max_pool1d(window.abs()[None], 320)[0]).round().int().tolist()
        parts: list[float | str] = []
        for i, (before, level) in enumerate(zip([0, *levels], [*levels, 0], strict=True)):
            is_cut = i == len(levels) and i * 320 == len(window) and more
            if before and before != level and (ends_what_is_cut or not is_cut):
                parts.append(i * 0.02)
            if level and before != level:
                parts += [i * 0.02, str(level)]
        return split_segments(tokens, timed_ids(tokens, *parts), len(window) / SAMPLE_RATE_HZ, more)

    return hear


@pytest.mark.parametrize("ends_what_is_cut", [False, True])
def test_no_seam_cuts_or_repeats_a_segment(tokens: Tokens, ends_what_is_cut: bool) -> None:
    waveform, shown = torch.zeros(90 * SAMPLE_RATE_HZ), []
    for number, (start_s, end_s) in enumerate(TONES_S, start=1):
        waveform[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)] = number / 10
    segments = walk(Tape(waveform.split(100_000)), tone_hearer(tokens, ends_what_is_cut), shown.append)
    assert [segment.text for segment in segments] == [str(number) for number in range(1, 9)]
    assert [(s.start_s, s.end_s) for s in segments] == [pytest.approx(tone_s, abs=0.021) for tone_s in TONES_S]
    assert shown == sorted(shown)
    assert shown[-1] == 90.0


def test_segments_stay_in_the_recording_and_in_order() -> None:
    found = [Segment(0.0, 6.0, "a"), Segment(5.0, 8.0, "b"), Segment(8.0, 8.0, "none"), Segment(8.0, 9.0, "")]
    found += [Segment(11.0, 14.0, "late"), Segment(15.0, 20.0, "padding")]
    segments = walk(Tape([torch.ones(12 * SAMPLE_RATE_HZ)]), lambda window, more: Heard(found, 30.0))
    assert segments == [Segment(0.0, 6.0, "a"), Segment(6.0, 8.0, "b"), Segment(11.0, 12.0, "late")]


def test_a_window_that_would_stand_still_moves_on() -> None:
    asked = []
    walk(Tape([torch.ones(70 * SAMPLE_RATE_HZ)]), lambda window, more: asked.append(more) or Heard([], 0.0))
    assert asked == [True, True, False]


def test_random_weights_cannot_break_the_order(whisper: Whisper, tmp_path: Path) -> None:
    heard = transcribe(whisper, write_noise(tmp_path / "a.wav", 70.5), "en", thresholds=ONCE)
    times_s = [time_s for segment in heard.segments for time_s in (segment.start_s, segment.end_s)]
    assert len(heard.segments) > 3
    assert times_s == sorted(times_s)
    assert times_s[0] >= 0
    assert times_s[-1] <= heard.duration_s == 70.5


def test_a_short_file_reads_as_it_is_scored(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 3.0)
    padded = torch.nn.functional.pad(load_waveform(file), (0, 27 * SAMPLE_RATE_HZ))
    with torch.no_grad():
        states = whisper.encode(padded[None])
    prefixes = [tokens.prefix("en")]
    limits = cap_tokens(tokens, prefixes, torch.tensor([3 * SAMPLE_RATE_HZ]))
    ids = decode_greedily(whisper, states, prefixes, limits)[0]
    heard = transcribe(whisper, file, "en")
    assert heard.text == tokens.transcript(ids) != ""
    assert heard.segments == [Segment(0.0, 3.0, heard.text)]


def test_without_timestamps_long_audio_is_cut_where_it_is_quiet(whisper: Whisper, tmp_path: Path) -> None:
    waveform = make_noise(50.0)
    waveform[int(26.0 * SAMPLE_RATE_HZ) : int(26.5 * SAMPLE_RATE_HZ)] *= 0.01
    soundfile.write(tmp_path / "a.wav", waveform.numpy(), SAMPLE_RATE_HZ)
    first, second = transcribe(whisper, str(tmp_path / "a.wav"), "en", timestamps=False).segments
    assert first.end_s == second.start_s == pytest.approx(26.25, abs=0.16)
    assert second.end_s == 50.0


def test_the_same_file_gives_the_same_text(whisper: Whisper, tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 4.0)
    drawn = [transcribe(whisper, file, "en", timestamps=True, thresholds=Thresholds((1.0,))).text for _ in range(2)]
    assert drawn[0] == drawn[1] != ""


def test_silence_has_no_text(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 3.0)
    for timestamps in (False, True):
        assert transcribe(whisper, file, "en", timestamps=timestamps, thresholds=ONCE).text
        with believing(whisper, tokens.no_speech):
            assert transcribe(whisper, file, "en", timestamps=timestamps).segments == []


def test_digital_silence_is_not_given_to_the_model(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", torch.zeros(40 * SAMPLE_RATE_HZ).numpy(), SAMPLE_RATE_HZ)
    deaf = make_whisper(make_tokens(50), Scratch(width=32, layers=1, heads=2))
    deaf.encode = lambda waveform: pytest.fail("nothing is to be heard here")
    assert transcribe(deaf, str(tmp_path / "a.wav")) == Transcript(str(tmp_path / "a.wav"), 40.0, None, "", [])


def test_the_language_is_detected(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:
    file = write_noise(tmp_path / "a.wav", 1.0)
    assert transcribe(whisper, file).language in tokens.languages
    with believing(whisper, tokens.languages["sw"]):
        assert transcribe(whisper, file).language == "sw"
        assert transcribe(whisper, file, "fr").language == "fr"


def test_a_garbled_passage_is_decoded_again(whisper: Whisper, tokens: Tokens) -> None:
    made = {0.0: "no " * 60, 0.2: "yes " * 60, 0.4: "The tiger ran home.", 0.6: "never asked"}
    listener = Listener(whisper, "en", "transcribe", True, Thresholds(mean_log_probability=-1e9))
    listener._generate = lambda states, prefix, limit, temperature: tokens.text(made[temperature], None)
    assert [segment.text for segment in listener.hear(make_noise(5.0), False).segments] == ["The tiger ran home."]
    listener.thresholds = replace(listener.thresholds, temperatures=(0.0, 0.2))
    assert listener.hear(make_noise(5.0), False).segments[0].text.startswith(("no no", "yes yes"))


def test_an_english_only_model_takes_no_other_language(tokens: Tokens) -> None:
    english = Tokens(tokens.tokenizer, is_multilingual=False)
    assert check_language(english, "English", "transcribe") == "English"
    assert check_language(tokens, "English", "translate") == "en"
    for language, task in (("fr", "transcribe"), (None, "translate")):
        with pytest.raises(InputError, match="English-only"):
            check_language(english, language, task)
    with pytest.raises(InputError, match=r"--language=Swahilli.*swahili.*\. Or leave it out: it is detected then.$"):
        check_language(tokens, "Swahilli", "transcribe")


def test_an_english_only_model_is_heard(whisper: Whisper, tokens: Tokens, tmp_path: Path) -> None:
    english = Whisper(whisper.network, Tokens(tokens.tokenizer, is_multilingual=False))
    heard = transcribe(english, write_noise(tmp_path / "a.wav", 2.0), timestamps=True, thresholds=ONCE)
    assert (heard.language, bool(heard.text)) == ("en", True)


def test_a_run_folder_stands_for_its_model(tmp_path: Path) -> None:
    assert find_model("openai/whisper-tiny") == "openai/whisper-tiny"
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="has not finished"):
        find_model(str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert find_model(str(tmp_path)) == str(tmp_path / "model")
