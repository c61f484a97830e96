"""Replay and the panels that choices are made on: read only where a run needs them, and never from what is scored."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from attune.audio.context import AudioContext
from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.corpora.synthetic import Panel, SyntheticCorpus
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.sentences import sentence_split
from attune.text.tokens import Tokens

VOICE = {"accents": ["en-us"], "variants": ["m1"]}
PANELS = {
    "train": {"utterances": 12, **VOICE},
    "validation": {"utterances": 2, "split": "validation", **VOICE},
    "test": {"utterances": 2, "split": "test", **VOICE},
}
RETENTION = {"us": {"utterances": 2, "split": "test", **VOICE}}
REPLAY = {"utterances": 5, **VOICE}
CHOICE = {"us": {"utterances": 3, "split": "validation", **VOICE}}


@pytest.fixture(scope="module")
def corpus(speech_cache: str) -> SyntheticCorpus:
    return SyntheticCorpus(PANELS, RETENTION, cache_dir=speech_cache, replay=REPLAY, retention_validation=CHOICE)


def make_data(corpus: Any, tokens: Tokens, **settings: Any) -> SpeechDataModule:
    data = SpeechDataModule(corpus, tokens, AudioContext(), 10, workers=0, allow_leakage=True, **settings)
    data.prepare()
    return data


def test_further_splits_are_rendered_only_where_they_are_needed(
    corpus: SyntheticCorpus, nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    load = SyntheticCorpus._load

    def watch(self: SyntheticCorpus, panels: dict[str, Panel]) -> dict[str, Dataset]:
        asked.extend(panels)
        return load(self, panels)

    monkeypatch.setattr(SyntheticCorpus, "_load", watch)
    plain = make_data(corpus, nano_tokens)
    assert sorted(asked) == ["retention/us", "test", "train", "validation"]
    assert plain.panels == ["test", "retention/us"]
    whole = make_data(corpus, nano_tokens, replay=0.3, extras=["retention_validation"])
    assert whole.splits.keys() - plain.splits.keys() == {"replay", "retention_validation/us"}
    assert whole.panels == plain.panels  # what is trained on or chosen on is no result
    assert "replay" in make_data(corpus, nano_tokens, extras=["replay"]).splits


def test_a_share_of_the_training_utterances_is_replayed(corpus: SyntheticCorpus, nano_tokens: Tokens) -> None:
    """12 own and 12 * .25 / .75 = 4 replayed a pass; three passes are 12 of the 5 there are."""
    data = make_data(corpus, nano_tokens, replay=0.25)
    heard: list[str] = []
    for batch in data.train_dataloader():
        heard += batch.ids
        if len(heard) >= 48:
            break
    replayed = [id for id in heard[:48] if id.startswith("replay-")]
    assert len(heard) == 48 and len(replayed) == 12 and len(set(replayed)) == 5
    texts = dict(zip(data.splits["replay"]["id"], data.splits["replay"]["text"], strict=True))
    batch = next(batch for batch in data.train_dataloader() if any(id in texts for id in batch.ids))
    assert all(texts.get(id, reference) == reference for id, reference in zip(batch.ids, batch.references, strict=True))


def test_replay_resumes(corpus: SyntheticCorpus, nano_tokens: Tokens) -> None:
    whole, resumed = (make_data(corpus, nano_tokens, replay=0.25, seed=3) for _ in range(2))
    resumed.load_state_dict({"batches_taken": 4})
    expected = [batch.ids for batch in islice(whole.train_dataloader(), 4, 12)]
    assert [batch.ids for batch in islice(resumed.train_dataloader(), 8)] == expected


def test_nothing_that_is_scored_is_replayed(corpus: SyntheticCorpus, nano_tokens: Tokens) -> None:
    data = make_data(corpus, nano_tokens, replay=0.25, extras=["retention_validation"])
    assert {sentence_split(text) for text in data.splits["replay"]["text"]} == {"train"}
    assert {sentence_split(text) for text in data.splits["retention_validation/us"]["text"]} == {"validation"}
    assert {sentence_split(text) for panel in data.panels for text in data.splits[panel]["text"]} == {"test"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"replay": {**REPLAY, "split": "test"}}, r"replay draws sentences of the split 'test'.*split: train"),
        ({"retention_validation": {"us": {**VOICE, "utterances": 3}}}, r"retention_validation/us .*split: validation"),
        ({"replay": REPLAY, "retention": {"us": {**VOICE, "utterances": 2}}}, r"retention/us .* 'train'.*split: test"),
    ],
)
def test_a_panel_that_could_leak_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticCorpus(PANELS, **changed)


@pytest.mark.parametrize("share", [1.0, -0.1, 20])
def test_a_share_that_is_none(share: float, corpus: SyntheticCorpus, nano_tokens: Tokens) -> None:
    with pytest.raises(InputError, match=r"data.replay=.* must be in \[0, 1\)"):
        SpeechDataModule(corpus, nano_tokens, AudioContext(), replay=share)


def test_a_corpus_without_replay_says_so_before_it_reads_anything(
    nano_tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyntheticCorpus, "_load", lambda *_: pytest.fail("it was read"))
    for settings in ({"replay": 0.1}, {"extras": ["replay"]}):
        data = SpeechDataModule(SyntheticCorpus(PANELS), nano_tokens, AudioContext(), **settings)
        with pytest.raises(InputError, match=r"no split 'replay'.*data.replay_from=FILE"):
            data.prepare()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two splits in one file; the last recording is broken."""
    folder = tmp_path_factory.mktemp("manifest")
    rows = []
    for index, split in enumerate(["train", "train", "validation", "test", "replay", "train"]):
        sound = b"RIFFnonsense" if index == 5 else encode_wav(speak("One two.", Voice()))
        (folder / f"{index}.wav").write_bytes(sound)
        rows.append({"audio": f"{index}.wav", "text": f"Number {index}.", "language": "en", "split": split})
    path = folder / "all.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_manifest_replays_its_training_rows_and_the_audit_hears_them(manifest: Path, nano_tokens: Tokens) -> None:
    path = str(manifest)
    corpus = ManifestCorpus(path, path, path, replay_from=path, retention_validation={"us": path})
    data = make_data(corpus, nano_tokens, replay=0.5, extras=["retention_validation"], max_rejected=0.5)
    assert list(data.splits["replay"]["text"]) == ["Number 0.", "Number 1.", "Number 4."]
    assert list(data.splits["retention_validation/us"]["text"]) == ["Number 2."]
    assert {rejection.split for rejection in data.rejections} == {"train", "replay"}


def test_a_replay_manifest_that_is_not_there(manifest: Path, nano_tokens: Tokens) -> None:
    corpus = ManifestCorpus(str(manifest), str(manifest), replay_from="gone.jsonl")
    with pytest.raises(InputError, match=r"data.replay_from: there is no manifest gone.jsonl"):
        make_data(corpus, nano_tokens, replay=0.1)
