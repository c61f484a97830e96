"""What a list of terms does to the data: synthetic speech in the training split, and prompts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attune.audio.context import AudioContext
from attune.data.corpora.schema import WEIGHT
from attune.data.corpora.spoken_terms import Speakers, plan_terms, put_into, put_sound, speak_terms
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.data.sampling import Draw
from attune.data.vocabulary import CustomVocabulary
from attune.errors import InputError
from attune.text.tokens import Tokens
from attune.text.vocabulary import Term

TERMS = "term,pronunciation,weight,context\nNiamh,/ˈniːv/,,Niamh is here.|Where is Niamh?\nwarfarin,,2,\nfemur,,,\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "terms.csv").write_text(TERMS, encoding="utf-8")
    return str(tmp_path / "terms.csv")


def test_terms_are_spoken_as_they_sound_and_written_as_they_are_spelt(speech_cache: str) -> None:
    terms = [Term("Niamh", ("/ˈniːv/",), contexts=("Niamh is here.",)), Term("femur")]
    planned = plan_terms(terms, 3, Speakers(), "en", seed=0)
    assert [each.parts[0].count("Niamh") for each in planned] == [1, 0] * 3
    assert all("femur" in each.parts[0] and not each.spoken for each in planned[1::2])
    assert planned[0].parts == ("Niamh is here.",) and planned[0].spoken == ("[[n|'|i:|v]] is here.",)
    rows = speak_terms(terms, 3, Speakers(), "en", 0, speech_cache)
    assert list(rows["text"]) == [each.parts[0] for each in planned]
    assert len(set(rows["id"])) == 6 and min(rows["duration_s"]) > 0.2
    other = speak_terms([Term("Niamh", contexts=("Niamh is here.",)), terms[1]], 3, Speakers(), "en", 0, speech_cache)
    assert rows[0]["audio"]["bytes"] != other[0]["audio"]["bytes"]


def test_without_english_a_term_stands_alone_or_in_its_contexts() -> None:
    planned = plan_terms([Term("Niamh"), Term("Rad", contexts=("Das Rad.",))], 2, Speakers(), "de", seed=0)
    assert [each.parts[0] for each in planned] == ["Niamh", "Das Rad."] * 2
    assert {each.voice.accent for each in planned} == {"de"}


def test_a_sound_that_a_voice_does_not_have_is_named_with_its_line() -> None:
    with pytest.raises(InputError, match=r"terms.csv, line 2: 'Joyce': espeak-ng's voice 'de' has no sound 'ɔɪ'"):
        plan_terms([Term("Joyce", ("/dʒɔɪs/",), place="terms.csv, line 2")], 1, Speakers(), "de", seed=0)


def test_a_term_takes_the_place_of_the_longest_word() -> None:
    assert put_into("Nobody watered the Garden.", "Niamh") == "Nobody Niamh the Garden."
    assert put_into("So it is.", "Niamh") == "So it is, Niamh."


@pytest.mark.parametrize(
    ("term", "sentence", "said"),
    [
        ("Al", "We talked about Al this morning.", "We talked about * this morning."),
        ("RA", "The opera RA two months.", "The opera * two months."),
        ("IT", "It says IT here.", "It says * here."),
        ("femur", "Femur and femurs.", "* and femurs."),
        ("Milch", "Eine Milchkanne.", "Eine *kanne."),
        ("世界", "你好世界", "你好*"),
    ],
)
def test_only_the_term_itself_is_said_as_it_sounds(term: str, sentence: str, said: str) -> None:
    assert put_sound(sentence, term, "*") == said


def say_nothing(text: str, pronunciations: Mapping[str, str], seed: int) -> tuple[Tensor, int]:
    """Somebody's own synthesiser."""
    assert pronunciations in ({}, {"Niamh": "/ˈniːv/"})
    return 0.1 * torch.ones(8000 * len(text.split())), 8000


def test_another_synthesiser(monkeypatch: pytest.MonkeyPatch) -> None:
    import attune.data.corpora.spoken_terms as under_test

    monkeypatch.setattr(under_test, "say_nothing", say_nothing, raising=False)
    speakers = Speakers(synthesiser="attune.data.corpora.spoken_terms.say_nothing")
    rows = speak_terms([Term("Niamh", ("/ˈniːv/",)), Term("femur")], 2, speakers, "en", 0)
    assert [row["duration_s"] for row in rows] == [len(row["text"].split()) for row in rows]
    with pytest.raises(InputError, match="vocabulary.synthesiser=nowhere.speak cannot be loaded"):
        speak_terms([Term("femur")], 1, Speakers(synthesiser="nowhere.speak"), "en", 0)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_synthetic_speech_is_mixed_in_at_its_rate_or_alone(
    file: str, share: float, corpus: SyntheticCorpus, nano_tokens: Tokens, speech_cache: str
) -> None:
    vocabulary = CustomVocabulary(file, synthetic=share, times=2, cache_dir=speech_cache)
    data = SpeechDataModule(corpus, nano_tokens, AudioContext(), vocabulary=vocabulary)
    data.prepare()
    train = data.splits["train"]
    spoken = [id for id in train["id"] if id.startswith("terms-")]
    assert len(spoken) == vocabulary.spoken == 6
    if share == 1:
        assert len(train) == 6
        return
    weights = dict(zip(train["id"], train[WEIGHT], strict=True))
    assert sum(weights[id] for id in spoken) / sum(weights.values()) == pytest.approx(share)
    assert next(iter(data.train_dataloader())).ids


def test_a_run_without_recordings_needs_none(file: str, corpus: SyntheticCorpus, speech_cache: str) -> None:
    vocabulary = CustomVocabulary(file, synthetic=0.5, times=1, cache_dir=speech_cache)
    assert len(vocabulary.mix(None, "en") or []) == 3


def test_frequency_is_counted_in_the_recorded_texts(file: str, corpus: SyntheticCorpus) -> None:
    vocabulary = CustomVocabulary(file)
    train = corpus.splits()["train"]
    said = train.remove_columns("text").add_column("text", ["Femur, femur." for _ in range(len(train))])  # type: ignore[call-arg]
    vocabulary.mix(said, "en")
    assert dict(vocabulary.frequency) == {"femur": 2 * len(train)}


def test_training_prompts_hold_what_is_said_among_others(file: str) -> None:
    row = {"id": "a", "text": "The femur hurts.", "language": "en", "prompt": "Before."}
    prompts = CustomVocabulary(file, prompt="all", train_prompts=0.7).training_prompts()
    assert prompts is not None
    drawn = [prompts(row, Draw(0, 100, number=number)) or "" for number in range(400)]
    listed = [text for text in drawn if text != "Before."]
    assert 0.6 < len(listed) / 400 < 0.8
    assert all(text.endswith(". Before.") for text in listed)
    assert 0.6 < sum("femur" in text for text in listed) / len(listed) < 0.95
    assert any("Niamh" in text for text in listed) and len(set(listed)) > 4
    assert prompts(row, Draw(0, 100, number=3)) == drawn[3]
    assert CustomVocabulary(file, train_prompts=0.7).training_prompts() is None  # without prompts in scoring


def test_a_prompt_is_filled_up_to_its_budget(tmp_path: Path, nano_tokens: Tokens) -> None:
    names = [f"term{letter}{other}" for letter in "abcdefgh" for other in "abcdefgh"]
    (tmp_path / "terms.txt").write_text("\n".join(names))
    vocabulary = CustomVocabulary(str(tmp_path / "terms.txt"), prompt="all")
    described = vocabulary.describe(nano_tokens)
    dropped = described["prompt"]["dropped"]
    kept = names[: len(names) - len(dropped)]
    assert dropped == names[len(kept) :] and 0 < len(kept) < 64
    length = len(nano_tokens.prompt(", ".join(kept) + ".", room=nano_tokens.max_tokens // 2))
    assert 224 - 16 < length <= 224  # startofprev among them
    assert len(vocabulary.fit(names, nano_tokens, own="Something was said before.")) < len(kept)


def test_prompts_of_what_a_first_pass_almost_heard(
    file: str, make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens
) -> None:
    rows = make_data(nano_tokens).splits["test"]
    ids = list(rows["id"])
    vocabulary = CustomVocabulary(file, prompt="found")
    prompts = vocabulary.choose_prompts(rows, nano_tokens, {ids[0]: "the warfaring feemur", ids[1]: "nothing of it"})
    chosen = {row["id"]: prompts(row, Draw(0, 100)) for row in rows}
    assert chosen[ids[0]] in ("femur, warfarin.", "warfarin, femur.")
    assert chosen[ids[1]] is None and chosen[ids[2]] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bias": -1}, "vocabulary.bias is -1"),
        ({"bias": []}, r"vocabulary.bias is \[\]"),
        ({"prompt": "some"}, "vocabulary.prompt=some"),
        ({"synthetic": 1.5}, "vocabulary.synthetic=1.5 is no share"),
        ({"train_prompts": True}, "vocabulary.train_prompts=True is no share"),
        ({"times": 0}, "vocabulary.times=0"),
        ({"grammar": "clinical"}, "vocabulary needs a list"),
        ({"noise_db": 5}, "vocabulary.noise_db=5: accepted are the lowest and the highest"),
        ({"noise_db": [5]}, r"vocabulary.noise_db=\[5\]: accepted"),
        ({"noise_db": [20, 10]}, r"vocabulary.noise_db=\[20, 10\]: accepted"),
    ],
)
def test_settings_that_are_refused(file: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CustomVocabulary(file, **settings)
