"""Pairs: what is read, what is left out, what is refused; and that they reach a training batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.waveform import encode_wav
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.pairs import PairsCorpus
from attune.data.corpora.schema import PAIRED, REJECTED
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import IGNORED, Tokens
from attune.train.objective.dpo import Dpo
from attune.train.objective.reward_model import RewardModel

PAIR = {"audio": "0.wav", "chosen": "Seven blue boats.", "rejected": "Seven blue votes.", "language": "en"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(4):
        (tmp_path / f"{index}.wav").write_bytes(encode_wav(make_sound(1.0 + 0.2 * index, index)))
    return tmp_path


def write(folder: Path, rows: list[dict[str, Any]], name: str = "pairs.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_pairs_ties_and_utterances_without_a_pair(folder: Path) -> None:
    rows = [
        PAIR,
        {**PAIR, "audio": "1.wav", "chosen": None, "rejected": None, "answer": "tie"},
        {**PAIR, "audio": "2.wav", "chosen": " No. ", "rejected": "", "speaker": "s"},
        {"audio": "3.wav", "text": "Three.", "language": "en"},
        {"audio": "0.wav", "text": "Four.", "chosen": None, "rejected": None, "language": "en"},  # a table's blanks
    ]
    path = write(folder, rows)
    train = PairsCorpus(path, path).splits()["train"]
    assert train.features == PAIRED
    assert list(train["text"]) == ["Seven blue boats.", "No.", "Three.", "Four."]
    assert list(train[REJECTED]) == ["Seven blue votes.", "", None, None]
    assert list(train["speaker"]) == [None, "s", None, None]
    assert train[1]["place"].endswith("line 3")


def test_a_table_of_pairs(folder: Path) -> None:
    path = folder / "pairs.csv"
    path.write_text("audio,chosen,rejected,text,language\n0.wav,Yes.,No.,,en\n1.wav,,,One.,en\n")
    train = PairsCorpus(str(path), str(path)).splits()["train"]
    assert (list(train["text"]), list(train[REJECTED])) == (["Yes.", "One."], ["No.", None])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**PAIR, "audio": "gone.wav"}, r"line 1: there is no audio file .*gone.wav"),
        ({key: PAIR[key] for key in PAIR if key != "audio"}, r"line 1: there is no column 'audio'"),
        ({**PAIR, "audio": ""}, r"line 1: the column 'audio' is empty"),
        ({**PAIR, "rejected": " Seven blue boats."}, r"line 1: chosen and rejected are the same, 'Seven blue boats.'"),
        ({**PAIR, "rejected": None}, r"line 1: 'rejected' is None. A pair has two texts, chosen and rejected"),
        ({key: PAIR[key] for key in PAIR if key != "chosen"}, r"line 1: 'chosen' is None"),
        ({**PAIR, "chosen": 3}, r"line 1: 'chosen' is 3"),
        ({key: PAIR[key] for key in PAIR if key != "language"}, r"line 1 has no language"),
    ],
)
def test_a_bad_pair_is_named(row: dict[str, Any], message: str, folder: Path) -> None:
    path = write(folder, [row])
    with pytest.raises(InputError, match=message):
        PairsCorpus(path, path).splits()


def make_data(corpus: ManifestCorpus, tokens: Tokens, **settings: Any) -> SpeechDataModule:
    data = SpeechDataModule(corpus, tokens, AudioContext(), 60, workers=0, allow_leakage=True, **settings)
    data.prepare()
    return data


def test_pairs_reach_a_batch_beside_replayed_utterances(folder: Path, nano_tokens: Tokens) -> None:
    path = write(folder, [{**PAIR, "audio": f"{index}.wav"} for index in range(3)])
    plain = write(folder, [{"audio": "3.wav", "text": "Three.", "language": "en"}], "plain.jsonl")
    data = make_data(PairsCorpus(path, plain, replay_from=plain), nano_tokens, replay=0.5)
    batches = iter(data.train_dataloader())
    seen = {}
    for _ in range(8):
        batch = next(batches)
        for row, text in enumerate(batch.references):
            labels = batch.rejected_labels
            seen[text] = labels is not None and bool((labels[row] != IGNORED).any())
    assert seen == {"Seven blue boats.": True, "Three.": False}
    other = next(batch for batch in data.train_dataloader() if batch.rejected_labels is not None).as_rejected()
    texts = {nano_tokens.transcript([id for id in row if id >= 0]) for row in other.labels.tolist()}
    assert "Seven blue votes." in texts
    assert next(iter(data.val_dataloader())).rejected_labels is None
    assert torch.equal(other.labels >= 0, other.labels != IGNORED)


def test_a_rejected_text_that_does_not_fit_is_named(folder: Path, nano_tokens: Tokens) -> None:
    path = write(folder, [{**PAIR, "rejected": "xyz " * 448}])
    with pytest.raises(InputError, match=r"line 1: The text has \d+ tokens"):
        make_data(PairsCorpus(path, path), nano_tokens)


def test_a_corpus_without_pairs_is_refused(folder: Path, nano_tokens: Tokens) -> None:
    path = write(folder, [{"audio": "3.wav", "text": "Three.", "language": "en"}])
    for corpus in (ManifestCorpus(path, path), PairsCorpus(path, path)):
        data = make_data(corpus, nano_tokens)
        for objective in (Dpo(), RewardModel()):
            with pytest.raises(InputError, match=r"learns from pairs .* this corpus has none: data=pairs"):
                objective.check(data)
    pairs = make_data(PairsCorpus(write(folder, [PAIR], "p.jsonl"), path), nano_tokens)
    Dpo().check(pairs)
