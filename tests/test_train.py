"""train.py as a user meets it: a whole small run, and what it says to bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.use.config import explain
from train import train

ROOT = Path(__file__).parents[1]
SMALL = [
    "model=scratch",
    "model.scratch.width=32",
    "model.scratch.layers=1",
    "model.scratch.heads=2",
    "logger=csv",
    "trainer.max_steps=4",
    "trainer.validate_every=2",
    "trainer.accelerator=cpu",
]


def make_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def run_small(folder: Path, *overrides: str) -> None:
    config = make_config(*SMALL, f"folder={folder}", "name=test", *overrides)
    train(config)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six utterances, one of them broken, and a manifest beside them."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index, text in enumerate(["One two.", "Three four.", "Five six.", "Seven eight.", "Nine ten.", "Broken."]):
        (folder / f"{index}.wav").write_bytes(
            encode_wav(speak(text, Voice())) if text != "Broken." else b"RIFFnonsense"
        )
        rows.append({"audio": f"{index}.wav", "text": text, "speaker": f"s{index % 2}", "language": "en"})
    write_rows(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def manifest_words(path: Path, **changed: Path) -> list[str]:
    return ["data=manifest", *(f"data.{name}={changed.get(name, path)}" for name in ("train", "validation", "test"))]


@pytest.fixture(scope="module")
def finished(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has ended."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_small(folder, *manifest_words(manifest), "data.max_rejected=0.2")
    return folder


def test_a_run_leaves_everything_the_design_promises(finished: Path) -> None:
    folder, record = finished, json.loads((finished / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["train"]["steps"] == 4
    assert set(record["result"]) == set(record["baseline"]) == {"test", "test@full"}
    assert record["result"]["test"]["utterances"] == 5
    assert "is not finished" not in (folder / "report.html").read_text()
    rejected = (folder / "rejected.csv").read_text()
    assert rejected.count("cannot be decoded") == 3 and "train.jsonl, line 6" in rejected
    for name in ("config.yaml", "metrics.csv", "report.html", "predictions/test@full.csv", "figures/log_mel.png"):
        assert (folder / name).stat().st_size > 0
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(folder / "model")
    assert model.generate(torch.zeros(1, 80, 3000), language="en", max_new_tokens=4).shape[0] == 1


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, without Jupyter."""
    monkeypatch.setenv("ATTUNE_RUN", str(finished))
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells and all(not cell["outputs"] for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)


def test_a_run_is_never_written_over(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder=.* exists.*resume="):
        run_small(tmp_path, *manifest_words(manifest))


def test_too_many_broken_utterances_stop_the_run(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 of 6 utterances of train .* data.max_rejected=0.05(.|\n)*line 6"):
        run_small(tmp_path / "run", *manifest_words(manifest))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio": "gone.wav", "text": "x", "language": "en"}, r"bad.jsonl, line 1: there is no audio file .*gone.wav"),
        ({"audio": "0.wav", "sentence": "x", "language": "en"}, r"no column 'text'.*sentence"),
        ({"audio": "0.wav", "text": "x", "language": "englsh"}, r"line 1: Whisper knows no language 'englsh'.*english"),
        ({"audio": "0.wav", "text": "x"}, r"line 1 has no language.*data.language"),
        ({"audio": "0.wav", "text": "xyz " * 448, "language": "en"}, r"line 1: The text has \d+ tokens.*448"),
    ],
)
def test_a_bad_row_ends_the_run_before_weights_load(
    row: dict, message: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    bad = write_rows(manifest.parent / "bad.jsonl", [row])
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *manifest_words(manifest, train=bad))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=nowhere.jsonl"], r"data.train: there is no manifest nowhere.jsonl"),
        (["model.scratch=null", "model.name_or_path=./nowhere"], r"model.name_or_path: there is no folder ./nowhere"),
        (
            ["model.scratch=null", f"model.name_or_path={ROOT / 'configs'}"],
            r"is no model folder: it has no config.json",
        ),
    ],
)
def test_a_path_that_leads_nowhere(words: list[str], message: str, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run_small(tmp_path / "run", *manifest_words(manifest), *words)


def test_an_empty_split(manifest: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(InputError, match=r"data.test: .*empty.jsonl holds no utterance"):
        run_small(tmp_path / "run", *manifest_words(manifest, test=empty))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.max_step=3", r"no config key 'trainer.max_step'. Nearest: max_steps"),
        ("finetune=lorra", r"no finetune=lorra. Nearest: lora"),
        ("dat=accent", r"dat"),
    ],
)
def test_a_mistyped_word_names_the_nearest(word: str, message: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # Hydra's own classes; the words are what matters
        make_config(word)
    assert re.search(message, explain(caught.value))


def test_one_message_and_no_traceback() -> None:
    words = ["data=manifest", "data.train=a.jsonl", "data.validation=b.jsonl"]
    result = subprocess.run(
        [sys.executable, "train.py", "model=scratch", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "attune: data.train: there is no manifest a.jsonl. Give a .jsonl, .csv, .tsv file."
    ]
