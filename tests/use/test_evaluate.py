"""`attune evaluate`: any model, scored as a run scores its own."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from torch import Tensor

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.model.whisper import Whisper
from attune.report.predictions import predictions_path, read_predictions
from attune.train import scoring
from attune.use.cli import make_parser
from attune.use.commands.evaluate import list_evaluation_words
from attune.use.evaluate import evaluate
from attune.use.formats.registry import FORMATS
from train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    rows = []
    for index, text in enumerate(["One two.", "Three.", "Four five."]):
        (tmp_path / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        rows.append({"audio": f"{index}.wav", "text": text, "language": "en", "accent": "Scottish"})
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return ["data=manifest", *(f"data.{split}={path}" for split in ("train", "validation", "test"))]


def test_it_leaves_what_a_run_leaves(
    nano_folder: Path, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder as a sweep names it; the words that train.py is started with are taken, and the test set heard once."""
    model = tmp_path / "00_finetune=full,it's"
    model.symlink_to(nano_folder)
    given: list[list[str]] = []
    folder = tmp_path / "out"
    words = [*corpus, f"folder={folder}", "logger=csv", "trainer.accelerator=cpu", "name=test"]
    arguments = make_parser().parse_args(["evaluate", str(model), *words])
    with monkeypatch.context() as patch:
        patch.setattr(
            subprocess, "run", lambda words, check: given.append(words) or subprocess.CompletedProcess(words, 0)
        )
        assert arguments.run(arguments) == 0
    assert given[0][:2] == [sys.executable, str(ROOT / "train.py")]

    heard: list[str] = []
    real = scoring.score_panel
    monkeypatch.setattr(scoring, "score_panel", lambda *args, **more: heard.append("panel") or real(*args, **more))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        train(compose("train", given[0][2:], return_hydra_config=True))
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["train"]["steps"] == 0
    assert record["config"]["model"]["name_or_path"] == str(model)
    assert record["result"] == record["baseline"] and set(record["result"]) == {"test", "test@full"}
    assert record["result"]["test"]["utterances"] == 3 and heard == ["panel"] * 2
    assert (folder / "predictions/test.csv").is_file() and (folder / "report.html").is_file()


class Echo:
    """A program that hears the same in everything."""

    name = "echo 1.0"

    def __init__(self, folder: Path):
        self.asked: list[tuple[str, str]] = []

    def transcribe(self, waveform: Tensor, language: str, task: str, max_new_tokens: int) -> str:
        assert waveform.ndim == 1 and max_new_tokens >= 16
        self.asked.append((language, task))
        return "One two."


def test_a_model_of_another_program_has_the_same_report(
    nano_like: Whisper,
    corpus: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, folder = tmp_path / "model", tmp_path / "out"
    nano_like.tokens.tokenizer.save_pretrained(model)
    (model / "model.bin").touch()
    monkeypatch.setitem(FORMATS, "ctranslate2", replace(FORMATS["ctranslate2"], open=Echo))
    words = [*corpus, f"folder={folder}", "logger=csv"]
    arguments = make_parser().parse_args(["evaluate", str(model), *words])
    assert arguments.run(arguments) == 0
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["context"] == "full" and record["versions"]["echo"] == "1.0"
    assert record["config"]["choices"]["data"] == "manifest" and set(record["result"]) == {"test"}
    assert record["result"] == record["baseline"] and record["result"]["test"]["wer"] == pytest.approx(4 / 5)
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "predictions", "report.html", "rejected.csv"}
    assert {row.accent for row in read_predictions(predictions_path(folder, "test"))} == {"Scottish"}
    assert record["loss"] == {}  # nothing was learnt from
    assert f"model: {model}" in capsys.readouterr().out
    with pytest.raises(InputError, match="whose program hears each utterance by itself in a window of 30 s"):
        evaluate(model, "ctranslate2", list_evaluation_words(str(model), [*corpus, "context=audio"]))


@pytest.mark.parametrize(
    "word", ["finetune=lora", "model=small", "model.name_or_path=x", "resume=run", "+model.x=1", "x"]
)
def test_words_that_it_does_not_take(word: str) -> None:
    with pytest.raises(InputError, match=r"is none of its words"):
        list_evaluation_words("nano", ["data=noise", word])
