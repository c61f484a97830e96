"""Runs that start from one whose CTC head writes: which model is scored before, and what is refused ahead of it."""

import json
from pathlib import Path

import pytest
from test_reinforcement import LOADED, TEXTS
from test_train import SMALL, make_config, write_rows

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.model.finetune.ctc import find_writer
from attune.train.scoring import score_other
from train import train

DECODER = ["finetune=ctc", "finetune.writes=decoder"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A corpus of five utterances."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = [{"audio": f"{index}.wav", "language": "en", "text": text} for index, text in enumerate(TEXTS)]
    for row in rows:
        (folder / row["audio"]).write_bytes(encode_wav(speak(row["text"], Voice())))
    path = write_rows(folder / "texts.jsonl", rows)
    return ["data=manifest", *(f"data.{split}={path}" for split in ("train", "validation", "test"))]


@pytest.fixture(scope="module")
def written_by_head(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "head"
    by_head = ["finetune=ctc", "objective=ctc", "finetune.train=[]"]
    train(make_config(*SMALL, f"folder={folder}", "name=test", *words, *by_head))
    return folder


def test_the_untouched_model_writes_as_it_did(
    written_by_head: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stood in one column with two writers: the decoder at its own context, the head at 30 s."""
    wrote = []
    monkeypatch.setattr(
        "train.score_other", lambda *args: wrote.append(find_writer(args[2].network) is not None) or score_other(*args)
    )
    folder = tmp_path / "run"
    train(make_config(*LOADED, f"model.name_or_path={written_by_head}", f"folder={folder}", "name=x", *words, *DECODER))
    assert wrote == [True, True]
    record = json.loads((folder / "run.json").read_text())
    assert set(record["baseline"]) == {"test", "test@full"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([*DECODER, "interpolate=[.5,1]", "+data.retention.here=TEST"], r"writes by a CTC head .* interpolate=null"),
        (["finetune=new_head", "objective=ctc", "finetune.merges=9"], r"has a CTC head, .* drops the head"),
        (["finetune=decoder", "objective=joint_ctc"], r"Go on with the head \(finetune=ctc\)"),
        (["finetune=decoder", "objective=joint_ctc", "model.name_or_path=nano"], r"add finetune=ctc"),
        (["finetune=ctc", "objective=ctc", "model.name_or_path=nano"], r"teaches the decoder nothing"),
    ],
)
def test_what_no_head_can_do_is_said_before_anything_is_scored(
    more: list[str], message: str, written_by_head: Path, words: list[str], tmp_path: Path
) -> None:
    test = words[-1].partition("=")[2]
    more = [word.replace("=TEST", f"={test}") for word in more]
    start = [f"model.name_or_path={written_by_head}"]
    with pytest.raises(InputError, match=message):
        train(make_config(*LOADED, *start, f"folder={tmp_path / 'run'}", "name=x", *words, *more))
    assert not (tmp_path / "run").exists()
