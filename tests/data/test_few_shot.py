"""Few-shot draws: deterministic, nested, before any audio is decoded, and trained on whatever their number."""

from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
from datasets import Dataset

from attune.audio.context import AudioContext
from attune.data.corpora.schema import build_dataset
from attune.data.corpora.synthetic import SyntheticCorpus
from attune.data.few_shot import FewShot, draw_shots
from attune.data.hearing import Heard
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

TEXTS = ["Stop.", "go", "stop", "Go!", "wait", "STOP"]
SPEAKERS = ["anna", "ben", "anna", "anna", "ben", "cleo"]


def make_train(speakers: list[str | None] | None = None) -> Dataset:
    audio = {"path": "gone.wav", "bytes": None}  # which nobody opens
    rows = [
        {"id": f"{i}", "audio": audio, "text": text, "language": "en", "place": f"line {i}"}
        for i, text in enumerate(TEXTS)
    ]
    return build_dataset([{**row, "speaker": who} for row, who in zip(rows, speakers or SPEAKERS, strict=True)])


def draw(shots: int | None, per: str = "all", seed: int = 0) -> list[int]:
    drawn, _ = FewShot(shots, per, seed).draw(make_train())
    return [int(id) for id in drawn["id"]]


def test_a_seed_draws_the_same_and_another_others() -> None:
    groups = ["all"] * 200
    assert draw_shots(groups, 8, 1) == draw_shots(groups, 8, 1) != draw_shots(groups, 8, 2)
    assert len(set(draw_shots(groups, 8, 1))) == 8


def test_fewer_shots_are_among_more() -> None:
    groups = ["all"] * 200
    draws = [set(draw_shots(groups, shots, 3)) for shots in (8, 32, 128, 200, 900)]
    assert all(small < large for small, large in zip(draws[:3], draws[1:4], strict=True))
    assert draws[3] == draws[4] == set(range(200))


def test_every_utterance_may_be_drawn() -> None:
    seen = Counter(index for seed in range(200) for index in draw_shots(["all"] * 6, 2, seed))
    assert set(seen) == set(range(6))
    assert min(seen.values()) > 30  # 67 are expected


def test_of_each_speaker_or_label() -> None:
    assert Counter(SPEAKERS[i] for i in draw(1, "speaker")) == {"anna": 1, "ben": 1, "cleo": 1}
    assert Counter(SPEAKERS[i] for i in draw(2, "speaker")) == {"anna": 2, "ben": 2, "cleo": 1}
    assert Counter(TEXTS[i].lower().strip(".!") for i in draw(2, "label")) == {"stop": 2, "go": 2, "wait": 1}


def test_a_label_is_what_is_compared_as_for_wer() -> None:
    rows = [
        {**make_train()[0], "text": text, "language": "zh"} for text in ("你好，世界！", "你好世界", "今天天气很好。")
    ]
    assert len(FewShot(1, "label").draw(build_dataset(rows))[0]) == 2


def test_the_corpus_keeps_its_order_and_all_is_all() -> None:
    assert draw(4) == sorted(draw(4))
    assert draw(None) == list(range(6))


@pytest.mark.parametrize(
    ("shots", "per", "said"),
    [
        (None, "all", ""),
        (2, "all", "few-shot: 2 of 6 training utterances, drawn by seed 0"),
        (6, "all", "few-shot: 6 of 6 training utterances, drawn by seed 0"),
        (9, "all", "few-shot: data.shots=9, but the corpus has 6 to train on: all are used"),
        (1, "label", "few-shot: 3 of 6 training utterances, drawn by seed 0: 1 of each of 3 labels"),
        (2, "speaker", "few-shot: 5 of 6 training utterances, drawn by seed 0: up to 2 of each of 3 speakers"),
    ],
)
def test_what_was_drawn_is_said(shots: int | None, per: str, said: str) -> None:
    assert FewShot(shots, per, 0).draw(make_train())[1] == said


@pytest.mark.parametrize(
    ("shots", "per", "message"),
    [
        (0, "all", "data.shots is 0; accepted: .* 1 or more"),
        (-3, "all", "data.shots is -3"),
        (2.5, "all", "data.shots is 2.5"),
        (2, "word", "data.shots_per is 'word'; accepted: all, speaker, label"),
    ],
)
def test_what_cannot_be_drawn(shots: int, per: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FewShot(shots, per)


def test_speakers_must_be_known_to_be_counted() -> None:
    with pytest.raises(InputError, match=r"data.shots_per=speaker, but 2 of 6 training utterances have no speaker"):
        FewShot(1, "speaker").draw(make_train(["a", None, "a", "b", None, "b"]))


def test_only_what_is_drawn_is_decoded_and_learnt_from(
    corpus: SyntheticCorpus, nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def listen(row: dict, find: object) -> Heard:
        decoded.append(row["id"])
        return Heard(None, 1.0)

    monkeypatch.setattr("attune.data.listening.listen", listen)
    data = SpeechDataModule(corpus, nano_tokens, AudioContext(), shots=3, seed=5)
    data.prepare()
    assert len(data.splits["train"]) == len(data.transcripts) == 3
    assert sorted(id for id in decoded if id.startswith("train")) == sorted(data.splits["train"]["id"])
    assert len(data.splits["validation"]) == 6


@pytest.mark.parametrize("shots", [1, 2, 8])
def test_a_batch_may_be_larger_than_the_corpus(
    shots: int, make_data: Callable[..., SpeechDataModule], nano_tokens: Tokens
) -> None:
    data = make_data(nano_tokens, shots=shots, batch_window_s=3000.0)
    seen = Counter(id for batch in islice(data.train_dataloader(), 40) for id in batch.ids)
    assert set(seen) == set(data.splits["train"]["id"])
    assert len(seen) == shots
    assert max(seen.values()) - min(seen.values()) <= 1  # pass after pass
