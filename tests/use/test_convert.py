"""attune export, whatever the format: compared in its own program, described, pushed only when asked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from apart import in_own_process
from test_export import make_run
from whispers import awaken, make_sound

from attune.audio.speech import Voice, speak
from attune.audio.waveform import encode_wav
from attune.errors import InputError
from attune.model.decode import decode_greedily
from attune.model.save import save_whisper
from attune.model.whisper import Whisper, load_tokens, load_whisper
from attune.use import convert as converting
from attune.use.commands import export as command
from attune.use.convert import convert, push
from attune.use.evaluate import read_tokens
from attune.use.formats.card import find_licence
from attune.use.formats.hf import Pipeline
from attune.use.formats.known import KNOWN_BY, find_format
from attune.use.formats.registry import FORMATS

ROOT = Path(__file__).parents[2]
SAID = ["Seven blue boats.", "The kitchen door was open.", "Nobody had watered the garden since August."]
DIGITS = ROOT.parent / "shared" / "data" / "digits"


def find_absent(to: str) -> list[str]:
    return converting.find_missing((*FORMATS[to].writes_with, *FORMATS[to].runs_with))


RUNTIMES = [
    pytest.param(to, marks=pytest.mark.skipif(bool(find_absent(to)), reason=f"absent: {', '.join(find_absent(to))}"))
    for to in ("ctranslate2", "ggml", "onnx")
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nano that changed nothing, and a test set of three sentences. A random model would not do: it writes
    special tokens, which some programs never write."""
    folder = tmp_path_factory.mktemp("runs")
    rows = []
    for index, text in enumerate(SAID):
        (folder / f"{index}.wav").write_bytes(encode_wav(speak(text, Voice())))
        rows.append({"audio": f"{index}.wav", "text": text, "language": "en"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"data.{split}={folder / 'rows.jsonl'}" for split in ("train", "validation", "test")]
    make_run(folder / "run", "nano", "finetune=none", "data=manifest", *words)
    return folder / "run"


def test_transformers_hears_what_attune_hears(run: Path, tmp_path: Path) -> None:
    done = convert(run, tmp_path / "out", max_difference=0.0)
    assert done.parity is not None and done.parity.differing == []
    assert (done.parity.own.utterances, done.parity.own.words) == (3, 15)
    assert done.parity.runtime.startswith("transformers ")


def test_the_card_says_what_is_known(run: Path, tmp_path: Path) -> None:
    convert(run, tmp_path / "out", utterances=1)
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "automatic-speech-recognition" and head["license"] == "apache-2.0"
    assert "- Data: ManifestCorpus" in card and "- Type: Untouched" in card
    assert "The run has not finished, so it has no score." in card
    assert "on the 1 test utterances (3 words)" in card
    assert str(run) not in card and find_licence("some/model") is None
    assert 'pipeline("automatic-speech-recognition", "FOLDER")' in card


def test_a_program_that_hears_other_things_is_an_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "transcribe", lambda *_: "one two three four five six seven")
    with pytest.raises(InputError, match=r"At most 0.2 points are accepted \(--max-difference\), so nothing was kept"):
        convert(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_program_that_is_absent_is_said(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "find_missing", lambda packages: ["some-program"])
    done = convert(run, tmp_path / "out")
    assert done.parity is None and done.unchecked == "some-program is not installed (attune[export])"


def test_a_test_set_that_is_gone(run: Path, nano_folder: Path, tmp_path: Path) -> None:
    words = [f"data.{split}={tmp_path / 'gone.jsonl'}" for split in ("train", "validation", "test")]
    make_run(tmp_path / "run", nano_folder, "finetune=none", "data=manifest", *words)
    with pytest.raises(InputError, match=r"gone.jsonl.* To export without a comparison: --utterances 0"):
        convert(tmp_path / "run", tmp_path / "out")
    assert convert(tmp_path / "run", tmp_path / "out", utterances=0).parity is None


def test_words_that_do_not_go_together(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--to ggml takes --dtype float16, not float32"):
        convert(run, tmp_path / "out", to="ggml", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_what_a_plain_whisper_cannot_hold_is_refused(nano_folder: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", nano_folder, "finetune=adapter")
    for to in ("ctranslate2", "ggml"):
        with pytest.raises(InputError, match="cannot hold this model: it has parts that a plain Whisper has not"):
            convert(tmp_path / "run", tmp_path / "out", to=to)
        assert not (tmp_path / "out").exists()


def test_every_format_has_a_word(tmp_path: Path) -> None:
    assert tuple(FORMATS) == command.FORMATS and {"hf", *KNOWN_BY} == set(FORMATS)
    assert find_format(tmp_path) is None and find_format(tmp_path / "nothing") is None
    for name, file in KNOWN_BY.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
        assert find_format(tmp_path / name) == name
        with pytest.raises(InputError, match=r"has no tokenizer.json"):
            read_tokens(tmp_path / name)


def test_pushing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a private repository; what the hub says against it is one message."""
    import huggingface_hub

    calls: list[Any] = []

    class Hub:
        def create_repo(self, name: str, **settings: Any) -> str:
            calls.append((name, settings))
            if name == "a/closed":
                raise OSError("401 Unauthorized\nand more")
            return f"https://hub/{name}"

        def upload_folder(self, **settings: Any) -> None:
            calls.append(settings)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push(tmp_path, "a/model") == "https://hub/a/model"
    assert calls[0] == ("a/model", {"private": True, "exist_ok": True}) and calls[1]["folder_path"] == tmp_path
    with pytest.raises(InputError, match=r"--push-to a/closed: the hub did not take .*: 401 Unauthorized Accepted"):
        push(tmp_path, "a/closed")


@pytest.mark.parametrize("to", RUNTIMES)
@in_own_process
def test_other_programs_hear_what_attune_hears(to: str, run: Path, tmp_path: Path) -> None:
    done = convert(run, tmp_path / "out", to=to, max_difference=0.0, utterances=2)
    assert done.parity is not None and done.parity.differing == []


@pytest.mark.parametrize("to", RUNTIMES)
@in_own_process
def test_openais_vocabulary_in_other_programs(to: str, real_tokenizer_whisper: Whisper, tmp_path: Path) -> None:
    """Nothing is laid out anew; what the generation config suppresses is suppressed; a loop ends where ours does."""
    save_whisper(awaken(real_tokenizer_whisper, seed=5), tmp_path / "hf")
    whisper = load_whisper(str(tmp_path / "hf"), load_tokens(str(tmp_path / "hf"))).eval()
    (tmp_path / "out").mkdir()
    FORMATS[to].write(whisper, tmp_path / "out", FORMATS[to].dtypes[0])
    waveform = make_sound(1.5, 1)
    states = whisper.encode(torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform)))[None])
    ids = decode_greedily(whisper, states, [whisper.tokens.prefix("en")], [30])[0]
    written = FORMATS[to].open(tmp_path / "out").transcribe(waveform, "en", "transcribe", 30)
    assert len(ids) == 30 and written == whisper.tokens.transcript(ids)


@pytest.mark.slow
@pytest.mark.skipif(not DIGITS.is_dir(), reason="the recordings of digits are not here")
@in_own_process
def test_digits_in_every_program(tmp_path: Path) -> None:
    """nano, a minute on spoken digits: the same WER in each program that is installed, within 0.2 points."""
    rows = [f"data.{name}={DIGITS / file}.jsonl" for name, file in {"train": "train", "validation": "dev"}.items()]
    words = ["data=manifest", *rows, f"data.test={DIGITS / 'test.jsonl'}", "trainer.max_steps=60", "logger=csv"]
    words += [f"folder={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *words], check=True, cwd=ROOT)
    full = json.loads((tmp_path / "run" / "run.json").read_text())["result"]["test@full"]["wer"]
    for to in FORMATS:
        if find_absent(to):
            continue
        done = convert(tmp_path / "run", tmp_path / to, to=to)
        assert done.parity is not None and done.parity.own.wer == full and abs(done.parity.points) <= 0.2
    exported = str(tmp_path / "hf")
    heads = load_whisper(exported, load_tokens(exported)).network.generation_config.alignment_heads  # type: ignore[union-attr]
    assert heads == [[block, head] for block in (2, 3) for head in range(4)]
