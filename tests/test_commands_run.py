"""The commands of README, docs and notebooks, carried out: with few utterances, two steps and a small random model.

tests/test_commands.py says in a second whether each would be accepted; this one takes minutes.
"""

import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from test_commands import FOUND, split, take_lowest

from attune.audio.speech import Voice, speak
from attune.audio.waveform import SAMPLE_RATE_HZ, encode_wav
from attune.report import finish
from attune.use import config as use_config
from attune.use.cli import main
from train import train

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SMALL = [
    "logger=csv", "data.allow_leakage=true", "trainer.accelerator=cpu", "trainer.max_steps=2",
    "trainer.validate_every=1", "name=test",
]  # fmt: skip
SIZE = ["model=scratch", "model.scratch.width=32", "model.scratch.layers=2", "model.scratch.heads=2"]
ELSEWHERE = {  # what of a command is not on this machine
    r"data=(common_voice|fleurs|librispeech|hub)": "a corpus that must be fetched",
    r"trainer=|trainer\.devices|trainer\.strategy": "several processes: tests/train/test_distributed_runs.py",
    r"(data\.train=|^)(PAIRS|prefer)|objective\.reward_model": "choices: tests/use/test_prefer.py, test_preferences.py",
    r"FOLDER --to|--push-to|ctranslate2|onnx|ggml": "runtimes: tests/use/test_convert.py",
    r"hydra/(launcher|sweeper)=": "plugins: tests/test_sweep.py",
    r"^(WORDS|\.\.\.|[AB])$|=\.\.\.|NAME": "words of the reader's own",
    r"^-$": "what comes over stdin: tests/use/test_cli.py",
}
KNOWN = {
    r"^runs/.*_(types|ablation)$": "SWEEP",
    r"(?<!=)runs/[\w.=-]+|^\$RUN$": "RUN",
    r"(?<=model.name_or_path=)(RUN|runs/[\w.=-]+)": "RUN/model",
    r"(?<=resume=)runs/[\w.=-]+": "RUN",
    r"\$CORPUS/": "",
    r"^FOLDER$": "NEW",
}
TEXTS = ["One two.", "Three four.", "Five six seven.", "Eight nine.", "Ten eleven twelve.", "Thirteen."]
fork = multiprocessing.get_context("fork")


RUNNABLE = [  # `attune report` names the command and no more
    (page, command) for page, command in FOUND if command.startswith("python") or len(split(command)) > 1
]


def find_reason(words: list[str]) -> str | None:
    return next((why for what, why in ELSEWHERE.items() if any(re.search(what, word) for word in words)), None)


def make_rows(place: Path, name: str) -> Iterator[dict[str, str]]:
    """Recordings of a split, in which another voice says other sentences than in the other splits."""
    for index, text in enumerate(TEXTS):
        said, path = f"{name} {text}", place / f"{name}{index}.wav"
        path.write_bytes(encode_wav(speak(said, Voice(variant="f2" if name == "test" else "m3"))))
        yield {"audio": path.name, "text": said, "language": "en", "dialect": "gsw", "speaker": f"{name}{index % 2}"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the commands name: manifests, a folder of talks, terms, a recording, RUN and runs/."""
    place = tmp_path_factory.mktemp("place")
    for name in ("configs", "train.py"):
        (place / name).symlink_to(ROOT / name)
    (place / "talks").mkdir()
    for index, text in enumerate(TEXTS):
        (place / "talks" / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        (place / "talks" / f"{index}.txt").write_text(text)
    for name in ("train", "dev", "validation", "test", "other_speakers", "a", "b", "other"):
        (place / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in make_rows(place, name)))
    (place / "terms.csv").write_text("term\nseven\neleven\n")
    (place / "terms.txt").write_text("seven\neleven\n")
    for name in ("talk.mp3", "recording.mp3", "interview.flac", "rob_3.wav"):
        soundfile.write(place / name, speak("One two three.", Voice()).numpy(), SAMPLE_RATE_HZ)
    run = fork.Process(target=run_train, args=(["model.name_or_path=nano", "finetune=bias"], place, "RUN"))
    run.start()
    run.join()
    assert run.exitcode == 0
    shutil.copytree(place / "RUN", place / "SWEEP" / "00")
    return place


def find_first(words: list[str]) -> list[str]:
    """The words of a sweep's first run; of a single run, its own."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        said = parser.parse_overrides([take_lowest(word) for word in parser.parse_overrides(words)])
        return BasicSweeper.split_arguments(said, None)[0][0]


def shrink(node: Any) -> None:
    """Of every panel of a corpus no more than eight utterances."""
    for key, value in node.items() if isinstance(node, DictConfig) else ():
        if key == "utterances" and isinstance(value, int):
            node[key] = min(value, 8)
        shrink(value)


def run_train(words: list[str], place: Path, folder: str) -> None:
    """In a process of its own: what `python train.py WORDS` does, in small."""
    os.chdir(place)
    finish._draw = lambda *_: None  # figures have tests of their own, and take seconds
    words = [word for word in words if not re.match(r"-m$|--multirun$|(folder|name|logger|hydra\.sweep\.dir)=", word)]
    if any(word.startswith("resume=") for word in words):
        shutil.copytree("RUN", folder)
        words, more = [f"resume={folder}"], []
    else:
        given = any(word.startswith(("model.name_or_path=", "interpolate=")) for word in words)  # else a random model
        words = [word for word in find_first(words) if not re.match(r"model=|trainer\.(max_steps|validate)", word)]
        more = [*SMALL, *([] if given else SIZE), f"folder={folder}"]
        if any(word.startswith("+finetune.languages.gsw=") for word in words):
            more += ["data.columns.language=dialect"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*words, *more], return_hydra_config=True)
    OmegaConf.set_struct(config, False)
    shrink(config.data)
    if config.data.get("shots"):
        config.data.shots = min(config.data.shots, 4)
    train(config)


def run_attune(words: list[str], place: Path, folder: str) -> None:
    """In a process of its own: what `attune WORDS` does."""
    os.chdir(place)
    real: Callable[..., DictConfig] = use_config.compose_run

    def compose_small(said: list[str]) -> DictConfig:
        config = real(said)
        shrink(config.data)
        return config

    use_config.compose_run = compose_small
    sys.argv = ["attune", *words]
    main()


def replace_names(words: list[str]) -> list[str]:
    """What stands for the reader's own: a run, a folder to read or to write. Of models, only nano is here."""
    words = [word for word in words if not word.startswith("model=")]
    if words[:2] == ["report", "FOLDER"]:
        return ["report", "SWEEP"]
    if words[:2] == ["evaluate", "FOLDER"]:
        words = ["evaluate", "RUN/model", *words[2:]]
    if words[:1] == ["export"]:
        words = [*words, "--max-difference", "100"]  # of eight utterances, one word is two points
    for pattern, name in KNOWN.items():
        words = [re.sub(pattern, name, word) for word in words]
    return words


@pytest.mark.parametrize(("page", "command"), RUNNABLE, ids=[f"{page}: {command[:60]}" for page, command in RUNNABLE])
def test_it_runs(page: str, command: str, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = split(command)
    if reason := find_reason(words):
        pytest.skip(reason)
    folder, before = "NEW", set(place.iterdir())
    target = run_train if command.startswith("python") else run_attune
    process = fork.Process(target=target, args=(replace_names(words), place, folder))
    process.start()
    process.join()
    told, left = capfd.readouterr(), set(place.iterdir()) - before
    record = place / folder / "run.json"
    status = json.loads(record.read_text())["status"] if record.is_file() else None
    for path in left:  # whatever became of this command: the next one writes there too
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert process.exitcode == 0, told.out[-3000:] + told.err[-3000:]
    assert status == "finished" if target is run_train else told.out or left
