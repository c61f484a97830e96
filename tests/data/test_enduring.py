"""Files that go while a run is under way, and workers that die: training goes on, and what is scored is complete."""

import json
import logging
import os
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from whispers import make_sound

from attune.audio.context import AudioContext
from attune.audio.waveform import encode_wav
from attune.data.corpora.manifest import ManifestCorpus
from attune.data.enduring import RESTARTS
from attune.data.module import SpeechDataModule
from attune.errors import InputError
from attune.text.tokens import Tokens

UTTERANCES = 8
MakeData = Callable[..., SpeechDataModule]


@pytest.fixture
def make(nano_tokens: Tokens, tmp_path: Path) -> MakeData:
    """(settings of SpeechDataModule) -> one of eight files in tmp_path, 0.wav to 7.wav, prepared."""
    rows = []
    for index in range(UTTERANCES):
        (tmp_path / f"{index}.wav").write_bytes(encode_wav(make_sound(1.0, index)))
        rows.append({"id": str(index), "audio": f"{index}.wav", "text": "one two", "language": "en"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))

    def make(**settings: float) -> SpeechDataModule:
        corpus = ManifestCorpus(str(path), str(path), str(path))
        settings = {"workers": 0, "max_rejected": 0.3, **settings}
        data = SpeechDataModule(corpus, nano_tokens, AudioContext(), allow_leakage=True, **settings)  # type: ignore[arg-type]
        data.prepare()
        return data

    return make


def hear(data: SpeechDataModule, batches: int) -> list[list[str]]:
    return [batch.ids for batch in islice(data.train_dataloader(), batches)]


def test_another_stands_for_a_file_that_goes(make: MakeData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make(batch_window_s=12)
    before, resumed = hear(data, 12), make(batch_window_s=12)
    (tmp_path / "3.wav").unlink()
    with caplog.at_level(logging.WARNING):
        after = hear(data, 12)
    assert any("3" in ids for ids in before)
    for was, ids in zip(before, after, strict=True):
        assert len(set(ids)) == len(ids) == len(was) and "3" not in ids
        assert [id for id in was if id != "3"] == [id for id, old in zip(ids, was, strict=True) if old != "3"]
    assert caplog.text.count("can no longer be read") == 1 and "line 4" in caplog.text
    assert [(each.split, each.id) for each in data.list_rejections()] == [("train", "3")]
    resumed.load_state_dict(data.state_dict())
    assert resumed.list_rejections() == data.list_rejections()


def test_a_batch_of_one_takes_another(make: MakeData, tmp_path: Path) -> None:
    data = make(batch_window_s=3)
    before = hear(data, 16)
    (tmp_path / "3.wav").unlink()
    after = hear(data, 16)
    assert ["3"] in before and len(before) == len(after)
    for was, ids in zip(before, after, strict=True):
        assert len(ids) == 1 and ids != ["3"] and (ids == was or was == ["3"])


def test_too_many_that_go_end_the_run(make: MakeData, tmp_path: Path) -> None:
    data = make()
    for index in range(3):
        (tmp_path / f"{index}.wav").unlink()
    with pytest.raises(InputError, match=r"(?s)3 training utterances can no longer.*data.max_rejected.*resume=RUN"):
        hear(data, 12)


def test_what_is_scored_is_never_left_out(make: MakeData, tmp_path: Path) -> None:
    data = make()
    (tmp_path / "5.wav").unlink()
    with pytest.raises(InputError, match=r"line 6: the audio of 5 .*the score would be another"):
        list(data.val_dataloader())


def test_a_worker_that_dies_costs_no_batch(make: MakeData, caplog: pytest.LogCaptureFixture) -> None:
    expected = hear(make(batch_window_s=6), 12)
    loader = make(batch_window_s=6, workers=2).train_dataloader()
    given = []
    with caplog.at_level(logging.WARNING):
        for batch in islice(loader, 12):
            given.append(batch.ids)
            if len(given) == 3:
                os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
    assert given == expected
    assert "a worker process that decodes audio has died" in caplog.text


@pytest.mark.slow
def test_workers_that_always_die_end_the_run(make: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(workers=1)
    monkeypatch.setattr("attune.data.utterances.load_row", lambda row: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        hear(data, 2)
    assert RESTARTS == 3 and "data.workers" in caught.value.__notes__[0]
