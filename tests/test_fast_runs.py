"""Whole small runs through train.py: packed windows, stored encoder states, and what is refused."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from train import train

ROOT = Path(__file__).parents[1]
SMALL = [
    "model=scratch", "model.scratch.width=32", "model.scratch.layers=1", "model.scratch.heads=2", "logger=csv",
    "trainer.max_steps=4", "trainer.validate_every=2", "trainer.accelerator=cpu", "name=test",
    "data.allow_leakage=true",
]  # fmt: skip
TEXTS = ["One two.", "Three four.", "Five six seven.", "Eight.", "Nine ten eleven."]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for index, text in enumerate(TEXTS):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        rows.append({"audio": f"{index}.wav", "text": text, "language": "en"})
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return ["data=manifest", *(f"data.{split}={path}" for split in ("train", "validation", "test"))]


def run(folder: Path, *words: str) -> dict:
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*SMALL, f"folder={folder}", *words], return_hydra_config=True)
    train(config)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["train"]["steps"] == 4
    return record


@pytest.mark.parametrize("timestamps", ["true", "false"])
def test_a_packed_run(timestamps: str, corpus: list[str], tmp_path: Path) -> None:
    words = ["context=packed", f"context.timestamps={timestamps}", "context.single_share=0"]
    record = run(tmp_path / "run", *corpus, *words)
    assert record["context"] == "packed"
    assert set(record["result"]) == set(record["baseline"]) == {"test", "test@full"}
    assert record["memory"]["total"] > 0 and record["memory"]["available"] > 0


def test_runs_share_what_a_frozen_encoder_made(corpus: list[str], tmp_path: Path) -> None:
    """The encoder of model=scratch is the seed's: with one seed two types have the same."""
    cache = tmp_path / "cache"
    words = [*corpus, "cache=encoder", f"cache.folder={cache}"]
    record = run(tmp_path / "one", *words, "finetune=decoder", "augment=standard", "cache.draws=2")
    assert record["train"]["mfu"] > 0
    run(tmp_path / "two", *words, "finetune=cross_attention")
    stored = sorted(cache.glob("*/*.bf16"))
    run(tmp_path / "three", *words, "finetune=embeddings", "trainer.accumulate_grad_batches=2")
    assert sorted(cache.glob("*/*.bf16")) == stored and len({path.parent for path in stored}) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune=full"], "of its parameters learn, such as model.encoder"),
        (["finetune=lora"], "of its parameters learn"),
        (["finetune=decoder", "context=packed"], "cache=encoder and context=packed"),
        (["finetune=decoder", "cache.draws=0"], "cache.draws=0"),
    ],
)
def test_what_stored_states_cannot_do_is_said_before_weights_load(
    words: list[str], message: str, corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.obtain_whisper", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run", *corpus, "cache=encoder", *words)
    assert not (tmp_path / "run").exists()
