"""What docs/guides/extend.md shows is run: a type, an objective and a reader of one's own, in one run."""

import json
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from whispers import make_sound

from attune.audio.waveform import encode_wav
from train import train

ROOT = Path(__file__).parents[1]
WORDS = ["model=scratch", "model.scratch.width=32", "model.scratch.layers=1", "model.scratch.heads=2", "logger=csv",
         "trainer.max_steps=2", "trainer.validate_every=1", "trainer.accelerator=cpu", "name=test"]  # fmt: skip


def write_files(page: str, folder: Path) -> None:
    """Each block of code goes to the file that its first line names."""
    for name, text in re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


def test_what_the_guide_shows_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files((ROOT / "docs/guides/extend.md").read_text("utf-8"), tmp_path)
    assert len(list(tmp_path.rglob("my_*.py"))) == len(list((tmp_path / "configs").rglob("*.yaml"))) == 3
    for number, split in enumerate(("train", "validation", "test")):
        (tmp_path / "sound" / split).mkdir(parents=True)
        for index, words in enumerate(("one_two", "three")):
            sound = encode_wav(make_sound(1.0 + 0.1 * index, 10 * number + index))
            (tmp_path / "sound" / split / f"{words}.wav").write_bytes(sound)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["finetune=norms", "objective=focal", "data=named", f"data.root={tmp_path / 'sound'}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        found = f"hydra.searchpath=[file://{tmp_path / 'configs'}]"
        config = compose("train", [found, *WORDS, *own, f"folder={tmp_path / 'run'}"], return_hydra_config=True)
    train(config)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished" and 0 < record["parameters"]["trainable"] < 2000
    assert record["result"]["test"]["utterances"] == 2
    for name in ("my_type", "my_objective", "my_reader"):
        sys.modules.pop(name, None)
